"""`notifygate report`: the terminal, JSON, and a page that stands alone."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from pathlib import Path

import pytest

from cli.shop import Run, sms, write_lines
from notifygate import Gateway
from notifygate.audit.report import charts
from notifygate.audit.report.page import render
from notifygate.cli import files
from notifygate.cli.output import CommandError

_VOID = {"meta", "line", "rect", "br", "link"}


@pytest.fixture(autouse=True)
def _ledger_is_there(shop: Path, run: Run) -> None:
    run("drain")


@pytest.fixture
def used(shop: Path, run: Run) -> Path:
    """A shop that sent one message and had one denied."""
    write_lines(
        shop / "in.jsonl",
        sms(),
        {"merchant": "myshop", "purpose": "newsletter", "to": "anna@example.dk", "subject": "N", "text": "N"},
    )
    assert run("submit", "in.jsonl").code == 0
    assert run("drain").code == 0
    return shop


class Page(HTMLParser):
    """Checks that elements are closed in order, and keeps what a test asks about."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.refers: list[str] = []
        self.points_at: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in _VOID:
            self.open.append(tag)
        self._read(attrs)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._read(attrs)

    def _read(self, attrs: list[tuple[str, str | None]]) -> None:
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name == "aria-labelledby":
                self.points_at += (value or "").split()
            elif name in ("href", "src", "action", "srcset", "data", "poster", "xlink:href"):
                self.refers.append(value or "")

    def handle_endtag(self, tag: str) -> None:
        if tag not in _VOID:
            assert self.open.pop() == tag


def test_shows_the_figures_in_80_columns_or_less(used: Path, run: Run) -> None:
    shown = run("report")

    assert shown.code == 0
    assert re.search(r"^handed in +2$", shown.out, re.M)
    assert re.search(r"^sent +1$", shown.out, re.M)
    assert re.search(r"^myshop +newsletter +email +denied: consent_missing +1$", shown.out, re.M)
    assert "0 (there should be none)" in shown.out
    policy = next(line for line in shown.out.splitlines() if line.startswith("policy"))
    assert "2 decisions" in policy
    assert all(len(line) <= 80 for line in shown.out.splitlines() if not line.startswith("policy"))


def test_prints_one_object_with_json(used: Path, run: Run) -> None:
    found = run("report", "--last", "2d", "--json").json

    assert found["volumes"]["outcomes"]["sent"] == 1
    assert found["volumes"]["outcomes"]["denied"] == 1
    length = datetime.fromisoformat(found["period"]["until"]) - datetime.fromisoformat(
        found["period"]["since"]
    )
    assert length == timedelta(days=2)
    assert found["period"]["timezone"] == "Europe/Copenhagen"


def test_of_an_empty_ledger_is_zeros(shop: Path, run: Run) -> None:
    found = run("report", "--html", "empty.html", "--json")

    assert found.code == 0
    assert found.json["volumes"]["messages"] == 0
    Page((shop / "empty.html").read_text("utf-8"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--since", "2126-01-01T00:00:00Z"), "since: lies in the future"),
        (("--until", "2126-01-01T00:00:00Z"), "until: lies in the future"),
        (("--since", "2026-02-01T00:00:00Z", "--until", "2026-01-01T00:00:00Z"), "since: must be before"),
        (("--since", "2026-02-01"), "no time zone"),
        (("--month", "May"), "month: must be written as 2026-05"),
        (("--month", "2126-05"), "month: has not begun"),
        (("--last", "3"), "no span of time"),
        (("--last", "7d", "--month", "2026-05"), "period: is given in two ways"),
        (("--force",), "goes with --html"),
        (("--html", "no/such/folder.html"), "there is no folder no/such"),
        (("--html", "."), "is a folder"),
    ],
)
def test_says_what_is_wrong_with_what_was_typed(
    shop: Path, run: Run, arguments: tuple[str, ...], told: str
) -> None:
    ran = run("report", *arguments)

    assert ran.code == 2
    assert told in ran.err
    assert "Traceback" not in ran.err
    assert ran.out == ""


def test_a_merchant_that_has_left_the_config_still_has_its_report(used: Path, run: Run) -> None:
    config = (used / "notifygate.toml").read_text().replace("[merchants.myshop]", "[merchants.newshop]")
    (used / "notifygate.toml").write_text(config)

    found = run("report", "--merchant", "myshop", "--json")

    assert (found.code, found.err) == (0, "")
    assert found.json["merchant"] == "myshop"
    assert found.json["volumes"]["messages"] == 2


def test_a_merchant_that_nobody_knows_is_hinted_at(used: Path, run: Run) -> None:
    found = run("report", "--merchant", "myshp", "--json")

    assert (found.code, found.json["volumes"]["messages"]) == (0, 0)
    assert found.err == "no merchant 'myshp' is known in the config; did you mean myshop?\n"


class TestThePage:
    @pytest.fixture
    def text(self, used: Path, run: Run) -> str:
        ran = run("report", "--html", "report.html")
        assert (ran.code, ran.out) == (0, "wrote report.html\n")
        return (used / "report.html").read_text("utf-8")

    def test_is_well_formed_and_fetches_nothing(self, text: str) -> None:
        page = Page(text)

        assert page.refers
        assert all(one.startswith("#") and one[1:] in page.ids for one in page.refers)
        assert not re.search(r"https?:|//|@import|url\(", text)
        assert not {"script", "link", "img", "iframe", "object", "style-src"} & set(page.tags)
        assert text.startswith("<!DOCTYPE html>")

    def test_labels_every_chart_and_gives_its_table(self, text: str) -> None:
        page = Page(text)

        assert len(page.ids) == len(set(page.ids))
        assert set(page.points_at) <= set(page.ids)
        assert page.tags.count("svg") == page.tags.count("desc") == 3
        assert page.tags.count("figure") <= page.tags.count("table") == page.tags.count("caption")

    def test_says_what_the_figures_rest_on(self, text: str, used: Path, run: Run) -> None:
        found = run("report", "--json").json

        assert found["ledger_id"] in text
        assert found["version"] in text
        assert found["policies"][0]["hash"] in text
        assert "Europe/Copenhagen" in text
        assert "What it does not prove" in text

    def test_holds_no_address_and_no_text(self, text: str) -> None:
        assert "anna@example.dk" not in text
        assert "20123456" not in text
        assert "On its way" not in text

    def test_does_not_replace_a_file_unless_told(self, text: str, used: Path, run: Run) -> None:
        (used / "report.html").write_text("mine")
        ran = run("report", "--html", "report.html")

        assert ran.code == 2
        assert "report.html is there already" in ran.err
        assert (used / "report.html").read_text() == "mine"

        assert run("report", "--html", "report.html", "--force").code == 0
        assert (used / "report.html").read_text("utf-8").startswith("<!DOCTYPE")

    def test_does_not_replace_a_file_that_came_up_meanwhile(self, tmp_path: Path) -> None:
        place = tmp_path / "place" / "report.html"
        place.parent.mkdir()

        def write() -> None:
            with files.writing(place, force=False) as file:
                place.write_text("mine")
                file.write("<!DOCTYPE html>")

        with pytest.raises(CommandError, match="cannot be written: File exists"):
            write()
        assert place.read_text() == "mine"
        assert [one.name for one in place.parent.iterdir()] == ["report.html"]

    def test_is_not_left_in_part_where_the_disk_is_full(
        self, used: Path, run: Run, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(fd: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", fail)
        before = sorted(one.name for one in used.iterdir())
        ran = run("report", "--html", "report.html")

        assert ran.code == 2
        assert "report.html cannot be written: No space left on device" in ran.err
        assert sorted(one.name for one in used.iterdir()) == before

    def test_escapes_whatever_it_is_told(self, used: Path) -> None:
        with Gateway.open(used / "notifygate.toml") as gate:
            report = gate.report()
        volume = replace(report.volumes.by[0], reason="<script>y", merchant='"><script>z')
        text = render(replace(report, merchant="<script>x", volumes=replace(report.volumes, by=(volume,))))

        assert "<script>" not in text
        assert "&lt;script&gt;x" in text
        Page(text)


class TestCharts:
    def test_columns_are_as_high_as_their_counts(self) -> None:
        chart = charts.columns([("a", {"sent": 3, "denied": 1}), ("b", {"sent": 1})])

        heights = {(bar.name, part.outcome): part.height for bar in chart.bars for part in bar.parts}
        assert heights[("a", "sent")] == pytest.approx(3 * heights[("b", "sent")], abs=0.1)
        assert heights[("a", "denied")] == heights[("b", "sent")]
        assert [tick.value for tick in chart.ticks] == [0, 2, 4]
        assert all(
            part.y >= 0 and part.y + part.height <= chart.height for bar in chart.bars for part in bar.parts
        )

    def test_shares_fill_the_same_room_each(self) -> None:
        chart = charts.bars([("a", {"sent": 1, "denied": 3}), ("b", {"sent": 400})], as_shares=True)

        widths = {bar.name: sum(part.width for part in bar.parts) for bar in chart.bars}
        assert widths["a"] == pytest.approx(widths["b"], abs=0.1)
        assert [bar.name for bar in chart.bars] == ["b", "a"]

    def test_without_figures_are_empty(self) -> None:
        assert charts.columns([]).bars == charts.bars([], as_shares=True).bars == ()

    def test_leave_out_the_smallest_where_there_is_no_room(self) -> None:
        chart = charts.bars(
            [(f"m{number:02}", {"sent": number + 1}) for number in range(25)], as_shares=False
        )

        assert (len(chart.bars), chart.left_out) == (charts.BARS_AT_MOST, 5)
        assert chart.bars[0].name == "m24"


def test_a_long_period_is_drawn_by_months(shop: Path, run: Run) -> None:
    since = datetime.now(UTC) - timedelta(days=200)
    run("report", "--since", since.isoformat(), "--html", "year.html")

    assert "Messages by month" in (shop / "year.html").read_text("utf-8")
