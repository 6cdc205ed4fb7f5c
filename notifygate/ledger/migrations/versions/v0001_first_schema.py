"""The first schema: messages, people, purchases, consent, reservations, and the append-only ledger."""

from __future__ import annotations

import secrets

import sqlalchemy as sa
from alembic import op

from notifygate.ledger.migrations import works_with
from notifygate.ledger.schema import LEDGER_ID

revision = "0001"
down_revision = None

_APPEND_ONLY = {"ledger": "position", "policies": "hash", "consent_events": "event_id"}


def upgrade() -> None:
    _create_tables()
    keys = sa.table("keys", sa.column("name", sa.Text), sa.column("value", sa.Text))
    op.execute(sa.insert(keys).values(name=LEDGER_ID, value=secrets.token_hex(16)))
    works_with("0001", since=revision)
    for table, key in _APPEND_ONLY.items():
        if op.get_bind().dialect.name == "postgresql":
            _forbid_changes_postgresql(table)
        else:
            _forbid_changes_sqlite(table, key)


def _forbid_changes_sqlite(table: str, key: str) -> None:
    for action in ("UPDATE", "DELETE"):
        op.execute(
            f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
        )
    # INSERT OR REPLACE deletes the old row without asking the trigger above.
    op.execute(
        f"CREATE TRIGGER {table}_no_replace BEFORE INSERT ON {table} "  # noqa: S608
        f"WHEN EXISTS (SELECT 1 FROM {table} WHERE {key} = NEW.{key}) "
        f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
    )


def _forbid_changes_postgresql(table: str) -> None:
    op.execute(
        """
        CREATE OR REPLACE FUNCTION notifygate_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% is append-only', TG_TABLE_NAME USING ERRCODE = 'restrict_violation';
        END $$
        """
    )
    op.execute(
        f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION notifygate_append_only()"
    )


def _create_tables() -> None:
    op.create_table(
        "keys",
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("name", name=op.f("pk_keys")),
    )
    op.create_table(
        "ledger",
        sa.Column(
            "position",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("at", sa.BigInteger(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column("contact_point_id", sa.Text(), nullable=True),
        sa.Column("purchase_id", sa.Text(), nullable=True),
        sa.Column("merchant", sa.Text(), nullable=True),
        sa.Column("purpose", sa.Text(), nullable=True),
        sa.Column("channel", sa.Text(), nullable=True),
        sa.Column("outcome", sa.Text(), nullable=True),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("policy", sa.Text(), nullable=True),
        sa.Column("body", sa.Text(), nullable=False),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_ledger")),
    )
    op.create_index(op.f("ix_ledger_at"), "ledger", ["at"], unique=False)
    op.create_index("ix_ledger_contact_point_id", "ledger", ["contact_point_id"], unique=False)
    op.create_index("ix_ledger_message_id", "ledger", ["message_id"], unique=False)
    op.create_index("ix_ledger_purchase_id", "ledger", ["purchase_id"], unique=False)
    op.create_table(
        "persons",
        sa.Column("person_id", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("person_id", name=op.f("pk_persons")),
    )
    op.create_table(
        "policies",
        sa.Column("hash", sa.Text(), nullable=False),
        sa.Column("text", sa.Text(), nullable=False),
        sa.Column("first_seen_at", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("hash", name=op.f("pk_policies")),
    )
    op.create_table(
        "purchases",
        sa.Column("purchase_id", sa.Text(), nullable=False),
        sa.Column("seller", sa.Text(), nullable=False),
        sa.Column("order_id", sa.Text(), nullable=False),
        sa.Column("known_since", sa.BigInteger(), nullable=False),
        sa.Column("purchased_at", sa.BigInteger(), nullable=True),
        sa.Column("delivered_at", sa.BigInteger(), nullable=True),
        sa.Column("reviewed_at", sa.BigInteger(), nullable=True),
        sa.Column("case_open_since", sa.BigInteger(), nullable=True),
        sa.PrimaryKeyConstraint("purchase_id", name=op.f("pk_purchases")),
    )
    op.create_table(
        "asks",
        sa.Column("ask_id", sa.Text(), nullable=False),
        sa.Column("purchase_id", sa.Text(), nullable=False),
        sa.Column("slot", sa.Integer(), nullable=False),
        sa.Column("by", sa.Text(), nullable=False),
        sa.Column("asked_at", sa.BigInteger(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=True),
        sa.Column("attempt_id", sa.Text(), nullable=True),
        sa.Column("contact_point_id", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["purchase_id"], ["purchases.purchase_id"], name=op.f("fk_asks_purchase_id_purchases")
        ),
        sa.PrimaryKeyConstraint("ask_id", name=op.f("pk_asks")),
        sa.UniqueConstraint("attempt_id", name=op.f("uq_asks_attempt_id")),
        sa.UniqueConstraint("purchase_id", "slot", name=op.f("uq_asks_purchase_id_slot")),
    )
    op.create_index(op.f("ix_asks_contact_point_id"), "asks", ["contact_point_id"], unique=False)
    op.create_table(
        "mailboxes",
        sa.Column("mailbox_id", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("person_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["person_id"], ["persons.person_id"], name=op.f("fk_mailboxes_person_id_persons")
        ),
        sa.PrimaryKeyConstraint("mailbox_id", name=op.f("pk_mailboxes")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_mailboxes_fingerprint")),
    )
    op.create_index(op.f("ix_mailboxes_person_id"), "mailboxes", ["person_id"], unique=False)
    op.create_table(
        "purchase_names",
        sa.Column("name_id", sa.Text(), nullable=False),
        sa.Column("party", sa.Text(), nullable=False),
        sa.Column("reference", sa.Text(), nullable=False),
        sa.Column("purchase_id", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(
            ["purchase_id"], ["purchases.purchase_id"], name=op.f("fk_purchase_names_purchase_id_purchases")
        ),
        sa.PrimaryKeyConstraint("name_id", name=op.f("pk_purchase_names")),
        sa.UniqueConstraint("party", "reference", name=op.f("uq_purchase_names_party_reference")),
    )
    op.create_index(op.f("ix_purchase_names_purchase_id"), "purchase_names", ["purchase_id"], unique=False)
    op.create_table(
        "contact_points",
        sa.Column("contact_point_id", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("fingerprint", sa.Text(), nullable=False),
        sa.Column("address", sa.Text(), nullable=True),
        sa.Column("mailbox_id", sa.Text(), nullable=False),
        sa.Column("country", sa.Text(), nullable=True),
        sa.Column("zones", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.ForeignKeyConstraint(
            ["mailbox_id"], ["mailboxes.mailbox_id"], name=op.f("fk_contact_points_mailbox_id_mailboxes")
        ),
        sa.PrimaryKeyConstraint("contact_point_id", name=op.f("pk_contact_points")),
        sa.UniqueConstraint("fingerprint", name=op.f("uq_contact_points_fingerprint")),
    )
    op.create_index(op.f("ix_contact_points_mailbox_id"), "contact_points", ["mailbox_id"], unique=False)
    op.create_table(
        "person_links",
        sa.Column("link_id", sa.Text(), nullable=False),
        sa.Column("mailbox_a", sa.Text(), nullable=False),
        sa.Column("mailbox_b", sa.Text(), nullable=False),
        sa.Column("evidence", sa.Text(), nullable=False),
        sa.Column("linked_at", sa.BigInteger(), nullable=False),
        sa.Column("unlinked_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["mailbox_a"], ["mailboxes.mailbox_id"], name=op.f("fk_person_links_mailbox_a_mailboxes")
        ),
        sa.ForeignKeyConstraint(
            ["mailbox_b"], ["mailboxes.mailbox_id"], name=op.f("fk_person_links_mailbox_b_mailboxes")
        ),
        sa.PrimaryKeyConstraint("link_id", name=op.f("pk_person_links")),
    )
    op.create_index(op.f("ix_person_links_mailbox_a"), "person_links", ["mailbox_a"], unique=False)
    op.create_index(op.f("ix_person_links_mailbox_b"), "person_links", ["mailbox_b"], unique=False)
    op.create_table(
        "consent_events",
        sa.Column("event_id", sa.Text(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("contact_point_id", sa.Text(), nullable=False),
        sa.Column("party", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("occurred_at", sa.BigInteger(), nullable=False),
        sa.Column("recorded_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("basis", sa.Text(), nullable=True),
        sa.Column("source", sa.Text(), nullable=True),
        sa.Column("evidence", sa.Text(), nullable=True),
        sa.Column("notice_version", sa.Text(), nullable=True),
        sa.Column("sale_ref", sa.Text(), nullable=True),
        sa.Column("opt_out_offered", sa.Boolean(), nullable=True),
        sa.Column("includes_service", sa.Boolean(), nullable=False),
        sa.Column("invalidates", sa.Text(), nullable=True),
        sa.Column("actor", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["contact_point_id"],
            ["contact_points.contact_point_id"],
            name=op.f("fk_consent_events_contact_point_id_contact_points"),
        ),
        sa.PrimaryKeyConstraint("event_id", name=op.f("pk_consent_events")),
    )
    op.create_index(
        op.f("ix_consent_events_contact_point_id"), "consent_events", ["contact_point_id"], unique=False
    )
    op.create_table(
        "messages",
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("merchant", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("purpose_class", sa.Text(), nullable=False),
        sa.Column("role", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("contact_point_id", sa.Text(), nullable=False),
        sa.Column("deliver_to", sa.Text(), nullable=True),
        sa.Column("subject", sa.Text(), nullable=True),
        sa.Column("text", sa.Text(), nullable=True),
        sa.Column("html", sa.Text(), nullable=True),
        sa.Column("dedupe_key", sa.Text(), nullable=False),
        sa.Column("idempotency_key", sa.Text(), nullable=True),
        sa.Column("request_fingerprint", sa.Text(), nullable=False),
        sa.Column("purchase_name_id", sa.Text(), nullable=True),
        sa.Column("timezone", sa.Text(), nullable=True),
        sa.Column("language", sa.Text(), nullable=True),
        sa.Column("metadata", sa.Text(), nullable=False),
        sa.Column("submitted_at", sa.BigInteger(), nullable=False),
        sa.Column("send_after", sa.BigInteger(), nullable=True),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("status", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=True),
        sa.Column("due_at", sa.BigInteger(), nullable=False),
        sa.Column("sweep_at", sa.BigInteger(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["contact_point_id"],
            ["contact_points.contact_point_id"],
            name=op.f("fk_messages_contact_point_id_contact_points"),
        ),
        sa.ForeignKeyConstraint(
            ["purchase_name_id"],
            ["purchase_names.name_id"],
            name=op.f("fk_messages_purchase_name_id_purchase_names"),
        ),
        sa.PrimaryKeyConstraint("message_id", name=op.f("pk_messages")),
        sa.UniqueConstraint("merchant", "idempotency_key", name=op.f("uq_messages_merchant_idempotency_key")),
    )
    op.create_index(op.f("ix_messages_contact_point_id"), "messages", ["contact_point_id"], unique=False)
    op.create_index(
        "ix_messages_due",
        "messages",
        ["due_at"],
        unique=False,
        sqlite_where=sa.text("status IN ('queued', 'deferred')"),
        postgresql_where=sa.text("status IN ('queued', 'deferred')"),
    )
    op.create_index(op.f("ix_messages_purchase_name_id"), "messages", ["purchase_name_id"], unique=False)
    op.create_index(
        "ix_messages_sweep",
        "messages",
        ["sweep_at"],
        unique=False,
        sqlite_where=sa.text("status IN ('queued', 'deferred')"),
        postgresql_where=sa.text("status IN ('queued', 'deferred')"),
    )
    op.create_index(
        "ix_messages_sweep_service",
        "messages",
        ["sweep_at"],
        unique=False,
        sqlite_where=sa.text("status IN ('queued', 'deferred') AND purpose_class = 'service'"),
        postgresql_where=sa.text("status IN ('queued', 'deferred') AND purpose_class = 'service'"),
    )
    op.create_index(
        "ix_messages_in_doubt",
        "messages",
        ["message_id"],
        unique=False,
        sqlite_where=sa.text("status = 'in_doubt'"),
        postgresql_where=sa.text("status = 'in_doubt'"),
    )
    op.create_table(
        "suppressions",
        sa.Column("suppression_id", sa.Text(), nullable=False),
        sa.Column("contact_point_id", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("created_at", sa.BigInteger(), nullable=False),
        sa.Column("expires_at", sa.BigInteger(), nullable=True),
        sa.Column("removed_at", sa.BigInteger(), nullable=True),
        sa.ForeignKeyConstraint(
            ["contact_point_id"],
            ["contact_points.contact_point_id"],
            name=op.f("fk_suppressions_contact_point_id_contact_points"),
        ),
        sa.PrimaryKeyConstraint("suppression_id", name=op.f("pk_suppressions")),
    )
    op.create_index(
        op.f("ix_suppressions_contact_point_id"), "suppressions", ["contact_point_id"], unique=False
    )
    op.create_table(
        "reservations",
        sa.Column("attempt_id", sa.Text(), nullable=False),
        sa.Column("message_id", sa.Text(), nullable=False),
        sa.Column("contact_point_id", sa.Text(), nullable=False),
        sa.Column("merchant", sa.Text(), nullable=False),
        sa.Column("purpose", sa.Text(), nullable=False),
        sa.Column("purpose_class", sa.Text(), nullable=False),
        sa.Column("channel", sa.Text(), nullable=False),
        sa.Column("dedupe_key", sa.Text(), nullable=False),
        sa.Column("reserved_at", sa.BigInteger(), nullable=False),
        sa.Column("lease_until", sa.BigInteger(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.Column("blocks", sa.Boolean(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=True),
        sa.Column("provider_id", sa.Text(), nullable=True),
        sa.Column("ended_at", sa.BigInteger(), nullable=True),
        sa.CheckConstraint(
            "state IN ('held', 'accepted', 'rejected', 'failed', 'in_doubt')",
            name=op.f("ck_reservations_known_state"),
        ),
        sa.ForeignKeyConstraint(
            ["message_id"], ["messages.message_id"], name=op.f("fk_reservations_message_id_messages")
        ),
        sa.PrimaryKeyConstraint("attempt_id", name=op.f("pk_reservations")),
    )
    op.create_index(
        "ix_reservations_history",
        "reservations",
        ["contact_point_id", "reserved_at"],
        unique=False,
        sqlite_where=sa.text("state IN ('held', 'accepted', 'in_doubt')"),
        postgresql_where=sa.text("state IN ('held', 'accepted', 'in_doubt')"),
    )
    op.create_index(
        "ix_reservations_lease",
        "reservations",
        ["lease_until"],
        unique=False,
        sqlite_where=sa.text("state = 'held'"),
        postgresql_where=sa.text("state = 'held'"),
    )
    op.create_index("ix_reservations_message_id", "reservations", ["message_id"], unique=False)
    op.create_index(
        "uq_reservations_one_a_message",
        "reservations",
        ["message_id"],
        unique=True,
        sqlite_where=sa.text("blocks"),
        postgresql_where=sa.text("blocks"),
    )
