"""Messages in doubt are found in the order in which they are to be looked up."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from notifygate.ledger.migrations import works_with

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    in_doubt = sa.text("status = 'in_doubt'")
    op.drop_index("ix_messages_in_doubt", table_name="messages")
    op.create_index(
        "ix_messages_in_doubt",
        "messages",
        ["sweep_at"],
        unique=False,
        sqlite_where=in_doubt,
        postgresql_where=in_doubt,
    )
    works_with("0001", since=revision)
