"""An SQLite ledger on a disk without room: a clear error, nothing half done, and all goes on when there is room."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from support import config as configs
from support.channel import ACCEPTED, Answer, ScriptedChannel, install
from support.clock import SimulatedClock
from support.databases import migrate
from support.disk import Disk, PageLimit, Tmpfs, mounted
from support.messages import order_update
from support.tables import contents, row_counts

from notifygate import Gateway, LedgerError, Message, Receipt, Status
from notifygate import delivery as deliveries
from notifygate.channels import HandOff, HandOffOutcome

COUNT = 25  # so many that what is written about them does not fit into the room left in the pages at hand
FULL = "the disk is full or failing"


class OnDisk(NamedTuple):
    gate: Gateway
    disk: Disk
    channel: ScriptedChannel
    url: str


@pytest.fixture(params=["page limit", "tmpfs"])
def on_disk(request: pytest.FixtureRequest, tmp_path: Path, clock: SimulatedClock) -> Iterator[OnDisk]:
    """A gateway whose ledger is on a disk that can be filled, and which sends by a scripted channel."""
    with mounted(tmp_path / "disk") as tmpfs:
        if tmpfs is None and request.param == "tmpfs":
            pytest.skip("mounting is not allowed here")
        url = f"sqlite:///{tmp_path / 'disk' / 'ledger.db'}"
        migrate(url)
        path = configs.write(tmp_path / "notifygate.toml", {"gateway": {"ledger": url}})
        with Gateway.open(path, clock=clock) as gate:
            disk = PageLimit(gate) if request.param == "page limit" else tmpfs
            assert disk is not None
            yield OnDisk(gate, disk, install(gate, ScriptedChannel()), url)


@pytest.fixture(autouse=True)
def _soon_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deliveries, "_RECORD_AGAIN_AFTER_S", 0.02)


def requests() -> list[Message]:
    return [
        order_update(
            to=f"person{number}@example.dk", text="On its way. " * 40, idempotency_key=f"key-{number}"
        )
        for number in range(COUNT)
    ]


def test_at_submit_nothing_is_taken_and_all_is_taken_when_there_is_room(on_disk: OnDisk) -> None:
    gate, disk, channel, url = on_disk
    before = row_counts(url)
    disk.fill()
    with pytest.raises(LedgerError, match=FULL) as raised:
        list(gate.submit_many(requests()))
    assert_one_line(raised.value)
    disk.clear()
    assert row_counts(url) == before

    receipts = list(gate.submit_many(requests()))

    assert not any(receipt.duplicate for receipt in receipts)
    assert gate.drain() == COUNT
    assert_each_arrived_once(channel, receipts)


def test_what_was_there_can_be_read_while_the_disk_is_full(on_disk: OnDisk) -> None:
    receipt = on_disk.gate.submit(order_update())
    on_disk.disk.fill()

    assert on_disk.gate.status(receipt.message_id) is Status.QUEUED
    assert on_disk.gate.explain(receipt.message_id).status is Status.QUEUED


@pytest.mark.parametrize("on_disk", ["tmpfs"], indirect=True)
def test_a_gateway_that_cannot_be_opened_on_a_full_disk_says_why(on_disk: OnDisk, tmp_path: Path) -> None:
    receipt = on_disk.gate.submit(order_update())
    on_disk.gate.close()  # the last connection takes the -wal and -shm files with it
    on_disk.disk.fill()
    with pytest.raises(LedgerError, match=FULL) as raised:
        Gateway.open(tmp_path / "notifygate.toml")
    assert_one_line(raised.value)

    on_disk.disk.clear()
    with Gateway.open(tmp_path / "notifygate.toml") as gate:
        assert gate.status(receipt.message_id) is Status.QUEUED


def test_while_deciding_nothing_is_reserved_and_nothing_is_handed_over(on_disk: OnDisk) -> None:
    gate, disk, channel, url = on_disk
    receipts = list(gate.submit_many(requests()))
    before = row_counts(url)
    disk.fill()
    with pytest.raises(LedgerError, match=FULL) as raised:
        gate.drain()
    assert_one_line(raised.value)
    assert channel.taken == []
    disk.clear()
    assert row_counts(url) == before
    assert statuses(gate, receipts) == {"queued": COUNT}

    gate.drain()

    assert statuses(gate, receipts) == {"sent": COUNT}
    assert_each_arrived_once(channel, receipts)


def test_while_recording_outcomes_are_kept_until_there_is_room(
    on_disk: OnDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, disk, channel, url = on_disk
    receipts = list(gate.submit_many(requests()))
    faults: list[LedgerError] = []
    delivery = gate._runtime._configured.delivery
    record = delivery._other

    def watched(ended: Any) -> None:
        try:
            record(ended)
        except LedgerError as error:
            faults.append(error)
            if len(faults) == 3:
                disk.clear()
            raise

    monkeypatch.setattr(delivery, "_other", watched)
    channel.script = [filling(disk)]
    gate.drain()

    assert len(faults) == 3
    assert FULL in str(faults[0])
    assert statuses(gate, receipts) == {"sent": COUNT}
    assert_each_arrived_once(channel, receipts)
    entries = Counter(row["kind"] for row in contents(url)["ledger"])
    assert entries["attempt"] == COUNT


def test_outcomes_that_found_no_room_in_time_are_in_doubt_and_not_sent_again(
    on_disk: OnDisk, clock: SimulatedClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, disk, channel, _ = on_disk
    receipts = list(gate.submit_many(requests()))
    monkeypatch.setattr(deliveries, "_RECORD_FOR_AT_MOST_S", 0.1)
    channel.script = [filling(disk)]
    with pytest.raises(LedgerError, match=FULL):
        gate.drain()
    assert statuses(gate, receipts) == {"sending": COUNT}

    disk.clear()
    clock.advance(minutes=6)
    gate.drain()

    assert statuses(gate, receipts) == {"in_doubt": COUNT}
    assert_each_arrived_once(channel, receipts)


def test_a_ledger_in_a_read_only_folder_is_refused_in_one_line(tmp_path: Path, clock: SimulatedClock) -> None:
    with mounted(tmp_path / "disk") as disk:
        if disk is None and os.geteuid() == 0:
            pytest.skip("mounting is not allowed here, and no folder is read-only for root")
        folder = tmp_path / "disk"
        url = f"sqlite:///{folder / 'ledger.db'}"
        migrate(url)
        path = configs.write(tmp_path / "notifygate.toml", {"gateway": {"ledger": url}})
        with read_only(folder, disk), pytest.raises(LedgerError) as raised:
            Gateway.open(path, clock=clock)

    assert_one_line(raised.value)
    assert "the ledger cannot be used" in str(raised.value)
    assert "folder" in str(raised.value)


@contextmanager
def read_only(folder: Path, disk: Tmpfs | None) -> Iterator[None]:
    """Let nobody write to a folder within the block."""
    if disk is not None:
        disk.make_read_only()
        yield
        return
    folder.chmod(0o500)
    try:
        yield
    finally:
        folder.chmod(0o700)


def filling(disk: Disk) -> Answer:
    """An answer of a provider during which the disk fills up."""

    def answer(hand_off: HandOff) -> HandOffOutcome:
        disk.fill()
        return ACCEPTED

    return answer


def statuses(gate: Gateway, receipts: list[Receipt]) -> Counter[str]:
    return Counter(gate.status(receipt.message_id).value for receipt in receipts)


def assert_each_arrived_once(channel: ScriptedChannel, receipts: list[Receipt]) -> None:
    assert Counter(taken.message_id for taken in channel.taken) == Counter(
        receipt.message_id for receipt in receipts
    )


def assert_one_line(error: LedgerError) -> None:
    assert len(str(error).splitlines()) == 1
    assert "@example" not in str(error)
