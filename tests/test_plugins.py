"""Rules of other packages: found by their entry point, switched on by the config, and part of the policy."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from notifygate import ConfigError, Email, Gateway, Message, Outcome
from notifygate import config as configs

EXAMPLE = Path(__file__).parent.parent / "examples" / "blackout_rule"
BASE = """\
[gateway]
ledger = "sqlite:///ledger.db"
broker = "none"
[channels.email]
driver = "null"
[merchants.shop]
name = "The shop"
kind = "shop"
email_from = "The shop <news@shop.example>"
[purposes.newsletter]
class = "marketing"
permission = ["consent"]
[purposes.order_update]
class = "service"
permission = "none"
"""
CHRISTMAS = datetime(2026, 12, 24, 10, 0, tzinfo=UTC)

WriteConfig = Callable[[str], Path]


@pytest.fixture
def write_config(tmp_path: Path) -> WriteConfig:
    def write(rules: str) -> Path:
        path = tmp_path / "notifygate.toml"
        path.write_text(BASE + rules, encoding="utf-8")
        return path

    return write


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Put a package on the path as an installer would: its module, and the metadata with its entry points."""

    def install(entry: str, source: str | None = None) -> None:
        folder = tmp_path / "site"
        metadata = folder / "plugin_under_test-1.0.dist-info"
        metadata.mkdir(parents=True)
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin-under-test\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[notifygate.rules]\n{entry}\n")
        if source is not None:
            (folder / "plugin_under_test.py").write_text(source)
        monkeypatch.syspath_prepend(str(folder))
        monkeypatch.syspath_prepend(str(EXAMPLE))

    yield install
    sys.modules.pop("plugin_under_test", None)
    sys.modules.pop("notifygate_blackout", None)


def newsletter() -> Message:
    return Message(
        merchant="shop", purpose="newsletter", content=Email("a@example.dk", "Hello", text="News.")
    )


def test_the_example_defers_marketing_and_nothing_else(
    install: Callable[[str], None], write_config: WriteConfig
) -> None:
    install("blackout = notifygate_blackout:RULE")
    path = write_config('[rules.blackout]\ndays = ["2026-12-24", "2026-12-25"]\n')
    now = [CHRISTMAS]
    with Gateway.open(path, clock=lambda: now[0]) as gate:
        gate.consent.grant("email:a@example.dk", party="shop", purpose="newsletter")
        receipt = gate.submit(newsletter())
        service = Message(
            merchant="shop", purpose="order_update", content=Email("a@example.dk", "Hi", text="On its way.")
        )
        assert gate.check(service).outcome is Outcome.ALLOW
        gate.drain()
        explained = gate.explain(receipt.message_id)
        assert explained.decision is not None
        assert (explained.status, explained.decision.reasons) == ("deferred", ("blackout",))
        assert explained.decision.until == datetime(2026, 12, 26, tzinfo=UTC)
        assert "blackout" in gate.log.policy(explained.decision.policy).text
        now[0] = datetime(2026, 12, 26, tzinfo=UTC)
        gate.drain()
        assert gate.status(receipt.message_id) == "sent"


def test_installing_alone_changes_nothing(install: Callable[[str], None], write_config: WriteConfig) -> None:
    path = write_config("")
    before = configs.load(path).policy.hash
    install("blackout = notifygate_blackout:RULE")
    assert configs.load(path).policy.hash == before


def test_settings_are_part_of_the_policy(install: Callable[[str], None], write_config: WriteConfig) -> None:
    install("blackout = notifygate_blackout:RULE")
    hashes = {
        configs.load(write_config(f"[rules.blackout]\ndays = {days}\n")).policy.hash
        for days in ('["2026-12-24"]', '["2026-12-25"]')
    }
    assert len(hashes) == 2


@pytest.mark.parametrize(
    ("entry", "rules", "problem"),
    [
        ("blackout = notifygate_blackout:RULE", "[rules.blackuot]\n", "there is blackout"),
        ("blackout = notifygate_blackout:RULE", "[rules.consent]\n", "built-in rule"),
        ("blackout = notifygate_blackout:RULE", "[rules.blackout]\n", "days: must be a list of dates"),
        ("blackout = notifygate_blackout:RULE", '[rules.blackout]\nday = "x"\n', "day: unknown key"),
        ("blackout = notifygate_blackout:missing", "[rules.blackout]\n", "cannot be loaded (AttributeError)"),
        ("blackout = no_such_module:RULE", "[rules.blackout]\n", "cannot be loaded (ModuleNotFoundError)"),
        ("blackout = notifygate_blackout:check", "[rules.blackout]\n", "must be a PluginRule"),
    ],
)
def test_a_rule_that_cannot_be_used_is_a_fault_of_the_config(
    install: Callable[[str], None], write_config: WriteConfig, entry: str, rules: str, problem: str
) -> None:
    install(entry)
    with pytest.raises(ConfigError) as caught:
        configs.load(write_config(rules))
    (fault,) = caught.value.faults
    assert fault.key.startswith("rules.")
    assert problem in fault.problem


def test_a_rule_that_raises_denies_and_is_named(
    install: Callable[..., None], write_config: WriteConfig
) -> None:
    source = (
        "from notifygate.plugins import PluginRule\n"
        "def check(request, snapshot, policy, now):\n"
        "    raise ZeroDivisionError\n"
        "RULE = PluginRule(check=check)\n"
    )
    install("broken = plugin_under_test:RULE", source)
    with Gateway.open(write_config("[rules.broken]\n"), clock=lambda: CHRISTMAS) as gate:
        gate.consent.grant("email:a@example.dk", party="shop", purpose="newsletter")
        decision = gate.check(newsletter())
    assert (decision.outcome, decision.reasons) == (Outcome.DENY, ("rule_error",))
    assert [finding.rule for finding in decision.determining] == ["broken"]
