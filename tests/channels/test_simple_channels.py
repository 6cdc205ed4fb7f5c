"""The file, console and null drivers; and that every driver is one."""

from __future__ import annotations

import fcntl
import io
import json
import multiprocessing
import os
import re
import resource
import stat
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from notifygate.address import Channel
from notifygate.channels import ChannelDriver, HandOff, Result
from notifygate.channels.console import ConsoleChannel
from notifygate.channels.file import FileChannel
from notifygate.channels.http import HttpChannel
from notifygate.channels.kannel import KannelChannel
from notifygate.channels.null import NullChannel
from notifygate.channels.smtp import SmtpChannel
from notifygate.errors import ChannelError

# Checked by mypy: each driver has the methods of the protocol, with its types.
DRIVERS: tuple[type[ChannelDriver], ...] = (
    ConsoleChannel,
    FileChannel,
    HttpChannel,
    KannelChannel,
    NullChannel,
    SmtpChannel,
)

SMS = HandOff(
    message_id="m-1",
    attempt_id="a-1",
    channel=Channel.SMS,
    to="+4520123456",
    sender="Cykelpartn",
    text="Hej\nAnna æøå",
    at=datetime(2026, 3, 4, 10, 30, tzinfo=timezone(timedelta(hours=1))),
)
LETTER = replace(
    SMS,
    channel=Channel.EMAIL,
    to="anna@example.dk",
    sender="Cykelpartner <hej@x.example>",
    subject="Tak",
    html="<p>",
)


@pytest.mark.parametrize("driver", DRIVERS)
def test_every_driver_documents_itself(driver: type[ChannelDriver]) -> None:
    for part in (driver, driver.send, driver.check, driver.close):
        assert part.__doc__


# ---- file -------------------------------------------------------------------------------------------------


def test_a_line_has_the_fixed_keys_in_their_order(tmp_path: Path) -> None:
    path = tmp_path / "sent.jsonl"
    channel = FileChannel(path)
    assert [outcome.result for outcome in channel.send([SMS, LETTER])] == [Result.ACCEPTED] * 2
    first, second = path.read_text(encoding="utf-8").splitlines()
    assert list(json.loads(first).items()) == [
        ("message_id", "m-1"),
        ("attempt_id", "a-1"),
        ("channel", "sms"),
        ("to", "+4520123456"),
        ("sender", "Cykelpartn"),
        ("subject", None),
        ("text", "Hej\nAnna æøå"),
        ("at", "2026-03-04T09:30:00+00:00"),
    ]
    assert json.loads(second)["subject"] == "Tak"
    assert "æøå" in first
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_text_breaks_a_line(tmp_path: Path) -> None:
    path = tmp_path / "sent.jsonl"
    text = "".join(map(chr, [*range(1, 256), 0x2028, 0x2029, 0x1F600]))
    list(FileChannel(path).send([replace(SMS, text=text)]))
    [line] = path.read_text(encoding="utf-8").splitlines()
    assert json.loads(line)["text"] == text


def test_lines_are_there_as_soon_as_they_are_accepted(tmp_path: Path) -> None:
    path = tmp_path / "sent.jsonl"
    outcomes = FileChannel(path).send([SMS, SMS])
    next(outcomes)
    assert len(path.read_bytes().splitlines()) == 1
    list(outcomes)


def _write_lines(path: Path, writer: int) -> None:
    channel = FileChannel(path)
    for start in range(0, 200, 20):
        batch = [
            replace(SMS, message_id=f"{writer}-{number}", text="æ" * (1 + number * 7))
            for number in range(start, start + 20)
        ]
        assert all(outcome.result is Result.ACCEPTED for outcome in channel.send(batch))


def test_file_whole_lines_from_many_processes(tmp_path: Path) -> None:
    path = tmp_path / "sent.jsonl"
    spawn = multiprocessing.get_context("spawn")
    writers = [spawn.Process(target=_write_lines, args=(path, writer)) for writer in range(8)]
    for process in writers:
        process.start()
    for process in writers:
        process.join()
        assert process.exitcode == 0
        process.close()
    found = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert {line["message_id"] for line in found} == {f"{w}-{n}" for w in range(8) for n in range(200)}
    assert len(found) == 1600
    assert all(set(line["text"]) == {"æ"} for line in found)


def test_threads_of_one_process_keep_their_lines_whole(tmp_path: Path) -> None:
    path = tmp_path / "sent.jsonl"
    threads = [threading.Thread(target=_write_lines, args=(path, writer)) for writer in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]) == 800


def test_a_line_that_a_killed_writer_left_is_ended_first(tmp_path: Path) -> None:
    path = tmp_path / "sent.jsonl"
    path.write_text('{"message_id": "torn', encoding="utf-8")
    list(FileChannel(path).send([SMS]))
    torn, whole = path.read_text(encoding="utf-8").splitlines()
    assert torn == '{"message_id": "torn'
    assert json.loads(whole)["message_id"] == "m-1"


@pytest.fixture
def small_disk() -> Iterator[int]:
    """No file may grow beyond this many bytes: a write that crosses it comes up short, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000, before[1]))
    yield 1_000
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_file_whole_lines_on_a_full_disk(tmp_path: Path, small_disk: int) -> None:
    path = tmp_path / "sent.jsonl"
    fits, crosses = replace(SMS, text="x" * 600), replace(SMS, text="x" * 500)
    results = [outcome.result for outcome in FileChannel(path).send([fits, crosses, SMS])]
    assert results == [Result.ACCEPTED, Result.FAILED, Result.ACCEPTED]
    assert len([json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]) == 2


def test_a_torn_line_that_cannot_be_taken_back_is_in_doubt(
    tmp_path: Path, small_disk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(fd: int, length: int) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "ftruncate", broken)
    [outcome] = FileChannel(tmp_path / "sent.jsonl").send([replace(SMS, text="x" * 2_000)])
    assert outcome.result is Result.IN_DOUBT


def test_an_unwritable_device_is_failed() -> None:
    [outcome] = FileChannel("/dev/full").send([SMS])
    assert (outcome.result, outcome.detail) == (Result.FAILED, "file ENOSPC")


def test_a_folder_that_vanished_is_failed_and_comes_back(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    channel = FileChannel(folder / "sent.jsonl")
    folder.rmdir()
    [outcome] = channel.send([SMS])
    assert (outcome.result, outcome.detail) == (Result.FAILED, "file ENOENT")
    with pytest.raises(ChannelError, match=r"cannot be written: file ENOENT; .* correct the path"):
        channel.check()
    folder.mkdir()
    assert next(iter(channel.send([SMS]))).result is Result.ACCEPTED
    assert channel.check() == f"file {folder / 'sent.jsonl'} can be written"


def test_a_missing_folder_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(ChannelError, match=r"^path: the folder .* does not exist; create it"):
        FileChannel(tmp_path / "no" / "sent.jsonl")
    with pytest.raises(ChannelError, match=r"^path: .* is a folder"):
        FileChannel(tmp_path)


def test_the_file_is_free_between_messages(tmp_path: Path) -> None:
    path = tmp_path / "sent.jsonl"
    outcomes = FileChannel(path).send([SMS, SMS])
    next(outcomes)
    with path.open("rb") as other:
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    list(outcomes)


# ---- console ----------------------------------------------------------------------------------------------


def test_the_console_shows_everything_once() -> None:
    shown = io.StringIO()
    channel = ConsoleChannel(file=shown)
    [outcome] = channel.send([replace(LETTER, text="[bold]Hej[/bold] :smile:\x1b]0;evil\x07 anna")])
    assert outcome.result is Result.ACCEPTED
    for part in (
        "m-1",
        "anna@example.dk",
        "Cykelpartner <hej@x.example>",
        "Tak",
        "2026-03-04T09:30:00+00:00",
    ):
        assert part in shown.getvalue()
    assert "[bold]Hej[/bold] :smile:" in shown.getvalue()
    assert "\x1b" not in shown.getvalue()
    assert re.search(r"html\s+3 characters", shown.getvalue())


def test_the_console_prints_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    list(ConsoleChannel().send([SMS]))
    assert "+4520123456" in capsys.readouterr().out


def test_a_closed_output_is_in_doubt() -> None:
    shown = io.StringIO()
    channel = ConsoleChannel(file=shown)
    shown.close()
    [outcome] = channel.send([SMS])
    assert outcome.result is Result.IN_DOUBT


# ---- null -------------------------------------------------------------------------------------------------


def test_null_accepts_everything() -> None:
    channel = NullChannel()
    assert {outcome.result for outcome in channel.send([SMS] * 5)} == {Result.ACCEPTED}
    assert "nothing" in channel.check()
    channel.close()
    ConsoleChannel().close()


def test_nothing_is_pulled_ahead(tmp_path: Path) -> None:
    drivers: list[ChannelDriver] = [
        NullChannel(),
        FileChannel(tmp_path / "x"),
        ConsoleChannel(file=io.StringIO()),
    ]
    for channel in drivers:
        pulled: list[int] = []

        def batch(pulled: list[int] = pulled) -> Iterator[HandOff]:
            for number in range(3):
                pulled.append(number)
                yield SMS

        outcomes = channel.send(batch())
        next(outcomes)
        assert pulled == [0]
        list(outcomes)
