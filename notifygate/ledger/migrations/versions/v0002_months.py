"""Indexes that hold only what is looked for; on PostgreSQL, a send log that is partitioned by month.

Code made for 0001 goes on with it: it adds rows to `ledger` by the names of its columns, and asks what the indexes
still answer. Only its search by contact point reads the whole send log, which takes long where that is long.

On PostgreSQL, whoever writes waits while it runs: it builds indexes on the rows that are there already.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime

import sqlalchemy as sa
from alembic import op

from notifygate.ledger.migrations import works_with

revision = "0002"
down_revision = "0001"

_WAITING = "status IN ('queued', 'deferred')"
_NAMES_A_PURCHASE = "purchase_name_id IS NOT NULL"
_NO_STEP = "kind NOT IN ('decision', 'attempt')"
_ABOUT_A_PURCHASE = "purchase_id IS NOT NULL"

_MONTHS_AHEAD = 3
_LOCK_TRIES = 30
_LOCK_TIMEOUT_MS = 1_000


def upgrade() -> None:
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    if is_postgresql:
        _lock_tables()
    for name in ("ix_messages_due", "ix_messages_purchase_name_id"):
        op.drop_index(name, "messages")
    _create_index("ix_messages_due", "messages", ["due_at", "message_id"], where=_WAITING)
    _create_index("ix_messages_purchase_name_id", "messages", ["purchase_name_id"], where=_NAMES_A_PURCHASE)
    for name in ("ix_ledger_contact_point_id", "ix_ledger_purchase_id"):
        op.drop_index(name, "ledger")
    if is_postgresql:
        _partition_the_send_log(_month(datetime.now(UTC)))
    _create_index("ix_ledger_contact_point_id", "ledger", ["contact_point_id"], where=_NO_STEP)
    _create_index("ix_ledger_purchase_id", "ledger", ["purchase_id"], where=_ABOUT_A_PURCHASE)
    works_with("0001", since=revision)


def _create_index(name: str, table: str, columns: list[str], *, where: str) -> None:
    op.create_index(name, table, columns, sqlite_where=sa.text(where), postgresql_where=sa.text(where))


def _lock_tables() -> None:
    """Take both tables for ourselves, in the order in which workers do, and let go again where that takes long.

    All who come later wait behind a lock that is waited for.
    """
    conn = op.get_bind()
    op.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
    for left in reversed(range(_LOCK_TRIES)):
        try:
            with conn.begin_nested():
                op.execute("LOCK TABLE messages, ledger IN ACCESS EXCLUSIVE MODE")
        except sa.exc.OperationalError:
            if not left:
                raise
            time.sleep(_LOCK_TIMEOUT_MS / 1000)
        else:
            break
    op.execute("SET LOCAL lock_timeout = DEFAULT")


def _partition_the_send_log(this_month: datetime) -> None:
    first_new = _next(this_month)
    old = f"ledger_before_{first_new:%Y_%m}"
    op.execute(f"ALTER TABLE ledger RENAME TO {old}")
    op.execute(f"DROP TRIGGER ledger_append_only ON {old}")
    op.execute(f"ALTER TABLE {old} DROP CONSTRAINT pk_ledger")
    op.execute("DROP INDEX ix_ledger_at")
    op.execute(f"ALTER INDEX ix_ledger_message_id RENAME TO {old}_message_id_idx")
    _create_ledger()
    op.execute("ALTER SEQUENCE ledger_position_seq OWNED BY ledger.position")
    _let_the_same_users_in(old)
    _forbid_changes("ledger")
    # Cloned to every partition, also to one that is made by hand.
    op.execute(
        "CREATE TRIGGER ledger_append_only_rows BEFORE UPDATE OR DELETE ON ledger "
        "FOR EACH ROW EXECUTE FUNCTION notifygate_append_only()"
    )
    op.execute("CREATE TABLE ledger_default PARTITION OF ledger DEFAULT")
    _forbid_changes("ledger_default")
    if op.get_bind().execute(sa.text(f"SELECT EXISTS (SELECT FROM {old})")).scalar_one():  # noqa: S608
        _keep_as_a_partition(old, until=first_new)
        month = first_new
    else:
        op.execute(f"DROP TABLE {old}")
        month = this_month
    for _ in range(_MONTHS_AHEAD + 1):
        _create_month(month)
        month = _next(month)


def _create_ledger() -> None:
    op.create_table(
        "ledger",
        sa.Column(
            "position",
            sa.BigInteger(),
            server_default=sa.text("nextval('ledger_position_seq'::regclass)"),
            autoincrement=False,
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
        # A key of a partitioned table has to hold what it is partitioned by.
        sa.PrimaryKeyConstraint("position", "at", name=op.f("pk_ledger")),
        postgresql_partition_by='RANGE ("at")',
    )
    # Rows come in the order of their instants: a range of pages knows from when to when its rows are.
    op.create_index(
        "ix_ledger_at",
        "ledger",
        ["at"],
        postgresql_using="brin",
        postgresql_with={"autosummarize": "on"},
    )
    op.create_index("ix_ledger_message_id", "ledger", ["message_id"])


def _let_the_same_users_in(old: str) -> None:
    granted = op.get_bind().execute(
        sa.text(
            "SELECT CASE grantee WHEN 0 THEN 'PUBLIC' ELSE grantee::regrole::text END, privilege_type, is_grantable "
            "FROM pg_class, aclexplode(relacl) WHERE pg_class.oid = CAST(:old AS regclass)"
        ),
        {"old": old},
    )
    for user, privilege, may_pass_on in granted.all():
        op.execute(f"GRANT {privilege} ON ledger TO {user}{' WITH GRANT OPTION' if may_pass_on else ''}")


def _forbid_changes(table: str) -> None:
    """For statements that name this very table, and for TRUNCATE, which asks no row."""
    op.execute(
        f"CREATE TRIGGER ledger_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
        "FOR EACH STATEMENT EXECUTE FUNCTION notifygate_append_only()"
    )


def _keep_as_a_partition(old: str, *, until: datetime) -> None:
    """Attach what the send log was; what is dated later goes to the partition for odd dates."""
    end = _micros(until)
    op.execute(f"INSERT INTO ledger_default SELECT * FROM {old} WHERE at >= {end}")  # noqa: S608
    op.execute(f"DELETE FROM {old} WHERE at >= {end}")  # noqa: S608
    op.execute(f"ALTER TABLE ledger ATTACH PARTITION {old} FOR VALUES FROM (MINVALUE) TO ({end})")
    _forbid_changes(old)


def _create_month(month: datetime) -> None:
    """Make a month's partition, unless a row of that month is in the partition for odd dates already.

    Such a month is made later, by whoever makes the months ahead, which moves its rows.
    """
    start, end = _micros(month), _micros(_next(month))
    taken = f"SELECT EXISTS (SELECT FROM ledger_default WHERE at >= {start} AND at < {end})"  # noqa: S608
    if op.get_bind().execute(sa.text(taken)).scalar_one():
        return
    name = f"ledger_{month:%Y_%m}"
    op.execute(f"CREATE TABLE {name} PARTITION OF ledger FOR VALUES FROM ({start}) TO ({end})")
    _forbid_changes(name)


def _micros(at: datetime) -> int:
    return int(at.timestamp()) * 1_000_000


def _month(at: datetime) -> datetime:
    return at.replace(day=1, hour=0, minute=0, second=0, microsecond=0)


def _next(month: datetime) -> datetime:
    return month.replace(year=month.year + month.month // 12, month=month.month % 12 + 1)
