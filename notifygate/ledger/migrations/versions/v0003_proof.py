"""What the proof, legal holds and files of consent need; consent events whose free texts can be taken away.

Code made for 0001 or 0002 goes on with it: what is new is in tables of its own, and rows that it adds are sealed like
all others.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

from notifygate.ledger.migrations import works_with

revision = "0003"
down_revision = "0002"

_INDEXES = {
    "ix_ledger_kind": ("kind", "kind NOT IN ('submitted', 'decision', 'attempt')"),
    "ix_ledger_outcome": ("outcome", "outcome NOT IN ('allow', 'accepted')"),
    "ix_ledger_reason": ("reason", "reason IS NOT NULL"),
}
_APPEND_ONLY = {
    "seals": ("first_leaf",),
    "tree_nodes": ("level", "number"),
    "checkpoints": ("size",),
}
_FREE_TEXTS = ("source", "evidence", "sale_ref", "actor")
_FACTS = (
    "event_id",
    "state",
    "contact_point_id",
    "party",
    "channel",
    "purpose",
    "occurred_at",
    "recorded_at",
    "expires_at",
    "basis",
    "notice_version",
    "opt_out_offered",
    "includes_service",
    "invalidates",
)


def upgrade() -> None:
    for name, (column, where) in _INDEXES.items():
        op.create_index(
            name, "ledger", [column, "position"], sqlite_where=sa.text(where), postgresql_where=sa.text(where)
        )
    _create_search_indexes()
    _create_tables()
    if op.get_bind().dialect.name == "postgresql":
        _let_free_texts_go_postgresql()
        _number_the_transaction_first()
        for table in _APPEND_ONLY:
            op.execute(
                f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
                "FOR EACH STATEMENT EXECUTE FUNCTION notifygate_append_only()"
            )
    else:
        _let_free_texts_go_sqlite()
        for table, key in _APPEND_ONLY.items():
            _forbid_changes_sqlite(table, key)
    works_with("0001", since=revision)


def _create_search_indexes() -> None:
    for name, columns, where in (
        ("ix_ledger_scope", ("merchant", "purpose", "channel"), None),
        ("ix_ledger_policy", ("policy",), sa.text("policy IS NOT NULL")),
    ):
        op.create_index(
            name,
            "ledger",
            list(columns),
            sqlite_where=where,
            postgresql_using="brin",
            postgresql_ops=dict.fromkeys(columns, "text_bloom_ops"),
            postgresql_with={"autosummarize": "on"},
        )


def _let_free_texts_go_postgresql() -> None:
    op.execute("DROP TRIGGER consent_events_append_only ON consent_events")
    op.execute(
        "CREATE TRIGGER consent_events_append_only BEFORE DELETE OR TRUNCATE ON consent_events "
        "FOR EACH STATEMENT EXECUTE FUNCTION notifygate_append_only()"
    )
    listed = ", ".join(f"'{name}'" for name in _FREE_TEXTS)
    texts = " || ".join(f"coalesce(NEW.{name}, '')" for name in _FREE_TEXTS)
    op.execute(
        f"""
        CREATE FUNCTION notifygate_free_texts_go() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF to_jsonb(NEW) = to_jsonb(OLD)
                OR to_jsonb(NEW) - ARRAY[{listed}] <> to_jsonb(OLD) - ARRAY[{listed}]
                OR {texts} <> ''
            THEN
                RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
            END IF;
            RETURN NEW;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER consent_events_free_texts BEFORE UPDATE ON consent_events "
        "FOR EACH ROW EXECUTE FUNCTION notifygate_free_texts_go()"
    )


def _number_the_transaction_first() -> None:
    """Let a transaction have its number before a row of the send log has its position.

    A sealer takes a position for the last that can still come when the transactions with lower numbers are over.
    """
    op.execute(
        """
        CREATE FUNCTION notifygate_number_transaction() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            PERFORM pg_current_xact_id();
            RETURN NULL;
        END $$
        """
    )
    op.execute(
        "CREATE TRIGGER ledger_number_transaction BEFORE INSERT ON ledger "
        "FOR EACH STATEMENT EXECUTE FUNCTION notifygate_number_transaction()"
    )


def _let_free_texts_go_sqlite() -> None:
    stays = " AND ".join(f"NEW.{name} IS OLD.{name}" for name in _FACTS)
    goes = " AND ".join(f"NEW.{name} IS NULL" for name in _FREE_TEXTS)
    was = " OR ".join(f"OLD.{name} IS NOT NULL" for name in _FREE_TEXTS)
    op.execute("DROP TRIGGER consent_events_no_update")
    op.execute(
        "CREATE TRIGGER consent_events_no_update BEFORE UPDATE ON consent_events "
        f"WHEN NOT ({stays} AND {goes} AND ({was})) "
        "BEGIN SELECT RAISE(ABORT, 'consent_events is append-only'); END"
    )


def _forbid_changes_sqlite(table: str, key: tuple[str, ...]) -> None:
    for action in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )
    same = " AND ".join(f"{name} = NEW.{name}" for name in key)
    op.execute(
        f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "  # noqa: S608  # our own names
        f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {same}) "
        f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
    )


def _create_tables() -> None:
    op.create_table(
        "seals",
        sa.Column("first_leaf", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("leaves", sa.Integer(), nullable=False),
        sa.Column("lowest_position", sa.BigInteger(), nullable=False),
        sa.Column("highest_position", sa.BigInteger(), nullable=False),
        sa.Column("positions", sa.Text(), nullable=False),
        sa.Column("hashes", sa.LargeBinary(), nullable=False),
        sa.Column("sealed_at", sa.BigInteger(), nullable=False),
        sa.Column("settled", sa.BigInteger(), nullable=False),
        sa.Column("snapshot_end", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("first_leaf", name=op.f("pk_seals")),
    )
    op.create_index(op.f("ix_seals_highest_position"), "seals", ["highest_position"])
    op.create_table(
        "tree_nodes",
        sa.Column("level", sa.Integer(), autoincrement=False, nullable=False),
        sa.Column("number", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("hash", sa.LargeBinary(), nullable=False),
        sa.PrimaryKeyConstraint("level", "number", name=op.f("pk_tree_nodes")),
    )
    op.create_table(
        "checkpoints",
        sa.Column("size", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("note", sa.Text(), nullable=False),
        sa.Column("made_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("size", name=op.f("pk_checkpoints")),
    )
    op.create_table(
        "legal_holds",
        sa.Column("hold_id", sa.Text(), nullable=False),
        sa.Column("contact_point_id", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("placed_at", sa.BigInteger(), nullable=False),
        sa.Column("released_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["contact_point_id"],
            ["contact_points.contact_point_id"],
            name=op.f("fk_legal_holds_contact_point_id_contact_points"),
        ),
        sa.PrimaryKeyConstraint("hold_id", name=op.f("pk_legal_holds")),
    )
    op.create_index(op.f("ix_legal_holds_contact_point_id"), "legal_holds", ["contact_point_id"])
    op.create_table(
        "consent_imports",
        sa.Column("row_print", sa.Text(), nullable=False),
        sa.Column("content_print", sa.Text(), nullable=False),
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("imported_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("row_print", name=op.f("pk_consent_imports")),
    )
