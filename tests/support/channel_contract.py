"""What a provider does and what becomes of the message: the rows of a driver's contract, in the tests and the docs.

The contract tests act out every row against a real server, and compare their table with that of docs/channels.md: so
the page says what the code does.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeVar

from notifygate.channels import HandOffOutcome, Result

Case = TypeVar("Case")

_PAGE = Path(__file__).parents[2] / "docs" / "channels.md"
_ROW = re.compile(r"^\| (?P<what>.+?) \| `(?P<result>\w+)` \| (?P<recorded>.*?) \| (?P<why>.+) \|$")


@dataclass(frozen=True, slots=True)
class Promise:
    """One row: what the provider does, the result, and the detail that is recorded. `NNN` is the code that it said."""

    what: str
    result: Result
    recorded: str

    def __str__(self) -> str:
        return self.what

    def check(self, outcome: HandOffOutcome) -> None:
        """Fail unless an outcome is the promised one, and says nothing of what it must not."""
        assert (outcome.result, re.sub(r"\b[1-9]\d\d\b", "NNN", outcome.detail)) == (
            self.result,
            self.recorded,
        )
        assert "anna" not in repr(outcome).casefold()
        assert "20123456" not in repr(outcome)


def documented(section: str) -> list[Promise]:
    """The rows of docs/channels.md below a heading, in their order."""
    part = (
        _PAGE.read_text(encoding="utf-8").split(f"\n### {section}\n")[1].split("\n## ")[0].split("\n### ")[0]
    )
    rows = [line for line in part.splitlines() if line.startswith("|")][2:]
    found = [match for line in rows if (match := _ROW.match(line))]
    assert len(found) == len(rows), "a row of the table has another form"
    return [Promise(match["what"], Result(match["result"]), match["recorded"].strip("`")) for match in found]


def each(table: Mapping[Promise, Iterable[Case]]) -> list[tuple[Promise, Case]]:
    """Every case of a table with its promise, for `parametrize`."""
    return list(chain.from_iterable(((promise, case) for case in cases) for promise, cases in table.items()))
