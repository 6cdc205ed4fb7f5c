"""The tables. What must never be false is a constraint here, not a check in Python.

Instants are whole microseconds since 1970 UTC in a BIGINT: exact, the same on every database, and fast to index.
Personal data is in `contact_points` and `messages` only.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlalchemy.types import TypeDecorator

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def to_micros(at: datetime) -> int:
    """Microseconds since 1970 of an aware datetime."""
    return (at - _EPOCH) // _MICROSECOND


def from_micros(micros: int) -> datetime:
    """The aware datetime, in UTC, of that many microseconds since 1970."""
    return _EPOCH + _MICROSECOND * micros


class Instant(TypeDecorator[datetime]):
    """An aware datetime, kept as microseconds since 1970 UTC."""

    impl = sa.BigInteger
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Any) -> int | None:
        return None if value is None else to_micros(value)

    def process_result_value(self, value: int | None, dialect: Any) -> datetime | None:
        return None if value is None else from_micros(value)


metadata = sa.MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)

# The conditions of the partial indexes. Queries use these very texts: with bound values instead, a database cannot
# tell that the index serves.
WAITING_SQL = "status IN ('queued', 'deferred')"
SERVICE_SQL = "purpose_class = 'service'"
IN_DOUBT_SQL = "status = 'in_doubt'"
HELD_SQL = "state = 'held'"
COUNTED_SQL = "state IN ('held', 'accepted', 'in_doubt')"
# Every message has a row in `messages`, so its decisions and attempts need not be found by contact point.
NO_STEP_SQL = "kind NOT IN ('decision', 'attempt')"
ABOUT_A_PURCHASE_SQL = "purchase_id IS NOT NULL"
NAMES_A_PURCHASE_SQL = "purchase_name_id IS NOT NULL"
IS_RARE_SQL = "kind NOT IN ('submitted', 'decision', 'attempt')"
WENT_OTHERWISE_SQL = "outcome NOT IN ('allow', 'accepted')"
HAS_REASON_SQL = "reason IS NOT NULL"
HAS_POLICY_SQL = "policy IS NOT NULL"

WORKS_WITH = "schema_works_with"
"""The key that holds two schema versions: the ledger's own, and the oldest that a code may know and work with it."""

LEDGER_ID = "ledger_id"
"""The key of what tells this ledger, and copies of it, from all others."""

keys = sa.Table(
    "keys",
    metadata,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)

policies = sa.Table(
    "policies",
    metadata,
    sa.Column("hash", sa.Text, primary_key=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("first_seen_at", Instant, nullable=False),
)

persons = sa.Table(
    "persons",
    metadata,
    sa.Column("person_id", sa.Text, primary_key=True),
    sa.Column("created_at", Instant, nullable=False),
)

# One mailbox or telephone line. Variants of an address share it, so they belong to one person from birth, and
# linking two persons moves mailboxes: a variant that turns up later cannot miss the link.
mailboxes = sa.Table(
    "mailboxes",
    metadata,
    sa.Column("mailbox_id", sa.Text, primary_key=True),
    sa.Column("fingerprint", sa.Text, nullable=False, unique=True),
    sa.Column("person_id", sa.Text, sa.ForeignKey("persons.person_id"), nullable=False, index=True),
)

contact_points = sa.Table(
    "contact_points",
    metadata,
    sa.Column("contact_point_id", sa.Text, primary_key=True),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("fingerprint", sa.Text, nullable=False, unique=True),
    sa.Column("address", sa.Text),  # null after erasure
    sa.Column("mailbox_id", sa.Text, sa.ForeignKey("mailboxes.mailbox_id"), nullable=False, index=True),
    sa.Column("country", sa.Text),
    sa.Column("zones", sa.Text, nullable=False),  # IANA names, separated by spaces
    sa.Column("created_at", Instant, nullable=False),
)

person_links = sa.Table(
    "person_links",
    metadata,
    sa.Column("link_id", sa.Text, primary_key=True),
    sa.Column("mailbox_a", sa.Text, sa.ForeignKey("mailboxes.mailbox_id"), nullable=False, index=True),
    sa.Column("mailbox_b", sa.Text, sa.ForeignKey("mailboxes.mailbox_id"), nullable=False, index=True),
    sa.Column("evidence", sa.Text, nullable=False),
    sa.Column("linked_at", Instant, nullable=False),
    sa.Column("unlinked_at", Instant),
)

consent_events = sa.Table(
    "consent_events",
    metadata,
    sa.Column("event_id", sa.Text, primary_key=True),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column(
        "contact_point_id",
        sa.Text,
        sa.ForeignKey("contact_points.contact_point_id"),
        nullable=False,
        index=True,
    ),
    sa.Column("party", sa.Text, nullable=False),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("occurred_at", Instant, nullable=False),
    sa.Column("recorded_at", Instant, nullable=False),
    sa.Column("expires_at", Instant),
    sa.Column("basis", sa.Text),
    sa.Column("source", sa.Text),
    sa.Column("evidence", sa.Text),
    sa.Column("notice_version", sa.Text),
    sa.Column("sale_ref", sa.Text),
    sa.Column("opt_out_offered", sa.Boolean),
    sa.Column("includes_service", sa.Boolean, nullable=False),
    sa.Column("invalidates", sa.Text),
    sa.Column("actor", sa.Text),
)

suppressions = sa.Table(
    "suppressions",
    metadata,
    sa.Column("suppression_id", sa.Text, primary_key=True),
    sa.Column(
        "contact_point_id",
        sa.Text,
        sa.ForeignKey("contact_points.contact_point_id"),
        nullable=False,
        index=True,
    ),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("created_at", Instant, nullable=False),
    sa.Column("expires_at", Instant),
    sa.Column("removed_at", Instant),
)

purchases = sa.Table(
    "purchases",
    metadata,
    sa.Column("purchase_id", sa.Text, primary_key=True),
    sa.Column("seller", sa.Text, nullable=False),
    sa.Column("order_id", sa.Text, nullable=False),
    sa.Column("known_since", Instant, nullable=False),
    sa.Column("purchased_at", Instant),
    sa.Column("delivered_at", Instant),
    sa.Column("reviewed_at", Instant),
    sa.Column("case_open_since", Instant),  # null while no case is open
)

# Every name that a purchase goes by: the seller's order id, a carrier's parcel number. Learning that two names
# mean one purchase moves the names of one to the other.
purchase_names = sa.Table(
    "purchase_names",
    metadata,
    sa.Column("name_id", sa.Text, primary_key=True),
    sa.Column("party", sa.Text, nullable=False),
    sa.Column("reference", sa.Text, nullable=False),
    sa.Column("purchase_id", sa.Text, sa.ForeignKey("purchases.purchase_id"), nullable=False, index=True),
    sa.UniqueConstraint("party", "reference"),
)

messages = sa.Table(
    "messages",
    metadata,
    sa.Column("message_id", sa.Text, primary_key=True),
    sa.Column("merchant", sa.Text, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("purpose_class", sa.Text, nullable=False),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column(
        "contact_point_id",
        sa.Text,
        sa.ForeignKey("contact_points.contact_point_id"),
        nullable=False,
        index=True,
    ),
    sa.Column("deliver_to", sa.Text),  # this and the three below are null after erasure
    sa.Column("subject", sa.Text),
    sa.Column("text", sa.Text),
    sa.Column("html", sa.Text),
    sa.Column("dedupe_key", sa.Text, nullable=False),
    sa.Column("idempotency_key", sa.Text),
    sa.Column("request_fingerprint", sa.Text, nullable=False),
    sa.Column("purchase_name_id", sa.Text, sa.ForeignKey("purchase_names.name_id")),
    sa.Column("timezone", sa.Text),
    sa.Column("language", sa.Text),
    sa.Column("metadata", sa.Text, nullable=False),  # a JSON object
    sa.Column("submitted_at", Instant, nullable=False),
    sa.Column("send_after", Instant),
    sa.Column("expires_at", Instant),
    sa.Column("status", sa.Text, nullable=False),
    sa.Column("reason", sa.Text),
    sa.Column("due_at", Instant, nullable=False),  # not decided before
    sa.Column(
        "sweep_at", Instant, nullable=False
    ),  # not put on the queue, or looked up while in doubt, before
    sa.Column("attempts", sa.Integer, nullable=False),
    # INVARIANT(one request a key): the same idempotency key cannot make two messages.
    sa.UniqueConstraint("merchant", "idempotency_key"),
)
sa.Index(
    "ix_messages_purchase_name_id",
    messages.c.purchase_name_id,
    sqlite_where=sa.text(NAMES_A_PURCHASE_SQL),
    postgresql_where=sa.text(NAMES_A_PURCHASE_SQL),
)
sa.Index(
    "ix_messages_due",
    messages.c.due_at,
    messages.c.message_id,
    sqlite_where=sa.text(WAITING_SQL),
    postgresql_where=sa.text(WAITING_SQL),
)
sa.Index(
    "ix_messages_sweep",
    messages.c.sweep_at,
    sqlite_where=sa.text(WAITING_SQL),
    postgresql_where=sa.text(WAITING_SQL),
)
sa.Index(
    "ix_messages_sweep_service",
    messages.c.sweep_at,
    sqlite_where=sa.text(f"{WAITING_SQL} AND {SERVICE_SQL}"),
    postgresql_where=sa.text(f"{WAITING_SQL} AND {SERVICE_SQL}"),
)
sa.Index(
    "ix_messages_in_doubt",
    messages.c.message_id,
    sqlite_where=sa.text(IN_DOUBT_SQL),
    postgresql_where=sa.text(IN_DOUBT_SQL),
)

# A committed row here entitles one worker to hand one message to a provider, once. It is also the attempt: how
# that ended is written on it. `blocks` is taken away when another attempt may follow.
reservations = sa.Table(
    "reservations",
    metadata,
    sa.Column("attempt_id", sa.Text, primary_key=True),
    sa.Column("message_id", sa.Text, sa.ForeignKey("messages.message_id"), nullable=False),
    sa.Column("contact_point_id", sa.Text, nullable=False),
    sa.Column("merchant", sa.Text, nullable=False),
    sa.Column("purpose", sa.Text, nullable=False),
    sa.Column("purpose_class", sa.Text, nullable=False),
    sa.Column("channel", sa.Text, nullable=False),
    sa.Column("dedupe_key", sa.Text, nullable=False),
    sa.Column("reserved_at", Instant, nullable=False),
    sa.Column("lease_until", Instant, nullable=False),
    sa.Column("state", sa.Text, nullable=False),
    sa.Column("blocks", sa.Boolean, nullable=False),
    sa.Column("detail", sa.Text),
    sa.Column("provider_id", sa.Text),
    sa.Column("ended_at", Instant),
    sa.CheckConstraint("state IN ('held', 'accepted', 'rejected', 'failed', 'in_doubt')", name="known_state"),
)
# INVARIANT(reserve once): a message has at most one reservation that has not definitely failed.
sa.Index(
    "uq_reservations_one_a_message",
    reservations.c.message_id,
    unique=True,
    sqlite_where=sa.text("blocks"),
    postgresql_where=sa.text("blocks"),
)
sa.Index("ix_reservations_message_id", reservations.c.message_id)
sa.Index(
    "ix_reservations_history",
    reservations.c.contact_point_id,
    reservations.c.reserved_at,
    sqlite_where=sa.text(COUNTED_SQL),
    postgresql_where=sa.text(COUNTED_SQL),
)
sa.Index(
    "ix_reservations_lease",
    reservations.c.lease_until,
    sqlite_where=sa.text(HELD_SQL),
    postgresql_where=sa.text(HELD_SQL),
)

asks = sa.Table(
    "asks",
    metadata,
    sa.Column("ask_id", sa.Text, primary_key=True),
    sa.Column("purchase_id", sa.Text, sa.ForeignKey("purchases.purchase_id"), nullable=False),
    sa.Column("slot", sa.Integer, nullable=False),
    sa.Column("by", sa.Text, nullable=False),
    sa.Column("asked_at", Instant, nullable=False),
    sa.Column("message_id", sa.Text),  # null for an ask made elsewhere
    sa.Column("attempt_id", sa.Text, unique=True),
    sa.Column("contact_point_id", sa.Text, index=True),
    # INVARIANT(asked once): the places of a purchase are numbered, and each can be taken once.
    sa.UniqueConstraint("purchase_id", "slot"),
)

# The send log. Rows are only ever added: triggers refuse anything else, on both databases.
# On PostgreSQL it is partitioned by months of `at` (see `partitions`), so that its primary key is (position, at).
ledger = sa.Table(
    "ledger",
    metadata,
    sa.Column(
        "position",
        sa.BigInteger().with_variant(sa.Integer, "sqlite"),
        primary_key=True,
        autoincrement=True,
    ),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("at", Instant, nullable=False),
    sa.Column("message_id", sa.Text),
    sa.Column("contact_point_id", sa.Text),
    sa.Column("purchase_id", sa.Text),
    sa.Column("merchant", sa.Text),
    sa.Column("purpose", sa.Text),
    sa.Column("channel", sa.Text),
    sa.Column("outcome", sa.Text),
    sa.Column("reason", sa.Text),
    sa.Column("policy", sa.Text),
    sa.Column("body", sa.Text, nullable=False),  # a JSON object
)
# Rows come in the order of their instants but for odd dates, and a month is found without an index.
sa.Index("ix_ledger_at", ledger.c.at, postgresql_using="brin", postgresql_with={"autosummarize": "on"})
sa.Index("ix_ledger_message_id", ledger.c.message_id)
sa.Index(
    "ix_ledger_contact_point_id",
    ledger.c.contact_point_id,
    sqlite_where=sa.text(NO_STEP_SQL),
    postgresql_where=sa.text(NO_STEP_SQL),
)
sa.Index(
    "ix_ledger_purchase_id",
    ledger.c.purchase_id,
    sqlite_where=sa.text(ABOUT_A_PURCHASE_SQL),
    postgresql_where=sa.text(ABOUT_A_PURCHASE_SQL),
)

for _name, _columns, _where in (
    ("ix_ledger_kind", (ledger.c.kind, ledger.c.position), IS_RARE_SQL),
    ("ix_ledger_outcome", (ledger.c.outcome, ledger.c.position), WENT_OTHERWISE_SQL),
    ("ix_ledger_reason", (ledger.c.reason, ledger.c.position), HAS_REASON_SQL),
):
    sa.Index(_name, *_columns, sqlite_where=sa.text(_where), postgresql_where=sa.text(_where))

# For searches: on PostgreSQL a few bytes for each hundred pages, which say what cannot be in them.
sa.Index(
    "ix_ledger_scope",
    ledger.c.merchant,
    ledger.c.purpose,
    ledger.c.channel,
    postgresql_using="brin",
    postgresql_ops=dict.fromkeys(("merchant", "purpose", "channel"), "text_bloom_ops"),
    postgresql_with={"autosummarize": "on"},
)
sa.Index(
    "ix_ledger_policy",
    ledger.c.policy,
    sqlite_where=sa.text(HAS_POLICY_SQL),
    postgresql_using="brin",
    postgresql_ops={"policy": "text_bloom_ops"},
    postgresql_with={"autosummarize": "on"},
)

# The places that rows of the send log were given in the Merkle tree: many rows in one. Leaf `first_leaf + i` is the
# row at the i-th of `positions` (a JSON array), and bytes 32 i to 32 i + 31 of `hashes` are its hash.
seals = sa.Table(
    "seals",
    metadata,
    sa.Column("first_leaf", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("leaves", sa.Integer, nullable=False),
    sa.Column("lowest_position", sa.BigInteger, nullable=False),
    sa.Column("highest_position", sa.BigInteger, nullable=False, index=True),
    sa.Column("positions", sa.Text, nullable=False),
    sa.Column("hashes", sa.LargeBinary, nullable=False),
    sa.Column("sealed_at", Instant, nullable=False),
    # Every row up to this position that there will ever be has a place, by this seal or an earlier one.
    sa.Column("settled", sa.BigInteger, nullable=False),
    # On PostgreSQL: transactions from this one on had not begun when the rows were read.
    sa.Column("snapshot_end", sa.BigInteger),
)

# Roots of whole subtrees of 256 leaves (level 8), 65,536 (level 16) and so on, so that no proof reads all leaves.
tree_nodes = sa.Table(
    "tree_nodes",
    metadata,
    sa.Column("level", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("hash", sa.LargeBinary, nullable=False),
)

checkpoints = sa.Table(
    "checkpoints",
    metadata,
    sa.Column("size", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("note", sa.Text, nullable=False),
    sa.Column("made_at", Instant, nullable=False),
)

# What stops erasure and retention for a person. It entitles nobody to send anything.
legal_holds = sa.Table(
    "legal_holds",
    metadata,
    sa.Column("hold_id", sa.Text, primary_key=True),
    sa.Column(
        "contact_point_id",
        sa.Text,
        sa.ForeignKey("contact_points.contact_point_id"),
        nullable=False,
        index=True,
    ),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("placed_at", Instant, nullable=False),
    sa.Column("released_at", Instant),
)

# The rows of consent files that were taken in, by keyed fingerprints of what names them and of what they said.
consent_imports = sa.Table(
    "consent_imports",
    metadata,
    sa.Column("row_print", sa.Text, primary_key=True),
    sa.Column("content_print", sa.Text, nullable=False),
    sa.Column("event_id", sa.Text, nullable=False),
    sa.Column("imported_at", Instant, nullable=False),
)

APPEND_ONLY = ("ledger", "policies", "consent_events", "seals", "tree_nodes", "checkpoints")
"""The tables whose rows are never changed or removed.

Of a consent event only `FREE_TEXTS` may be, and only to nothing: that is what erasure does. On SQLite, where the send
log has no months, retention removes whole rows of it.
"""

FREE_TEXTS = ("source", "evidence", "sale_ref", "actor")
"""What people typed into a consent event."""
