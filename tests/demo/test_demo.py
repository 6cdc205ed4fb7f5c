"""The demo is played for real, in a process of its own, and must notice when it goes otherwise than the stories say."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

import notifygate
from notifygate import Email, Gateway, Outcome, Reason
from notifygate.demo import folder as folders
from notifygate.demo import main, play, show, sinks, stories, verdict, workers
from notifygate.demo.sinks import Arrived
from notifygate.demo.stories import Send, Story, Told

ROOT = Path(notifygate.__file__).parents[1]
NOW = datetime(2026, 3, 2, 12, tzinfo=UTC)


# A shell that runs the tests in the background lets them ignore Ctrl-C, and the demo would inherit that.
DEMO = """
import runpy, signal
signal.signal(signal.SIGINT, signal.default_int_handler)
runpy.run_module("notifygate.demo", run_name="__main__")
"""


def start(folder: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DEMO],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def command_lines(holding: str) -> list[str]:
    """The command lines of all running processes that hold a text, with their environments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes() + b"\0" + (process / "environ").read_bytes()
        except OSError:
            continue
        if holding.encode() in line and process.name != str(os.getpid()):
            found.append((process / "cmdline").read_text().replace("\0", " "))
    return found


def assert_nothing_runs(folder: Path) -> None:
    deadline = time.monotonic() + 2
    while (found := command_lines(str(folder))) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not found


@dataclass(frozen=True)
class Run:
    folder: Path
    code: int
    out: str
    err: str
    seconds: float


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One whole run, in an environment that would configure some other gateway."""
    folder = tmp_path_factory.mktemp("whole")
    began = time.monotonic()
    process = start(folder, NOTIFYGATE_GATEWAY__LEDGER="sqlite:////nonexistent/others.db")
    out, err = process.communicate(timeout=60)
    return Run(folder=folder, code=process.returncode, out=out, err=err, seconds=time.monotonic() - began)


def test_the_demo_goes_as_the_stories_say_and_leaves_nothing_running(run: Run) -> None:
    assert (run.code, run.err) == (0, "")
    assert "Unset before, because they win over the config: NOTIFYGATE_GATEWAY__LEDGER" in run.out
    assert "As the stories say: 7 of 7 messages arrived" in run.out
    assert run.seconds < 40
    assert_nothing_runs(run.folder)


def test_its_log_is_sealed_and_signed_to_the_end(run: Run) -> None:
    with Gateway.open(run.folder / folders.DEFAULT_FOLDER / "notifygate.toml") as gate:
        found = gate.proofs.verify()
    assert (found.is_intact, found.unsealed) == (True, 0)
    assert found.signed_up_to == found.size > 0


def test_the_output_shows_reasons_and_first_names_but_no_address(run: Run) -> None:
    for reason in ("seller_asks_itself", "misdeclared_class", "not_the_buyer", "purchase_already_asked"):
        assert reason in run.out
    tables = run.out[: run.out.index("Look further")]
    for person in stories.PEOPLE:
        assert person.name in tables
        for channel in ("sms", "email"):
            address = verdict.address_of(person, channel)
            assert not address or address not in tables
    assert max(len(line.rstrip()) for line in tables.splitlines()) <= show.WIDTH


def test_each_command_that_the_demo_prints_works(run: Run) -> None:
    printed = re.findall(r"^  (\S*\bnotifygate (?:explain|log|consent) .+)$", run.out, re.MULTILINE)
    commands = [shlex.split(line) for line in printed]
    assert len(commands) >= 4
    explained = [command for command in commands if command[1] == "explain"]
    config = run.folder / explained[0][explained[0].index("--config") + 1]
    with Gateway.open(config) as gate:
        outcomes = {gate.explain(command[2]).decisions[-1].outcome for command in explained}
    assert outcomes == {Outcome.ALLOW, Outcome.DENY}
    for command in (explained[0], *(command for command in commands if command[1] != "explain")):
        done = subprocess.run(
            [sys.executable, "-m", "notifygate.cli", *command[1:]],
            cwd=run.folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout


def test_ctrl_c_ends_everything_and_is_no_success(tmp_path: Path) -> None:
    process = start(tmp_path)
    log = tmp_path / folders.DEFAULT_FOLDER / workers.LOG_NAME
    deadline = time.monotonic() + 20
    # As soon as the workers are started: the play itself may be over before they are seen to be ready.
    while not log.exists() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(0.1)  # until whoever starts them is through with that
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert err == "Stopped. Nothing is left running.\n"
    assert_nothing_runs(tmp_path)


def shortened(change: Callable[[Story], Story]) -> Callable[[datetime], tuple[Story, ...]]:
    """The parcel, cut down to its first two sends, and then changed."""

    def tell(now: datetime) -> tuple[Story, ...]:
        story = stories.parcel(now)
        act = story.acts[0]
        assert not isinstance(act, Told)
        return (change(replace(story, acts=(act[:2],), arrivals=story.arrivals[:1])),)

    return tell


def with_reasons(reasons: tuple[Reason, ...]) -> Callable[[Story], Story]:
    def change(story: Story) -> Story:
        (act,) = story.acts
        assert not isinstance(act, Told)
        return replace(story, acts=((act[0], replace(act[1], reasons=reasons)),))

    return change


def test_a_falsified_expectation_makes_the_demo_fail(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(folders.FOLDER_VARIABLE, str(tmp_path / "demo"))
    monkeypatch.setattr(stories, "tell", shortened(with_reasons((Reason.CONSENT_WITHDRAWN,))))
    assert main() == 1
    assert (
        "No. 2 must be decided with consent_withdrawn, and was with consent_missing + seller_asks_itself"
        in " ".join(capsys.readouterr().out.split())
    )
    assert os.environ[folders.FOLDER_VARIABLE] == str(tmp_path / "demo")
    assert_nothing_runs(tmp_path)


def test_workers_that_cannot_start_are_reported_with_the_end_of_their_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(folders.FOLDER_VARIABLE, str(tmp_path / "demo"))
    monkeypatch.setattr(workers, "COMMAND", (sys.executable, "-c", "raise SystemExit('no workers today')"))
    assert main() == 1
    out = capsys.readouterr().out
    assert "the workers ended early (exit code 1)" in out
    assert "no workers today" in out
    assert_nothing_runs(tmp_path)


def test_a_folder_that_is_not_the_demos_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    monkeypatch.setenv(folders.FOLDER_VARIABLE, str(tmp_path))
    assert main() == 2
    assert "is not the demo's" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_folder_in_use_by_another_demo_is_left_alone(tmp_path: Path) -> None:
    with (
        folders.emptied(tmp_path / "demo"),
        pytest.raises(folders.FolderRefused, match="another demo"),
        folders.emptied(tmp_path / "demo"),
    ):
        pass


def test_a_demos_folder_is_emptied_but_links_in_it_are_not_followed(tmp_path: Path) -> None:
    demo, elsewhere = tmp_path / "demo", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    with folders.emptied(demo):
        (demo / "old").touch()
        (demo / "link").symlink_to(elsewhere)
    with folders.emptied(demo):
        assert [path.name for path in demo.iterdir()] == [folders.MARK]
    assert (elsewhere / "kept").exists()


def sends(story: Story) -> list[Send]:
    return [send for act in story.acts if not isinstance(act, Told) for send in act]


@pytest.mark.parametrize("story", stories.tell(NOW), ids=lambda story: story.title)
def test_the_stories_do_not_contradict_themselves(story: Story) -> None:
    sent = [send for send in sends(story) if not send.reasons and not send.repeats]
    assert sorted(send.message.purpose for send in sent) == sorted(one.purpose for one in story.arrivals)
    for send in sends(story):
        channel = "email" if isinstance(send.message.content, Email) else "sms"
        assert show.name_of(send.message.content.to, channel) in {one.name for one in stories.PEOPLE}
        assert send.message.merchant in stories.MERCHANTS


ARRIVED = Arrived(
    channel="sms", to="+4520123456", sender="PostDanmark", text="Your parcel", message_id="msg_1"
)


def faults(arrived: Sequence[Arrived]) -> list[str]:
    """What the verdict says where nothing was tried and `ARRIVED` was expected, about a purpose unknown."""
    expected = stories.Arrival(
        channel="sms", to=stories.ANNA, sender="PostDanmark", purpose="a purpose unknown", names=("parcel",)
    )
    story = replace(stories.parcel(NOW), arrivals=(expected,))
    ended = play.Ended(
        played=(play.Played(story=story, rows=(), names={}),), arrived=tuple(arrived), left_over=()
    )
    return [fault for fault in verdict.faults(ended) if not fault.startswith("a message arrived that")]


@pytest.mark.parametrize(
    ("arrived", "said"),
    [
        ([ARRIVED], None),
        ([], "must arrive 1 times, and arrived 0"),
        ([ARRIVED, ARRIVED], "must arrive 1 times, and arrived 2"),
        ([ARRIVED, replace(ARRIVED, to="+4531223344")], "to somebody must arrive 0 times"),
        ([replace(ARRIVED, sender="Trustpilot")], "must arrive 0 times, and arrived 1"),
        ([replace(ARRIVED, text="Hello")], "does not say parcel"),
    ],
    ids=["as told", "missing", "twice", "to somebody else", "from somebody else", "without a name"],
)
def test_the_verdict_counts_what_arrived(arrived: list[Arrived], said: str | None) -> None:
    found = faults(arrived)
    assert (not found) if said is None else any(said in fault for fault in found)


def test_an_arrival_that_the_ledger_does_not_know_is_a_fault() -> None:
    ended = play.Ended(played=(), arrived=(ARRIVED,), left_over=())
    assert any(re.search("ledger does not have as sent: msg_1", fault) for fault in verdict.faults(ended))


def test_sinks_say_whether_they_are_open() -> None:
    with sinks.listening() as servers:
        assert servers.still_open() == ["SMTP server", "SMS sink"]
    assert servers.still_open() == []
