"""${message}"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from notifygate.ledger.migrations import works_with

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
    works_with(${repr(down_revision)}, since=revision)
