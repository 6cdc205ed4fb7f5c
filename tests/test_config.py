"""The config layer: what loads, what does not, and that every fault is at its key and says what is right."""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from datetime import time, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from notifygate.config import (
    TEMPLATE,
    Config,
    FileSettings,
    HttpSettings,
    KannelSettings,
    SmtpSettings,
    load,
    values,
)
from notifygate.errors import ConfigError, ConfigFault
from notifygate.policy import Accepts, Cap, Limit, MerchantKind, Over, Per, PurposeClass

# DESIGN.md section 9, as it stands there.
SAMPLE = """
[gateway]
ledger = "sqlite:///notifygate.db"        # or postgresql+psycopg://...
broker = "embedded"                       # or redis://..., rediss://..., amqp://..., or "none" (only drain() works messages off)
default_region = "DK"
default_timezone = "Europe/Copenhagen"

[channels.email]
driver = "smtp"                           # smtp | file | console | null
host = "localhost"
port = 25
tls = "none"                              # none | starttls | tls
[channels.sms]
driver = "http"                           # http (templated; fits most gateways) | kannel | ... | file | console | null
url = "http://localhost:13013/cgi-bin/sendsms"

[groups.interflora]
name = "Interflora"

[merchants.cykelpartner]
name = "Cykelpartner.dk"
kind = "shop"
asks_for_reviews = true
email_from = "Cykelpartner <hej@cykelpartner.example>"
sms_sender = "Cykelpartn"
[merchants.postdanmark]
name = "Post Danmark"
kind = "carrier"
email_from = "Post Danmark <pakke@postdanmark.example>"
sms_sender = "PostDanmark"

[purposes.order_update]
class = "service"
permission = "none"
[purposes.newsletter]
class = "marketing"
permission = ["consent", "soft_opt_in"]
dedupe = "24h"
caps = [{ limit = 2, window = "7d", per = "merchant" }, { limit = 5, window = "7d", per = "person" }]
quiet_hours = "evenings"
[purposes.review_request]
class = "review"
permission = ["consent", "soft_opt_in"]
quiet_hours = "evenings"

[quiet_hours.evenings]
allow = { mon-sat = "09:00-20:00" }       # nothing on Sundays
holidays = true

[review_requests]
asks_per_purchase = 1
per_person = { limit = 1, window = "30d" }
per_person_and_merchant = { limit = 1, window = "180d" }
precedence = ["shop", "platform", "carrier"]
yield = "deny"
delay = "7d"
delay_without_delivery = "30d"
expires = "60d"
"""  # noqa: E501  # word for word

SECRET = "hunter2-hunter2"
DAY = timedelta(days=1)

Load = Callable[..., Config]


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("NOTIFYGATE_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def load_text(tmp_path: Path) -> Load:
    def load_it(text: str) -> Config:
        path = tmp_path / "notifygate.toml"
        path.write_text(text, encoding="utf-8")
        return load(path)

    return load_it


def edited(*edits: tuple[str, Any], without: str | None = None) -> str:
    """The sample with keys set (`a.b.c`; names hold no dots here), as TOML text."""
    tree = tomllib.loads(SAMPLE)
    for key, value in edits:
        *tables, last = key.split(".")
        here = tree
        for table in tables:
            here = here.setdefault(table, {})
        here[last] = value
    if without is not None:
        *tables, last = without.split(".")
        here = tree
        for table in tables:
            here = here[table]
        del here[last]
    return to_toml(tree)


def to_toml(tree: Mapping[str, Any]) -> str:
    return "\n".join(f"{json.dumps(key)} = {_value(value)}" for key, value in tree.items())


def _value(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{json.dumps(key)} = {_value(inner)}" for key, inner in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def faults_of(load_it: Callable[[], Any]) -> list[ConfigFault]:
    with pytest.raises(ConfigError) as caught:
        load_it()
    faults = list(caught.value.faults)
    for fault in faults:
        text = str(fault)
        assert not re.search(r"pydantic|Extra inputs|Input should|Value error|https://errors", text), text
    return faults


def only_fault(load_it: Callable[[], Any]) -> ConfigFault:
    faults = faults_of(load_it)
    assert len(faults) == 1, faults
    return faults[0]


# --- what loads ---------------------------------------------------------------------------------------------


def test_the_sample_of_the_design_loads_as_it_stands(load_text: Load, tmp_path: Path) -> None:
    config = load_text(SAMPLE)
    gateway = config.settings.gateway
    assert config.source == tmp_path / "notifygate.toml"
    assert gateway.ledger == f"sqlite:///{tmp_path}/notifygate.db"
    assert (gateway.broker, gateway.default_region) == ("embedded", "DK")
    assert gateway.data_dir == tmp_path / ".notifygate"
    assert isinstance(config.settings.email, SmtpSettings)
    assert (config.settings.email.host, config.settings.email.port, config.settings.email.tls) == (
        "localhost",
        25,
        "none",
    )
    assert isinstance(config.settings.sms, HttpSettings)
    assert config.settings.sender("postdanmark", "sms") == "PostDanmark"
    assert config.settings.sender("cykelpartner", "email") == "Cykelpartner <hej@cykelpartner.example>"
    assert config.settings.sender("nobody", "email") is None


def test_the_sample_of_the_design_yields_its_policy(load_text: Load) -> None:
    policy = load_text(SAMPLE).policy
    assert policy.merchants["cykelpartner"].kind is MerchantKind.SHOP
    assert policy.merchants["cykelpartner"].asks_for_reviews
    assert not policy.merchants["postdanmark"].asks_for_reviews
    assert policy.groups["interflora"].name == "Interflora"
    assert policy.default_timezone == "Europe/Copenhagen"
    assert policy.default_country == "DK"
    newsletter = policy.purposes["newsletter"]
    assert newsletter.purpose_class is PurposeClass.MARKETING
    assert newsletter.accepts == {Accepts.CONSENT, Accepts.SOFT_OPT_IN}
    assert newsletter.dedupe == DAY
    assert newsletter.caps == (
        Cap(limit=2, window=7 * DAY, per=Per.MERCHANT),
        Cap(limit=5, window=7 * DAY, per=Per.PERSON),
    )
    assert policy.purposes["order_update"].accepts == frozenset()
    hours = policy.quiet_hours["evenings"]
    assert hours.holidays
    assert dict(hours.allow) == {day: ((time(9), time(20)),) for day in range(6)}
    review = policy.review_requests
    assert review.per_person == Limit(limit=1, window=30 * DAY)
    assert review.per_person_and_merchant == Limit(limit=1, window=180 * DAY)
    assert review.precedence == (MerchantKind.SHOP, MerchantKind.PLATFORM, MerchantKind.CARRIER)
    assert review.yield_for is None
    assert (review.delay, review.delay_without_delivery, review.expires) == (7 * DAY, 30 * DAY, 60 * DAY)
    assert "trustpilot.com" in policy.review_domains
    assert policy.promotion_markers == ()


def test_what_is_left_out_has_its_default(load_text: Load, tmp_path: Path) -> None:
    config = load_text(
        '[merchants.shop]\nname = "Shop"\nkind = "shop"\n'
        '[purposes.news]\nclass = "service"\npermission = "none"\n'
    )
    gateway, delivery = config.settings.gateway, config.settings.delivery
    assert gateway.ledger == f"sqlite:///{tmp_path}/notifygate.db"
    assert (gateway.broker, gateway.default_region, gateway.default_timezone) == ("embedded", None, None)
    assert gateway.secret is None
    assert (config.settings.email, config.settings.sms) == (None, None)
    assert delivery.max_attempts == 32
    assert (delivery.retry_after, delivery.retry_at_most) == (timedelta(seconds=30), timedelta(hours=1))
    assert (delivery.lease, delivery.requeue_after) == (timedelta(minutes=5), timedelta(seconds=60))
    assert config.policy.review_requests.per_person == Limit(limit=1, window=30 * DAY)
    assert config.policy.purposes["news"].neutral_within == 14 * DAY


def test_the_template_loads_without_notes_and_sends_nothing_out(load_text: Load, tmp_path: Path) -> None:
    config = load_text(TEMPLATE)
    assert config.settings.email == FileSettings(driver="file", path=tmp_path / "outbox.jsonl")
    assert isinstance(config.settings.sms, FileSettings)
    assert set(config.policy.purposes) == {"order_update", "newsletter", "review_request"}
    assert {merchant.kind for merchant in config.policy.merchants.values()} == {
        MerchantKind.SHOP,
        MerchantKind.CARRIER,
    }
    assert config.notes == ()


def test_what_the_template_shows_commented_out_loads_as_well(load_text: Load) -> None:
    text = TEMPLATE.replace('driver = "file"\npath = "outbox.jsonl"\n', "")
    for line in re.findall(r"^# (?:\w+ = .*|\[[\w.]+\])$", text, re.MULTILINE):
        if "ledger" not in line and "broker" not in line and "_file" not in line and "username" not in line:
            text = text.replace(line, line[2:], 1)
    config = load_text(text)
    assert isinstance(config.settings.email, SmtpSettings)
    assert isinstance(config.settings.sms, HttpSettings)
    assert config.settings.delivery.max_attempts == 32
    assert config.settings.footers["da"].startswith("{merchant}")
    assert "mygroup" in config.policy.groups


def test_without_an_argument_the_variable_names_the_file_else_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notifygate.toml").write_text(SAMPLE)
    assert load().source == tmp_path / "notifygate.toml"
    other = tmp_path / "other.toml"
    other.write_text(SAMPLE)
    monkeypatch.setenv("NOTIFYGATE_CONFIG", str(other))
    assert load().source == other
    assert load(str(tmp_path / "notifygate.toml")).source == tmp_path / "notifygate.toml"


def test_relative_paths_start_from_the_folder_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "etc"
    folder.mkdir()
    (folder / "secret.txt").write_text(f"{SECRET}\n")
    (folder / "n.toml").write_text(
        edited(
            ("gateway.ledger", "sqlite:///data/ledger.db"),
            ("gateway.data_dir", "data"),
            ("gateway.secret_file", "secret.txt"),
            ("channels.email", {"driver": "file", "path": "out/mail.jsonl"}),
        )
    )
    from_elsewhere = load(folder / "n.toml")
    monkeypatch.chdir(folder)
    for config in (from_elsewhere, load("n.toml")):
        gateway = config.settings.gateway
        assert gateway.ledger == f"sqlite:///{folder}/data/ledger.db"
        assert gateway.data_dir == folder / "data"
        assert gateway.secret is not None
        assert gateway.secret.get_secret_value() == SECRET
        assert config.settings.email == FileSettings(driver="file", path=folder / "out/mail.jsonl")


@pytest.mark.parametrize(
    ("url", "held"),
    [
        ("sqlite:////var/lib/n.db", "sqlite:////var/lib/n.db"),
        ("postgresql://u@h/db", "postgresql+psycopg://u@h/db"),
        (
            "postgres://u:p%40w@h:5433/db?sslmode=require",
            "postgresql+psycopg://u:p%40w@h:5433/db?sslmode=require",
        ),
        ("postgresql+psycopg://u@h/db", "postgresql+psycopg://u@h/db"),
    ],
)
def test_ledger_urls_are_made_whole(load_text: Load, url: str, held: str) -> None:
    assert load_text(edited(("gateway.ledger", url))).settings.gateway.ledger == held


@pytest.mark.parametrize(
    "url",
    [
        "none",
        "embedded",
        "redis://h",
        "redis://:p@h:6379/1",
        "rediss://u:p@h/0",
        "unix:///run/redis.sock",
        "amqp://h",
        "amqps://u:p@h/v",
    ],
)
def test_brokers_that_are_known(load_text: Load, url: str) -> None:
    assert load_text(edited(("gateway.broker", url))).settings.gateway.broker == url


@pytest.mark.parametrize("listen", ["127.0.0.1:9464", "[::1]:9464", "localhost:1", "10.0.0.7:65535"])
def test_an_endpoint_for_monitoring_is_an_address_and_a_port(load_text: Load, listen: str) -> None:
    found = load_text(edited(("monitoring.listen", listen))).settings.monitoring.listen
    assert str(found) == listen


def test_nothing_is_monitored_and_logs_are_text_unless_the_config_says_so(load_text: Load) -> None:
    monitoring = load_text(SAMPLE).settings.monitoring
    assert (monitoring.listen, monitoring.log_format) == (None, "text")


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql+psycopg://u:hunter2@h/db", "postgresql+psycopg://u:***@h/db"),
        ("postgresql+psycopg://u:hun@ter/2@h/db", "postgresql+psycopg://u:***@h/db"),
        (
            "postgresql+psycopg://u@h/db?password=hunter2&sslmode=a",
            "postgresql+psycopg://u@h/db?password=***&sslmode=a",
        ),
        ("redis://:hunter2@h:6379/0", "redis://:***@h:6379/0"),
        ("unix:///run/r.sock?password=hunter2", "unix:///run/r.sock?password=***"),
        ("sqlite:////var/lib/n.db", "sqlite:////var/lib/n.db"),
        ("embedded", "embedded"),
    ],
)
def test_urls_are_shown_without_their_passwords(url: str, shown: str) -> None:
    assert values.masked(url) == shown


def test_settings_never_show_a_password(load_text: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFYGATE_CHANNELS__EMAIL__PASSWORD", SECRET)
    monkeypatch.setenv("NOTIFYGATE_CHANNELS__SMS__SECRETS__API_KEY", SECRET)
    monkeypatch.setenv("NOTIFYGATE_GATEWAY__SECRET", SECRET)
    config = load_text(
        edited(
            ("gateway.ledger", f"postgresql://u:{SECRET}@h/db"),
            ("gateway.broker", f"redis://:{SECRET}@h/0"),
            ("channels.email.username", "anna"),
        )
    )
    assert SECRET not in repr(config)
    assert SECRET not in config.settings.gateway.ledger_shown + config.settings.gateway.broker_shown
    assert SECRET in config.settings.gateway.ledger
    assert SECRET not in config.policy.text


# --- the environment ----------------------------------------------------------------------------------------


def test_the_environment_wins_over_the_file(load_text: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFYGATE_GATEWAY__LEDGER", "postgresql://u@h/db")
    monkeypatch.setenv("NOTIFYGATE_CHANNELS__EMAIL__PORT", "2525")
    monkeypatch.setenv("NOTIFYGATE_PURPOSES__NEWSLETTER__DEDUPE", "48h")
    monkeypatch.setenv("NOTIFYGATE_PURPOSES__NEWSLETTER__CAPS", '[{"limit":1,"window":"1d","per":"group"}]')
    monkeypatch.setenv("NOTIFYGATE_QUIET_HOURS__EVENINGS__HOLIDAYS", "false")
    monkeypatch.setenv("NOTIFYGATE_REVIEW_REQUESTS__YIELD", "14d")
    monkeypatch.setenv("NOTIFYGATE_MERCHANTS__CYKELPARTNER__NAME", "1234")
    monkeypatch.setenv("NOTIFYGATE_GATEWAY__BROKER", "")
    config = load_text(SAMPLE)
    assert config.settings.gateway.ledger == "postgresql+psycopg://u@h/db"
    assert config.settings.gateway.broker == "embedded"
    assert isinstance(config.settings.email, SmtpSettings)
    assert config.settings.email.port == 2525
    assert config.policy.purposes["newsletter"].dedupe == 2 * DAY
    assert config.policy.purposes["newsletter"].caps == (Cap(limit=1, window=DAY, per=Per.GROUP),)
    assert not config.policy.quiet_hours["evenings"].holidays
    assert config.policy.review_requests.yield_for == 14 * DAY
    assert config.policy.merchants["cykelpartner"].name == "1234"


def test_a_driver_from_the_environment_leaves_the_keys_of_the_old_one_aside(
    load_text: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFYGATE_CHANNELS__EMAIL__DRIVER", "file")
    monkeypatch.setenv("NOTIFYGATE_CHANNELS__EMAIL__PATH", "/tmp/mail.jsonl")
    assert load_text(SAMPLE).settings.email == FileSettings(driver="file", path=Path("/tmp/mail.jsonl"))
    assert only_fault(lambda: load_text(edited(("channels.email.hots", "x")))).key == "channels.email.hots"


@pytest.mark.parametrize(
    ("name", "value", "key", "text"),
    [
        ("NOTIFYGATE_GATEWAY__DEFAULT_TIMEZONE", "Mars", "gateway.default_timezone", "IANA"),
        ("NOTIFYGATE_GATEWAY__LEGDER", "x", "gateway.legder", 'did you mean "ledger"?'),
        ("NOTIFYGATE_GATWAY__LEDGER", "x", "gatway.ledger", "NOTIFYGATE_GATWAY__LEDGER"),
        ("NOTIFYGATE_GATEWAY", "x", "gateway", "must be a table"),
        ("NOTIFYGATE_CHANNELS__EMAIL__PORT", "many", "channels.email.port", "whole number"),
        ("NOTIFYGATE_MERCHANTS__CYKELPARTNER__KIND", "x", "merchants.cykelpartner.kind", '"shop"'),
        ("NOTIFYGATE_PURPOSES__NEWSLETTER__CAPS", '[{"limit":1}', "purposes.newsletter.caps", "a list"),
        (
            "NOTIFYGATE_PURPOSES__NEWSLETTER__CAPS",
            '[{"limit":0,"window":"1d","per":"person"}]',
            "purposes.newsletter.caps[0].limit",
            "at least 1",
        ),
    ],
)
def test_a_bad_value_from_the_environment_is_said_to_come_from_there(
    load_text: Load, monkeypatch: pytest.MonkeyPatch, name: str, value: str, key: str, text: str
) -> None:
    monkeypatch.setenv(name, value)
    fault = only_fault(lambda: load_text(SAMPLE))
    assert fault.key == key
    assert text in fault.problem
    assert "from the environment" in fault.problem


def test_other_variables_with_the_prefix_are_left_alone(
    load_text: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NOTIFYGATE_LOG_LEVEL", "debug")
    load_text(SAMPLE)


# --- secrets ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [SECRET, "12345", '{"a": 1}', "[1]", "true", "null"])
def test_secrets_come_from_the_environment_as_they_are(
    load_text: Load, monkeypatch: pytest.MonkeyPatch, secret: str
) -> None:
    monkeypatch.setenv("NOTIFYGATE_CHANNELS__EMAIL__PASSWORD", secret)
    monkeypatch.setenv("NOTIFYGATE_CHANNELS__SMS__SECRETS__API_KEY", secret)
    monkeypatch.setenv("NOTIFYGATE_GATEWAY__SECRET", secret)
    found = load_text(edited(("channels.email.username", "anna"))).settings
    assert isinstance(found.email, SmtpSettings)
    assert isinstance(found.sms, HttpSettings)
    assert found.email.password is not None
    assert found.email.password.get_secret_value() == secret
    assert found.sms.secrets["api_key"].get_secret_value() == secret
    assert found.gateway.secret is not None
    assert found.gateway.secret.get_secret_value() == secret


def test_secrets_come_from_files_stripped_and_the_environment_wins(
    load_text: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "s.txt").write_text(f"  {SECRET}\n")
    text = edited(
        ("channels.sms.username", "anna"),
        ("channels.sms.password_file", "s.txt"),
        ("channels.sms.secrets_files", {"api_key": "s.txt", "other": "s.txt"}),
    )
    monkeypatch.setenv("NOTIFYGATE_CHANNELS__SMS__SECRETS__OTHER", "else")
    sms = load_text(text).settings.sms
    assert isinstance(sms, HttpSettings)
    assert sms.password is not None
    assert sms.password.get_secret_value() == SECRET
    assert {name: secret.get_secret_value() for name, secret in sms.secrets.items()} == {
        "api_key": SECRET,
        "other": "else",
    }
    monkeypatch.setenv("NOTIFYGATE_CHANNELS__SMS__PASSWORD", "else")
    sms = load_text(text).settings.sms
    assert isinstance(sms, HttpSettings)
    assert sms.password is not None
    assert sms.password.get_secret_value() == "else"


def test_kannel_takes_its_password_from_a_file(load_text: Load, tmp_path: Path) -> None:
    (tmp_path / "s.txt").write_text(SECRET)
    table = {"driver": "kannel", "url": "http://h/sendsms", "username": "u", "password_file": "s.txt"}
    sms = load_text(edited(("channels.sms", table))).settings.sms
    assert isinstance(sms, KannelSettings)
    assert sms.password is not None
    assert sms.password.get_secret_value() == SECRET


@pytest.mark.parametrize(
    ("edits", "key", "instead"),
    [
        (
            [("channels.email.username", "anna"), ("channels.email.password", SECRET)],
            "channels.email.password",
            "NOTIFYGATE_CHANNELS__EMAIL__PASSWORD, or password_file",
        ),
        (
            [("channels.sms.secrets", {"api_key": SECRET})],
            "channels.sms.secrets.api_key",
            "NOTIFYGATE_CHANNELS__SMS__SECRETS__API_KEY, or secrets_files.api_key",
        ),
        ([("channels.sms.secrets", SECRET)], "channels.sms.secrets", "secrets_files"),
        ([("gateway.secret", SECRET)], "gateway.secret", "NOTIFYGATE_GATEWAY__SECRET, or secret_file"),
    ],
)
def test_a_secret_in_the_file_is_a_fault_that_does_not_repeat_it(
    load_text: Load, edits: list[tuple[str, Any]], key: str, instead: str
) -> None:
    fault = only_fault(lambda: load_text(edited(*edits)))
    assert fault.key == key
    assert "secrets are not written in the config" in fault.problem
    assert instead in fault.problem
    assert SECRET not in str(fault)


@pytest.mark.parametrize("content", [None, b" \n", b"\xff\xfe"])
def test_a_secret_file_that_is_of_no_use_is_a_fault(
    load_text: Load, tmp_path: Path, content: bytes | None
) -> None:
    if content is not None:
        (tmp_path / "s.txt").write_bytes(content)
    for key, username in (
        ("gateway.secret_file", None),
        ("channels.email.password_file", "channels.email.username"),
        ("channels.sms.secrets_files.api_key", None),
    ):
        text = edited((key, "s.txt"), *([(username, "anna")] if username else []))
        fault = only_fault(partial(load_text, text))
        assert fault.key == key
        assert str(tmp_path / "s.txt") in fault.problem


SENSITIVE = [
    "gateway.ledger",
    "gateway.broker",
    "gateway.secret",
    "channels.email.password",
    "channels.email.host",
    "channels.sms.password",
    "channels.sms.url",
    "channels.sms.secrets",
    "channels.sms.headers",
    "channels.sms.query",
    "channels.sms.json",
    "channels.sms.body",
    "merchants.cykelpartner.email_from",
]


@pytest.mark.parametrize("key", SENSITIVE)
@pytest.mark.parametrize(
    "shape",
    [
        f"mysql://u:{SECRET}@h/db",
        f"redis://u:{SECRET}@h:port/0",
        f"http://u:{SECRET}@[h/",
        f"{SECRET} {SECRET}",
        [SECRET],
        {"x": [SECRET]},
        {"bad name": f"{SECRET}\n"},
    ],
)
def test_no_fault_ever_repeats_what_may_be_secret(load_text: Load, key: str, shape: object) -> None:
    try:
        load_text(edited((key, shape), ("gateway.nope", 1)))
    except ConfigError as error:
        chain: BaseException | None = error
        while chain is not None:
            assert SECRET not in f"{chain!r} {chain}"
            chain = chain.__cause__ or (None if chain.__suppress_context__ else chain.__context__)


# --- faults -------------------------------------------------------------------------------------------------

BASE = "purposes.newsletter"

FAULTS: list[tuple[list[tuple[str, Any]], str, str]] = [
    # unknown keys, everywhere
    ([("gatway", {})], "gatway", 'unknown key; did you mean "gateway"?'),
    ([("gateway.legder", "x")], "gateway.legder", 'did you mean "ledger"?'),
    ([("channels.fax", {"driver": "file"})], "channels.fax", "known here: email, sms"),
    ([("channels.email.hosst", "x")], "channels.email.hosst", 'did you mean "host"?'),
    ([("channels.sms", {"driver": "null", "zzz": 1})], "channels.sms.zzz", "known here: driver"),
    ([("groups.interflora.nmae", "x")], "groups.interflora.nmae", 'did you mean "name"?'),
    ([("merchants.cykelpartner.knd", "x")], "merchants.cykelpartner.knd", 'did you mean "kind"?'),
    ([(f"{BASE}.klass", "x")], f"{BASE}.klass", 'did you mean "class"?'),
    ([(f"{BASE}.purpose_class", "x")], f"{BASE}.purpose_class", "unknown key"),
    ([("review_requests.yeild", "deny")], "review_requests.yeild", 'did you mean "yield"?'),
    ([("review_requests.yield_for", "1d")], "review_requests.yield_for", "unknown key"),
    ([("review_requests.per_person.windw", "1d")], "review_requests.per_person.windw", '"window"'),
    ([("quiet_hours.evenings.holiday", True)], "quiet_hours.evenings.holiday", '"holidays"'),
    ([("content.domains", [])], "content.domains", "unknown key"),
    ([("delivery.attempts", 3)], "delivery.attempts", '"max_attempts"'),
    ([("merchants.a\tb", {"name": "x", "kind": "shop"})], 'merchants."a\\tb"', 'try "a_b"'),
    # gateway
    ([("gateway", 3)], "gateway", "must be a table"),
    ([("gateway.ledger", "sqlite:///:memory:")], "gateway.ledger", "several processes share it"),
    ([("gateway.ledger", "sqlite://")], "gateway.ledger", "cannot be in memory"),
    ([("gateway.ledger", "sqlite:///file:x?mode=memory&uri=true")], "gateway.ledger", "in memory"),
    ([("gateway.ledger", "sqlite:///file:x?uri=true")], "gateway.ledger", "path of a file"),
    ([("gateway.ledger", "mysql://h/db")], "gateway.ledger", "postgresql+psycopg://"),
    ([("gateway.ledger", "postgresql+asyncpg://h/db")], "gateway.ledger", "by psycopg"),
    ([("gateway.ledger", "notifygate.db")], "gateway.ledger", "sqlite:///notifygate.db"),
    ([("gateway.ledger", "postgresql://h:port/db")], "gateway.ledger", "is no database URL"),
    ([("gateway.broker", "kafka://h")], "gateway.broker", '"embedded"'),
    ([("gateway.broker", "redis://")], "gateway.broker", "redis://host:6379/0"),
    ([("gateway.broker", "redis://h:x")], "gateway.broker", "redis://host:6379/0"),
    ([("gateway.broker", True)], "gateway.broker", '"embedded"'),
    ([("gateway.default_region", "Denmark")], "gateway.default_region", '"DK"'),
    ([("gateway.default_timezone", "Europe/Copenhagn")], "gateway.default_timezone", "Europe/Copenhagen"),
    ([("gateway.default_timezone", "Europe")], "gateway.default_timezone", "IANA"),
    ([("gateway.default_timezone", "../etc")], "gateway.default_timezone", "IANA"),
    ([("gateway.default_timezone", 1)], "gateway.default_timezone", "Europe/Copenhagen"),
    ([("gateway.data_dir", "")], "gateway.data_dir", "path"),
    *(
        ([("monitoring.listen", value)], "monitoring.listen", '"127.0.0.1:9464" or "[::1]:9464"')
        for value in (
            "9464",
            ":9464",
            "::1:9464",
            "127.0.0.1",
            "localhost:0",
            "localhost:65536",
            "http://h:1",
            9464,
        )
    ),
    ([("monitoring.log_format", "xml")], "monitoring.log_format", '"text" or "json", not "xml"'),
    ([("monitoring.port", 9464)], "monitoring.port", "unknown"),
    # delivery
    ([("delivery.max_attempts", 0)], "delivery.max_attempts", "at least 1"),
    ([("delivery.max_attempts", 2**80)], "delivery.max_attempts", "at most 2147483647"),
    ([("delivery.max_attempts", True)], "delivery.max_attempts", "whole number"),
    ([("delivery.lease", "7x")], "delivery.lease", '"7d"'),
    ([("delivery.lease", 300)], "delivery.lease", "no span of time"),
    ([("delivery.retry_after", "2h")], "delivery.retry_after", "retry_at_most must be at least as long"),
    ([("delivery.retry_at_most", "1s")], "delivery.retry_at_most", "at least as long as retry_after"),
    # channels
    ([("channels.email", "smtp")], "channels.email", "must be a table"),
    ([("channels.email.driver", "smpt")], "channels.email.driver", '"smtp", "file", "console" or "null"'),
    ([("channels.email.driver", "kannel")], "channels.email.driver", "that driver is for channels.sms"),
    ([("channels.sms.driver", "smtp")], "channels.sms.driver", "that driver is for channels.email"),
    ([("channels.sms.driver", ["http"])], "channels.sms.driver", '"http", "kannel"'),
    ([("channels.sms", {"url": "http://h"})], "channels.sms.driver", 'missing; it must be "http"'),
    ([("channels.email", {"driver": "smtp"})], "channels.email.host", '"smtp.example.com"'),
    ([("channels.email.host", "smtp://h")], "channels.email.host", "name of a server"),
    ([("channels.email.port", 70_000)], "channels.email.port", "from 1 to 65535"),
    ([("channels.email.tls", "ssl")], "channels.email.tls", '"none", "starttls" or "tls"'),
    ([("channels.email.timeout", "0s")], "channels.email.timeout", "longer than nothing"),
    ([("channels.email.ca_file", "ca.pem")], "channels.email.ca_file", "no such file"),
    ([("channels.email.username", "u")], "channels.email.password", "NOTIFYGATE_CHANNELS__EMAIL__PASSWORD"),
    ([("channels.email", {"driver": "file"})], "channels.email.path", '"outbox.jsonl"'),
    ([("channels.sms", {"driver": "http"})], "channels.sms.url", "missing"),
    ([("channels.sms.url", "ftp://h")], "channels.sms.url", "http or https"),
    ([("channels.sms.url", "http://u:p@h/")], "channels.sms.url", "password_file"),
    ([("channels.sms.method", "get")], "channels.sms.method", '"GET"'),
    ([("channels.sms.headers", {"X Y": "z"})], 'channels.sms.headers."X Y"', "name of an HTTP header"),
    ([("channels.sms.headers", {"X": "a\r\nb: c"})], "channels.sms.headers.X", "one line"),
    ([("channels.sms.query", {"to": 3})], "channels.sms.query.to", "text in quotes"),
    ([("channels.sms.json", "x")], "channels.sms.json", "a table or a list"),
    ([("channels.sms.form", {"a": "b"}), ("channels.sms.body", "x")], "channels.sms.body", "only one of"),
    ([("channels.sms.method", "GET"), ("channels.sms.body", "x")], "channels.sms.body", "no content"),
    ([("channels.sms.accepted_statuses", [404])], "channels.sms.accepted_statuses[0]", "from 200 to 299"),
    ([("channels.sms.accepted_statuses", [])], "channels.sms.accepted_statuses", "empty"),
    ([("channels.sms.lookup_url", "ftp://h/{message_id}")], "channels.sms.lookup_url", "http or https"),
    ([("channels.sms.lookup_url", "http://u:p@h/{message_id}")], "channels.sms.lookup_url", "password_file"),
    ([("channels.sms.lookup_url", "http://h/status")], "channels.sms.lookup_url", "names no message"),
    ([("channels.sms.lookup_url", "http://h/{provider_id}")], "channels.sms.lookup_url", "provider_id_path"),
    (
        [("channels.sms", {"driver": "kannel", "url": "http://h", "username": "u"})],
        "channels.sms.password",
        "NOTIFYGATE_CHANNELS__SMS__PASSWORD, or password_file",
    ),
    # groups and merchants
    ([("groups.interflora.name", "")], "groups.interflora.name", "not empty"),
    ([("groups.cykelpartner", {"name": "x"})], "groups.cykelpartner", "a merchant has this name as well"),
    ([("groups.Inter", {"name": "x"})], "groups.Inter", 'try "inter"'),
    ([("merchants", {})], "merchants", "at least one is needed"),
    ([("merchants.*", {"name": "x", "kind": "shop"})], 'merchants."*"', "means all of them"),
    ([("merchants.cykelpartner", {"kind": "shop"})], "merchants.cykelpartner.name", "missing; it must be"),
    ([("merchants.cykelpartner", {"name": "x"})], "merchants.cykelpartner.kind", '"shop", "carrier"'),
    ([("merchants.cykelpartner.kind", "store")], "merchants.cykelpartner.kind", 'not "store"'),
    ([("merchants.cykelpartner.name", "a\nb")], "merchants.cykelpartner.name", "one line"),
    ([("merchants.cykelpartner.group", "interflroa")], "merchants.cykelpartner.group", '"interflora"?'),
    ([("merchants.cykelpartner.group", 3)], "merchants.cykelpartner.group", "text in quotes"),
    ([("merchants.cykelpartner.timezone", "X/Y")], "merchants.cykelpartner.timezone", "IANA"),
    (
        [("merchants.cykelpartner.asks_for_reviews", "yes")],
        "merchants.cykelpartner.asks_for_reviews",
        "true or false",
    ),
    (
        [("merchants.cykelpartner.email_from", "Cykel")],
        "merchants.cykelpartner.email_from",
        "no email address",
    ),
    (
        [("merchants.cykelpartner.email_from", "A <a@b.example>\nBcc: x@y.dk")],
        "merchants.cykelpartner.email_from",
        "one line",
    ),
    (
        [("merchants.cykelpartner.sms_sender", "Cykelpartner")],
        "merchants.cykelpartner.sms_sender",
        "at most 11",
    ),
    ([("merchants.cykelpartner.sms_sender", "+45")], "merchants.cykelpartner.sms_sender", "+4520123456"),
    ([("merchants.cykelpartner.sms_sender", "1" * 16)], "merchants.cykelpartner.sms_sender", "15 digits"),
    ([("merchants.cykelpartner.sms_sender", "Bad\nName")], "merchants.cykelpartner.sms_sender", "letters"),
    # purposes
    ([("purposes", {})], "purposes", "at least one is needed"),
    ([("purposes.review", {"class": "service", "permission": "none"})], "purposes.review", "name of a class"),
    ([("purposes.*", {"class": "service", "permission": "none"})], 'purposes."*"', "means all of them"),
    ([("purposes.Sale!", {"class": "service", "permission": "none"})], 'purposes."Sale!"', 'try "sale_"'),
    ([("purposes.x", {"permission": "none"})], "purposes.x.class", '"service", "marketing" or "review"'),
    ([("purposes.x", {"class": "service"})], "purposes.x.permission", 'missing; it must be "none"'),
    ([(f"{BASE}.class", "marketting")], f"{BASE}.class", 'not "marketting"'),
    ([(f"{BASE}.permission", "none")], f"{BASE}.permission", '"none" is for the class "service" only'),
    (
        [("purposes.review_request.permission", "none")],
        "purposes.review_request.permission",
        "needs a permission",
    ),
    ([(f"{BASE}.permission", [])], f"{BASE}.permission", "the list is empty"),
    ([("purposes.order_update.permission", [])], "purposes.order_update.permission", "the list is empty"),
    ([(f"{BASE}.permission", "consent")], f"{BASE}.permission", '["consent", "soft_opt_in"]'),
    ([(f"{BASE}.permission", ["consent", "maybe"])], f"{BASE}.permission[1]", '"soft_opt_in"'),
    ([(f"{BASE}.permission", ["none"])], f"{BASE}.permission[0]", "stands alone"),
    ([(f"{BASE}.permission", ["neutral_post_sale"])], f"{BASE}.permission[0]", '"review" only'),
    ([(f"{BASE}.within", "7d")], f"{BASE}.within", "neutral_post_sale"),
    ([(f"{BASE}.dedupe", "7x")], f"{BASE}.dedupe", '"30s", "15m", "24h", "7d" or "2w"'),
    ([(f"{BASE}.dedupe", "99999999999d")], f"{BASE}.dedupe", "at most 36500d"),
    ([(f"{BASE}.quiet_hours", "evening")], f"{BASE}.quiet_hours", 'did you mean "evenings"?'),
    ([(f"{BASE}.audience", "all")], f"{BASE}.audience", '"buyer" or "recipient"'),
    ([(f"{BASE}.on_doubt", "send")], f"{BASE}.on_doubt", '"hold" or "resend"'),
    (
        [("purposes.review_request.on_doubt", "resend")],
        "purposes.review_request.on_doubt",
        "never sent again",
    ),
    ([(f"{BASE}.caps", 2)], f"{BASE}.caps", "a list"),
    ([(f"{BASE}.caps", [3])], f"{BASE}.caps[0]", "must be a table"),
    ([(f"{BASE}.caps", [{"window": "1d", "per": "person"}])], f"{BASE}.caps[0].limit", "at least 1"),
    ([(f"{BASE}.caps", [{"limit": 1, "per": "person"}])], f"{BASE}.caps[0].window", '"7d"'),
    (
        [(f"{BASE}.caps", [{"limit": 1, "window": "1d"}])],
        f"{BASE}.caps[0].per",
        '"merchant", "group" or "person"',
    ),
    # quiet hours
    ([("quiet_hours.evenings", {"holidays": True})], "quiet_hours.evenings.allow", "mon-sat"),
    ([("quiet_hours.evenings.allow", {})], "quiet_hours.evenings.allow", "nothing could ever be sent"),
    (
        [("quiet_hours.evenings.allow", {"monday": "09:00-20:00"})],
        "quiet_hours.evenings.allow.monday",
        "is no day",
    ),
    ([("quiet_hours.evenings.allow", {"mon": "9-20"})], "quiet_hours.evenings.allow.mon", '"09:00-20:00"'),
    ([("quiet_hours.evenings.allow", {"mon": "09:00-25:00"})], "quiet_hours.evenings.allow.mon", "24:00"),
    (
        [("quiet_hours.evenings.allow", {"mon": "09:00-09:00"})],
        "quiet_hours.evenings.allow.mon",
        "00:00-24:00",
    ),
    (
        [("quiet_hours.evenings.allow", {"mon": "24:00-09:00"})],
        "quiet_hours.evenings.allow.mon",
        "is no window",
    ),
    ([("quiet_hours.evenings.allow", {"mon": []})], "quiet_hours.evenings.allow.mon", "leave out days"),
    (
        [("quiet_hours.evenings.allow", {"mon-fri": "09:00-20:00", "wed": "10:00-12:00"})],
        "quiet_hours.evenings.allow.wed",
        'wed is named by "mon-fri" as well',
    ),
    ([("quiet_hours.evenings.holidays", 1)], "quiet_hours.evenings.holidays", "true or false"),
    ([("quiet_hours.Nights", {"allow": {"mon": "09:00-20:00"}})], "quiet_hours.Nights", 'try "nights"'),
    # review requests
    ([("review_requests.asks_per_purchase", 0)], "review_requests.asks_per_purchase", "at least 1"),
    (
        [("review_requests.per_person", {"limit": 0, "window": "1d"})],
        "review_requests.per_person.limit",
        "at least 1",
    ),
    ([("review_requests.per_person", 1)], "review_requests.per_person", "must be a table"),
    ([("review_requests.precedence", ["shop", "shops"])], "review_requests.precedence[1]", 'not "shops"'),
    (
        [("review_requests.precedence", ["shop", "carrier", "shop"])],
        "review_requests.precedence[2]",
        "named before",
    ),
    ([("review_requests.precedence", [])], "review_requests.precedence", "the list is empty"),
    ([("review_requests.yield", "never")], "review_requests.yield", '"deny", or how long to wait'),
    ([("review_requests.yield", "53d")], "review_requests.yield", "shorter than expires"),
    ([("review_requests.delay", "7x")], "review_requests.delay", "no span of time"),
    ([("review_requests.expires", 60)], "review_requests.expires", "no span of time"),
    ([("delivery.retry_at_most", "1x")], "delivery.retry_at_most", "no span of time"),
    ([("review_requests.delay", "60d")], "review_requests.expires", "longer than delay"),
    (
        [("review_requests.footer", {"da": "{merchant} {seller} {order}"})],
        "review_requests.footer",
        "default",
    ),
    (
        [("review_requests.footer", {"default": "{merchant}"})],
        "review_requests.footer.default",
        "{merchant}, {seller}, {order}",
    ),
    (
        [("review_requests.footer", {"default": "{merchant} {seller} {order} {x}"})],
        "review_requests.footer.default",
        "nothing else",
    ),
    (
        [("review_requests.footer", {"default": "{merchant!r} {seller} {order}"})],
        "review_requests.footer.default",
        "as it stands",
    ),
    (
        [("review_requests.footer", {"default": "{merchant} {seller} {order"})],
        "review_requests.footer.default",
        "brace",
    ),
    (
        [("review_requests.footer", {"default": "{merchant} {seller} {order}", "dansk!": "x"})],
        'review_requests.footer."dansk!"',
        "no language",
    ),
    # content
    (
        [("content.review_domains", ["https://trustpilot.com"])],
        "content.review_domains[0]",
        '"trustpilot.com"',
    ),
    ([("content.promotion_markers", ["ok", ""])], "content.promotion_markers[1]", "not empty"),
]


@pytest.mark.parametrize(
    ("edits", "key", "text"), FAULTS, ids=[f"{n}-{case[1]}" for n, case in enumerate(FAULTS)]
)
def test_each_fault_is_at_its_key_and_says_what_is_right(
    load_text: Load, edits: list[tuple[str, Any]], key: str, text: str
) -> None:
    faults = {fault.key: fault.problem for fault in faults_of(lambda: load_text(edited(*edits)))}
    assert key in faults
    assert text in faults[key]
    # Whatever else is found follows from the edit: what it took away or overwrote.
    parents = {edit[0].split(".")[0] for edit in edits}
    assert all(
        any(found.startswith(parent) for parent in parents | {"merchants", "purposes"}) for found in faults
    )


def test_unknown_names_in_a_cap_are_each_at_their_place(load_text: Load) -> None:
    cap = {
        "limit": 1,
        "window": "7d",
        "per": "person",
        "purposes": ["newsletter", "newsleter"],
        "classes": ["marketing", "adverts"],
        "channels": ["fax"],
        "over": "drop",
    }
    faults = {
        fault.key: fault.problem for fault in faults_of(lambda: load_text(edited((f"{BASE}.caps", [cap]))))
    }
    assert faults == {
        f"{BASE}.caps[0].purposes[1]": 'no purpose is named "newsleter"; did you mean "newsletter"?',
        "purposes.newsletter.caps[0].classes[1]": 'must be "service", "marketing" or "review", not "adverts"',
        "purposes.newsletter.caps[0].channels[0]": 'must be "sms" or "email", not "fax"',
        "purposes.newsletter.caps[0].over": 'must be "deny" or "defer", not "drop"',
    }


@pytest.mark.parametrize("key", ["purposes", "classes", "channels"])
def test_an_empty_list_in_a_cap_is_a_fault(load_text: Load, key: str) -> None:
    cap = {"limit": 1, "window": "7d", "per": "person", key: []}
    fault = only_fault(lambda: load_text(edited((f"{BASE}.caps", [cap]))))
    assert fault.key == f"{BASE}.caps[0].{key}"
    assert "leave the key out" in fault.problem


def test_all_faults_are_told_at_once_in_the_order_of_the_file(load_text: Load) -> None:
    text = """
[purposes.newsletter]
class = "marketing"
permission = "none"
quiet_hours = "nights"
caps = [{ limit = 0, window = "7x", per = "person", purposes = ["nope"] }]
[merchants.shop]
nmae = "Shop"
kind = "shop"
group = "chain"
[gateway]
ledger = "sqlite:///:memory:"
secret = "hunter2"
default_timezone = "Mars"
[channels.sms]
driver = "smtp"
"""
    assert [fault.key for fault in faults_of(lambda: load_text(text))] == [
        "purposes.newsletter.permission",
        "purposes.newsletter.quiet_hours",
        "purposes.newsletter.caps[0].limit",
        "purposes.newsletter.caps[0].window",
        "purposes.newsletter.caps[0].purposes[0]",
        "merchants.shop.nmae",
        "merchants.shop.group",
        "merchants.shop.name",
        "gateway.ledger",
        "gateway.secret",
        "gateway.default_timezone",
        "channels.sms.driver",
    ]


def test_the_error_holds_the_file_the_keys_and_the_problems(load_text: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"notifygate\.toml: gateway\.broker: ") as caught:
        load_text(edited(("gateway.broker", "x")))
    assert caught.value.source == str(tmp_path / "notifygate.toml")


def test_a_missing_file_names_the_command_that_writes_one(tmp_path: Path) -> None:
    fault = only_fault(lambda: load(tmp_path / "nowhere.toml"))
    assert "notifygate init" in fault.problem
    assert "NOTIFYGATE_CONFIG" in fault.problem


def test_a_folder_and_a_file_that_is_no_text_are_faults(tmp_path: Path) -> None:
    assert "cannot be read" in only_fault(lambda: load(tmp_path)).problem
    (tmp_path / "x.toml").write_bytes(b'a = "\xff"')
    assert "UTF-8" in only_fault(lambda: load(tmp_path / "x.toml")).problem


def test_a_syntax_error_is_told_with_line_and_column(load_text: Load) -> None:
    fault = only_fault(lambda: load_text("[gateway]\nledger = sqlite\n"))
    assert fault.key == "line 2, column 10"
    assert "this is not TOML" in fault.problem


def test_a_merchant_without_a_sender_and_a_group_without_members_are_notes_not_faults(
    load_text: Load,
) -> None:
    config = load_text(edited(without="merchants.postdanmark.email_from"))
    assert config.settings.sender("postdanmark", "email") is None
    assert [note.key for note in config.notes] == ["groups.interflora", "merchants.postdanmark.email_from"]


# --- the policy's hash --------------------------------------------------------------------------------------


def test_the_same_config_in_another_order_has_the_same_policy(load_text: Load) -> None:
    tree = tomllib.loads(SAMPLE)
    tree["purposes"]["newsletter"]["permission"].reverse()
    tree["purposes"]["newsletter"]["caps"].reverse()

    def turned(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: turned(inner) for key, inner in reversed(list(value.items()))}
        return value

    assert load_text(to_toml(turned(tree))).policy.hash == load_text(SAMPLE).policy.hash


@pytest.mark.parametrize(
    ("key", "value"),
    [
        (f"{BASE}.caps", [{"limit": 3, "window": "7d", "per": "merchant"}]),
        (f"{BASE}.dedupe", "25h"),
        ("merchants.cykelpartner.kind", "platform"),
        ("quiet_hours.evenings.allow", {"mon-sat": "09:00-20:01"}),
        ("review_requests.yield", "1d"),
        ("content.promotion_markers", ["% off"]),
        ("gateway.default_timezone", "Europe/Oslo"),
        ("gateway.default_region", "NO"),
    ],
)
def test_a_changed_rule_is_another_policy(load_text: Load, key: str, value: object) -> None:
    assert load_text(edited((key, value))).policy.hash != load_text(SAMPLE).policy.hash


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("channels.email.host", "elsewhere"),
        ("gateway.ledger", "postgresql://h/db"),
        ("delivery.max_attempts", 3),
        ("merchants.cykelpartner.sms_sender", "Cykel"),
        ("review_requests.footer", {"default": "{merchant}: {order}, {seller}"}),
        (f"{BASE}.dedupe", "1d"),
    ],
)
def test_what_changes_no_rule_changes_no_policy(load_text: Load, key: str, value: object) -> None:
    assert load_text(edited((key, value))).policy.hash == load_text(SAMPLE).policy.hash


# --- single values ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("allow", "expected"),
    [
        ({"sat-mon": "10:00-12:00"}, {day: ((time(10), time(12)),) for day in (5, 6, 0)}),
        ({"daily": "00:00-24:00"}, {day: ((time(0), time(0)),) for day in range(7)}),
        ({"all": "22:00-06:00"}, {day: ((time(22), time(6)),) for day in range(7)}),
        ({"fri": "15:00-24:00, 9:00-12:00"}, {4: ((time(9), time(12)), (time(15), time(0)))}),
        ({"fri": ["15:00-16:00", "09:00-12:00"]}, {4: ((time(9), time(12)), (time(15), time(16)))}),
        ({"mon": "09:00 - 20:00"}, {0: ((time(9), time(20)),)}),
    ],
)
def test_days_and_windows(load_text: Load, allow: dict[str, Any], expected: dict[int, Any]) -> None:
    config = load_text(edited(("quiet_hours.evenings.allow", allow)))
    assert dict(config.policy.quiet_hours["evenings"].allow) == expected


@pytest.mark.parametrize(
    "sender", ["PostDanmark", "H&M", "7-Eleven", "Min Butik", "1245", "4520123456", "+4520123456"]
)
def test_senders_of_text_messages(load_text: Load, sender: str) -> None:
    config = load_text(edited(("merchants.cykelpartner.sms_sender", sender)))
    assert config.settings.sender("cykelpartner", "sms") == sender


@pytest.mark.parametrize(("tls", "port"), [("none", 25), ("starttls", 587), ("tls", 465)])
def test_the_port_follows_from_the_protection(load_text: Load, tls: str, port: int) -> None:
    email = load_text(edited(("channels.email.tls", tls), without="channels.email.port")).settings.email
    assert isinstance(email, SmtpSettings)
    assert email.port == port


def test_a_wrong_protection_is_one_fault_though_the_port_hangs_on_it(load_text: Load) -> None:
    text = edited(("channels.email.tls", "ssl"), without="channels.email.port")
    assert only_fault(lambda: load_text(text)).key == "channels.email.tls"


def test_purposes_and_caps_in_full(load_text: Load) -> None:
    cap = {
        "limit": 3,
        "window": "2w",
        "per": "group",
        "purposes": ["newsletter"],
        "classes": ["review"],
        "channels": ["sms"],
        "over": "defer",
    }
    policy = load_text(
        edited(
            ("purposes.review_request.permission", ["consent", "neutral_post_sale"]),
            ("purposes.review_request.within", "10d"),
            ("purposes.review_request.audience", "recipient"),
            ("purposes.order_update.on_doubt", "resend"),
            ("merchants.cykelpartner.group", "interflora"),
            ("merchants.cykelpartner.timezone", "Europe/Oslo"),
            (f"{BASE}.caps", [cap]),
        )
    ).policy
    review = policy.purposes["review_request"]
    assert review.accepts == {Accepts.CONSENT, Accepts.NEUTRAL_POST_SALE}
    assert (review.neutral_within, review.audience) == (10 * DAY, "recipient")
    assert policy.purposes["order_update"].on_doubt == "resend"
    assert policy.group_of("cykelpartner") == "interflora"
    assert policy.merchants["cykelpartner"].timezone == "Europe/Oslo"
    assert policy.purposes["newsletter"].caps == (
        Cap(
            limit=3,
            window=14 * DAY,
            per=Per.GROUP,
            purposes=frozenset({"newsletter"}),
            classes=frozenset({PurposeClass.REVIEW}),
            channels=frozenset({"sms"}),
            over=Over.DEFER,
        ),
    )


def test_content_replaces_the_built_in_domains(load_text: Load) -> None:
    policy = load_text(edited(("content.review_domains", ["Bedømmelse.dk", "b.dk", "b.dk"]))).policy
    assert policy.review_domains == ("b.dk", "xn--bedmmelse-n8a.dk")


def test_the_line_for_a_language_falls_back_to_the_main_language_and_to_the_default(load_text: Load) -> None:
    lines = {"default": "D {merchant} {seller} {order}", "da": "A {merchant} {seller} {order}"}
    found = load_text(edited(("review_requests.footer", lines))).settings
    assert [found.footer(tag)[0] for tag in ("da", "da-DK", "DA_dk", "fr", None)] == ["A", "A", "A", "D", "D"]
    for tag in ("da", "en", None):
        text = load_text(SAMPLE).settings.footer(tag).format(merchant="M", seller="S", order="O")
        assert {"M", "S", "O"} <= set(text)


UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


@given(number=st.integers(1, 5_000), unit=st.sampled_from(sorted(UNITS)))
def test_a_span_is_its_number_of_units(number: int, unit: str) -> None:
    assert values.span(f"{number}{unit}") == timedelta(seconds=number * UNITS[unit])


@given(st.text() | st.integers() | st.floats() | st.booleans() | st.none() | st.dates())
def test_whatever_is_no_span_is_refused_in_plain_words(value: object) -> None:
    if isinstance(value, str) and re.fullmatch(r"0*[1-9][0-9]*[smhdw]", value):
        return
    with pytest.raises(ValueError, match="must be"):
        values.span(value)


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**31), 2**31) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
).filter(lambda value: "null" not in json.dumps(value))

TABLES = ("gateway", "channels.email", "channels.sms", "merchants.cykelpartner", BASE)
KEYS = ("driver", "name", "ledger", "broker", "class", "permission", "caps", "url", "json", "kind", "group")
PLACES = [
    *(f"{table}.{key}" for table in TABLES for key in KEYS),
    *(
        "gateway",
        "channels",
        "merchants",
        "purposes",
        "quiet_hours",
        "review_requests",
        "content",
        "delivery",
    ),
]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(PLACES), value=JSONISH)
def test_no_config_of_whatever_shape_raises_anything_but_plain_faults(
    load_text: Load, key: str, value: object
) -> None:
    told = ""
    try:
        load_text(edited((key, value)))
    except ConfigError as error:
        told = str(error) or "nothing"
    assert not re.search(r"^nothing$|Input should|Extra inputs|pydantic", told)
