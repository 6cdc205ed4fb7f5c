"""The migrations, and what they tell older versions of the code.

A migration only adds, so that workers of the version before go on while it runs and after it. What is no longer used
is removed by a later one, when nothing that used it is left.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from notifygate.ledger.schema import WORKS_WITH

_KEYS = sa.table("keys", sa.column("name", sa.Text), sa.column("value", sa.Text))


def works_with(oldest: str, *, since: str) -> None:
    """Record, in the migration `since`, that code made for the schema version `oldest`, or a later one, goes on."""
    op.execute(sa.delete(_KEYS).where(_KEYS.c.name == WORKS_WITH))
    op.execute(sa.insert(_KEYS).values(name=WORKS_WITH, value=f"{since} {oldest}"))


def is_compared(name: str | None, kind: str, parents: object) -> bool:
    """Whether Alembic compares a thing with the schema: the partitions of the send log it knows nothing of."""
    return not (kind == "table" and name is not None and name.startswith("ledger_"))
