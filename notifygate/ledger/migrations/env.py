"""Runs the migrations on the connection that `Ledger.upgrade` hands over, in its transaction."""

from __future__ import annotations

from alembic import context

from notifygate.ledger.migrations import is_compared
from notifygate.ledger.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    include_name=is_compared,
    transactional_ddl=True,
)
context.run_migrations()
