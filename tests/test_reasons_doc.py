"""docs/reasons.md says that its list is closed: it must hold the codes of `Reason`, and nothing else."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from notifygate.decision import Reason

PAGE = Path(__file__).parents[1] / "docs" / "reasons.md"
ROW = re.compile(r"^\| `([^`]+)` \| (.*) \|$", re.MULTILINE)


def test_the_page_lists_every_reason_code_once_and_no_other() -> None:
    listed = Counter(code for code, _ in ROW.findall(PAGE.read_text("utf-8")))
    assert listed == Counter(reason.value for reason in Reason)


def test_every_code_on_the_page_has_a_meaning() -> None:
    assert [code for code, meaning in ROW.findall(PAGE.read_text("utf-8")) if len(meaning) < 20] == []


def test_no_row_of_the_page_escapes_the_pattern() -> None:
    lines = PAGE.read_text("utf-8").splitlines()
    rows = [line for line in lines if line.startswith("|") and not re.match(r"\| code \||\|-", line)]
    assert len(rows) == len(ROW.findall(PAGE.read_text("utf-8")))
