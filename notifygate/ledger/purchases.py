"""Purchases under all their names, and the asks made about them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from notifygate.ids import new_id
from notifygate.ledger import rows
from notifygate.ledger.messages import wake
from notifygate.ledger.schema import asks, purchase_names, purchases
from notifygate.message import Purchase
from notifygate.snapshot import Ask, PurchaseFacts

_Name = tuple[str, str]
_DATES = ("purchased_at", "delivered_at")

_FIND_NAMES = rows.Query(
    sa.select(
        purchase_names.c.party,
        purchase_names.c.reference,
        purchase_names.c.name_id,
        purchase_names.c.purchase_id,
    ).where(rows.is_pair(purchase_names.c.party, purchase_names.c.reference, rows.listed("names")))
)
_BY_NAME_IDS = rows.Query(
    sa.select(purchase_names.c.name_id, purchase_names.c.purchase_id).where(
        rows.is_among(purchase_names.c.name_id, rows.listed("names"))
    )
)
_LOCK = rows.Query(
    sa.select(purchases.c.purchase_id)
    .where(rows.is_among(purchases.c.purchase_id, rows.listed("purchases")))
    .order_by(purchases.c.purchase_id)
    .with_for_update()
)
_FACTS = (
    "purchase_id",
    "seller",
    "known_since",
    "purchased_at",
    "delivered_at",
    "reviewed_at",
    "case_open_since",
)
_FACTS_OF = rows.Query(
    sa.select(*(purchases.c[name] for name in _FACTS)).where(
        rows.is_among(purchases.c.purchase_id, rows.listed("purchases"))
    )
)
_ASK = (asks.c.ask_id, asks.c.by, asks.c.asked_at, asks.c.message_id)
_ASKS_OF_PURCHASES = rows.Query(
    sa.select(asks.c.purchase_id, *_ASK).where(rows.is_among(asks.c.purchase_id, rows.listed("purchases")))
)
_ASKS_OF_POINTS = rows.Query(
    sa.select(asks.c.contact_point_id, *_ASK).where(
        rows.is_among(asks.c.contact_point_id, rows.listed("points"))
    )
)
_TAKEN_SLOTS = rows.Query(
    sa.select(asks.c.purchase_id, asks.c.slot).where(
        rows.is_among(asks.c.purchase_id, rows.listed("purchases"))
    )
)


def find_names(conn: sa.Connection, names: Iterable[_Name]) -> dict[_Name, tuple[str, str]]:
    """For each `(party, reference)` that is known: the id of the name, and of the purchase behind it."""
    wanted = set(names)
    if not wanted:
        return {}
    found = _FIND_NAMES(conn, names=wanted)
    return {(party, reference): (name, purchase) for party, reference, name, purchase in found}


def ensure(conn: sa.Connection, wanted: Iterable[Purchase], now: datetime) -> dict[_Name, tuple[str, str]]:
    """Create the purchases that are new, and fill in dates that were not known; return as `find_names` does.

    A date that is known stays: a later message cannot move the time of an ask.
    """
    by_name: dict[_Name, Purchase] = {}
    for purchase in wanted:
        name = (purchase.seller, purchase.order_id)
        by_name[name] = _with_dates_of(by_name.get(name, purchase), purchase)
    known = find_names(conn, by_name)
    if missing := sorted(by_name.keys() - known.keys()):
        new = [_new_purchase(by_name[name], now) for name in missing]
        rows.insert(conn, purchases, new)
        names = [_new_name(one["seller"], one["order_id"], one["purchase_id"]) for one in new]
        rows.insert_new(conn, purchase_names, names)
        known |= find_names(conn, missing)
        _drop_unnamed(conn, [one["purchase_id"] for one in new], known)
    _fill_in_dates(conn, {known[name][1]: by_name[name] for name in by_name}, now)
    return known


def dates_told(purchase: Purchase | None) -> dict[str, str]:
    """The dates of a purchase that somebody tells, for a ledger row: so it can be said later what was known when."""
    told = {} if purchase is None else {name: getattr(purchase, name) for name in _DATES}
    return {name: at.isoformat() for name, at in told.items() if at is not None}


def is_news(conn: sa.Connection, purchase: Purchase) -> bool:
    """Whether a purchase is new, or a date of it that somebody tells."""
    name = (purchase.seller, purchase.order_id)
    found = find_names(conn, [name]).get(name)
    if found is None:
        return True
    known = facts(conn, [found[1]])[found[1]]
    return any(getattr(known, date) is None for date in dates_told(purchase))


def by_name_ids(conn: sa.Connection, name_ids: Collection[str]) -> dict[str, str]:
    """The purchase that each name stands for, by their ids."""
    if not name_ids:
        return {}
    return dict(_BY_NAME_IDS(conn, names=name_ids))


def lock(conn: sa.Connection, purchase_ids: Collection[str]) -> None:
    """Hold some purchases until the transaction ends. Persons, where needed too, are locked before."""
    if not purchase_ids:
        return
    _LOCK(conn, purchases=purchase_ids)


def facts(conn: sa.Connection, purchase_ids: Collection[str]) -> dict[str, PurchaseFacts]:
    """What is known of some purchases, with the asks made about each."""
    if not purchase_ids:
        return {}
    made: defaultdict[str, list[Ask]] = defaultdict(list)
    for purchase_id, *ask in _ASKS_OF_PURCHASES(conn, purchases=purchase_ids):
        made[purchase_id].append(_ask(*ask))
    return {
        row[0]: PurchaseFacts(**dict(zip(_FACTS, row, strict=True)), asks=tuple(made[row[0]]))
        for row in _FACTS_OF(conn, purchases=purchase_ids)
    }


def order_ids(conn: sa.Connection, purchase_ids: Collection[str]) -> dict[str, tuple[str, str]]:
    """The seller and the seller's own order id of some purchases: what customers know them by."""
    query = sa.select(purchases.c.purchase_id, purchases.c.seller, purchases.c.order_id).where(
        rows.is_among(purchases.c.purchase_id, purchase_ids)
    )
    return {purchase: (seller, order) for purchase, seller, order in conn.execute(query)}


def names_of(conn: sa.Connection, purchase_id: str) -> list[tuple[str, str]]:
    """All names that a purchase goes by, as `(party, reference)`, in the order in which they were learnt."""
    query = sa.select(purchase_names.c.party, purchase_names.c.reference)
    query = query.where(purchase_names.c.purchase_id == purchase_id).order_by(purchase_names.c.name_id)
    return [(party, reference) for party, reference in conn.execute(query)]


def free_slots(conn: sa.Connection, purchase_ids: Collection[str]) -> dict[str, Iterable[int]]:
    """For each purchase an endless supply of places that no ask has taken, lowest first."""
    if not purchase_ids:
        return {}
    taken: defaultdict[str, set[int]] = defaultdict(set)
    for purchase_id, slot in _TAKEN_SLOTS(conn, purchases=purchase_ids):
        taken[purchase_id].add(slot)
    return {purchase_id: _free(taken[purchase_id]) for purchase_id in purchase_ids}


def add_asks(conn: sa.Connection, new: Sequence[dict[str, Any]]) -> None:
    """Take places. Raises `LedgerConflict` (at the end of the transaction's block) if one is taken."""
    rows.insert(conn, asks, new)


def release_asks(conn: sa.Connection, attempt_ids: Collection[str]) -> None:
    """Give back the places of attempts that definitely came to nothing."""
    if attempt_ids:
        conn.execute(sa.delete(asks).where(rows.is_among(asks.c.attempt_id, attempt_ids)))


def asks_of_points(conn: sa.Connection, contact_point_ids: Collection[str]) -> dict[str, list[Ask]]:
    """The asks that reached some contact points, by contact point."""
    found: defaultdict[str, list[Ask]] = defaultdict(list)
    for point_id, *ask in _ASKS_OF_POINTS(conn, points=contact_point_ids):
        found[point_id].append(_ask(*ask))
    return found


def merge(conn: sa.Connection, *, into: str, other: str) -> None:
    """Make one purchase of two, which must both be locked: names and asks move, dates fill gaps.

    Of two reviews the earlier counts. Asks keep counting even where both purchases were asked about.
    """
    free = iter(free_slots(conn, [into])[into])
    for (ask_id,) in conn.execute(
        sa.select(asks.c.ask_id).where(asks.c.purchase_id == other).order_by(asks.c.slot)
    ).all():
        moved = sa.update(asks).where(asks.c.ask_id == ask_id)
        conn.execute(moved.values(purchase_id=into, slot=next(free)))
    conn.execute(
        sa.update(purchase_names).where(purchase_names.c.purchase_id == other).values(purchase_id=into)
    )
    found = {
        row.purchase_id: row
        for row in conn.execute(sa.select(purchases).where(purchases.c.purchase_id.in_([into, other])))
    }
    kept, gone = found[into], found[other]
    reviews = [at for at in (kept.reviewed_at, gone.reviewed_at) if at is not None]
    cases = [at for at in (kept.case_open_since, gone.case_open_since) if at is not None]
    conn.execute(
        sa.update(purchases)
        .where(purchases.c.purchase_id == into)
        .values(
            known_since=min(kept.known_since, gone.known_since),
            purchased_at=kept.purchased_at or gone.purchased_at,
            delivered_at=kept.delivered_at or gone.delivered_at,
            reviewed_at=min(reviews) if reviews else None,
            case_open_since=min(cases) if cases else None,
        )
    )


def add_name(conn: sa.Connection, purchase_id: str, party: str, reference: str) -> None:
    """Give a purchase one more name, unless the name is taken."""
    rows.insert_new(conn, purchase_names, [_new_name(party, reference, purchase_id)])


def set_reviewed(conn: sa.Connection, purchase_id: str, at: datetime) -> None:
    """Record that a review exists; the earliest date stays."""
    columns = purchases.c
    conn.execute(
        sa.update(purchases)
        .where(columns.purchase_id == purchase_id)
        .where(columns.reviewed_at.is_(None) | (columns.reviewed_at > at))
        .values(reviewed_at=at)
    )


def set_case(conn: sa.Connection, purchase_id: str, open_since: datetime | None) -> None:
    """Record that a case about a purchase is open, or with None that none is."""
    conn.execute(
        sa.update(purchases).where(purchases.c.purchase_id == purchase_id).values(case_open_since=open_since)
    )


def _free(taken: set[int]) -> Iterable[int]:
    slot = 1
    while True:
        if slot not in taken:
            yield slot
        slot += 1


def _ask(ask_id: str, by: str, at: datetime, message_id: str | None) -> Ask:
    return Ask(ask_id=ask_id, by=by, at=at, message_id=message_id)


def _new_purchase(purchase: Purchase, now: datetime) -> dict[str, Any]:
    return {
        "purchase_id": new_id("pur"),
        "seller": purchase.seller,
        "order_id": purchase.order_id,
        "known_since": now,
        "purchased_at": purchase.purchased_at,
        "delivered_at": purchase.delivered_at,
    }


def _new_name(party: str, reference: str, purchase_id: str) -> dict[str, Any]:
    return {
        "name_id": new_id("pnm"),
        "party": party,
        "reference": reference,
        "purchase_id": purchase_id,
    }


def _drop_unnamed(conn: sa.Connection, created: list[str], known: dict[_Name, tuple[str, str]]) -> None:
    """Remove purchases that another transaction named first: its own are in force."""
    named = {purchase for _, purchase in known.values()}
    if unnamed := [purchase for purchase in created if purchase not in named]:
        conn.execute(sa.delete(purchases).where(rows.is_among(purchases.c.purchase_id, unnamed)))


def _with_dates_of(purchase: Purchase, other: Purchase) -> Purchase:
    return replace(
        purchase,
        purchased_at=purchase.purchased_at or other.purchased_at,
        delivered_at=purchase.delivered_at or other.delivered_at,
    )


def _fill_in_dates(conn: sa.Connection, told: dict[str, Purchase], now: datetime) -> None:
    columns = purchases.c
    for purchase_id in sorted(told):
        news = {name: getattr(told[purchase_id], name) for name in _DATES}
        missing = [columns[name].is_(None) for name, at in news.items() if at is not None]
        if not missing:
            continue
        # In one statement, so that of two transactions that tell different dates neither takes away the other's.
        filled = conn.execute(
            sa.update(purchases)
            .where(columns.purchase_id == purchase_id, sa.or_(*missing))
            .values(
                {
                    name: sa.func.coalesce(columns[name], sa.literal(at, columns[name].type))
                    for name, at in news.items()
                }
            )
        )
        if filled.rowcount:
            wake(conn, purchase_id, now)  # what waited for a date may be due earlier
