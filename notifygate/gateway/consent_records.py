"""Consent events under the field names of ISO/IEC TS 27560, and back from them.

ISO/IEC TS 27560:2023, "Privacy technologies - Consent record information structure", gives a consent record a header
(6.3.3), a section on the processing of personally identifiable information, PII (6.3.4 and 6.3.5), the parties (6.3.6)
and events (6.3.7). The names of its fields, and which of them it requires, are taken from the guide of the W3C Data
Privacy Vocabularies Community Group, "Implementing ISO/IEC TS 27560:2023 Consent Records and Receipts"
(https://w3id.org/dpv/guides/consent-27560), which lists them all; the standard itself is sold. Written with underscores
they are the names used here. What notifygate knows beside them keeps its own name: both lists are in
`docs/consent-files.md`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from itertools import groupby
from typing import Any

from notifygate.consent import ConsentEvent, State
from notifygate.gateway.consent_exports import Exported
from notifygate.policy import Policy

SCHEMA_VERSION = "ISO/IEC TS 27560:2023; notifygate/1"

COLUMNS = (
    "schema_version",
    "record_id",
    "pii_principal_id",
    "contact_point",
    "pii_controllers",
    "purpose",
    "purpose_type",
    "event_id",
    "event_time",
    "validity_duration",
    "entity_id",
    "event_type",
    "event_state",
    "lawful_basis",
    "privacy_notice",
    "collection_method",
    "channel",
    "state",
    "expires_at",
    "recorded_at",
    "evidence",
    "sale_ref",
    "opt_out_offered",
    "includes_service",
    "invalidates",
    "spread_from",
)
"""The columns of an export, a row for each event."""

OURS = {
    "event_time": "occurred_at",
    "lawful_basis": "basis",
    "privacy_notice": "notice_version",
    "collection_method": "source",
    "pii_controllers": "party",
    "event_id": "row_key",
}
"""Fields of an export that say what a field of ours says."""

TOLD_ONLY = (
    "schema_version",
    "record_id",
    "pii_principal_id",
    "purpose_type",
    "event_type",
    "recorded_at",
    "spread_from",
)
"""Fields of an export that an import passes over: it finds them out itself, or has no use for them."""

STATES = {
    State.GRANTED: "consent given",
    State.SOFT_OPT_IN: "not consent: existing customer",
    State.REQUESTED: "consent requested",
    State.WITHDRAWN: "consent withdrawn",
    State.OBJECTED: "objection",
    State.REFUSED: "consent refused",
    State.INVALIDATED: "consent invalidated",
}
"""What `event_state` says for each state."""

STATE_OF = {told: state for state, told in STATES.items()} | {
    "consent revoked": State.WITHDRAWN,
    "given": State.GRANTED,
    "requested": State.REQUESTED,
    "withdrawn": State.WITHDRAWN,
    "revoked": State.WITHDRAWN,
    "refused": State.REFUSED,
}
"""What an `event_state` means, also as others write it."""

_IN_EVENT = (
    "event_id",
    "event_time",
    "validity_duration",
    "entity_id",
    "event_type",
    "event_state",
    "lawful_basis",
    "privacy_notice",
    "collection_method",
    *COLUMNS[COLUMNS.index("channel") :],
)
_DURATION = re.compile(
    r"P(?:(?P<weeks>\d+)W)?(?:(?P<days>\d+)D)?"
    r"(?:T(?:(?P<hours>\d+)H)?(?:(?P<minutes>\d+)M)?(?:(?P<seconds>\d+)(?:\.(?P<fraction>\d{1,6}))?S)?)?"
)


def row_of(one: Exported, policy: Policy, *, with_addresses: bool = True) -> dict[str, Any]:
    """An event as one flat row: every name of `COLUMNS`, None where there is nothing to say.

    Without addresses the contact point is told by its id, and what people typed is left out: source,
    evidence, sale and actor.
    """
    event = one.event if with_addresses else _without_free_texts(one.event)
    purpose = policy.purposes.get(event.purpose)
    lasts = event.expires_at - event.occurred_at if event.expires_at and event.occurred_at else None
    return {
        "schema_version": SCHEMA_VERSION,
        "record_id": ":".join((one.contact_point_id, event.party, event.purpose)),
        "pii_principal_id": one.person_id,
        "contact_point": str(event.contact_point) if with_addresses else one.contact_point_id,
        "pii_controllers": event.party,
        "purpose": event.purpose,
        "purpose_type": str(purpose.purpose_class) if purpose else None,
        "event_id": one.key,
        "event_time": event.occurred_at.isoformat() if event.occurred_at else None,
        "validity_duration": duration(lasts) if lasts is not None else None,
        "entity_id": event.actor or one.person_id,
        "event_type": "implied" if event.state is State.SOFT_OPT_IN else "expressed",
        "event_state": STATES[State(event.state)],
        "lawful_basis": event.basis,
        "privacy_notice": event.notice_version,
        "collection_method": event.source,
        "channel": event.channel,
        "state": str(event.state),
        "expires_at": event.expires_at.isoformat() if event.expires_at else None,
        "recorded_at": event.recorded_at.isoformat() if event.recorded_at else None,
        "evidence": event.evidence,
        "sale_ref": event.sale_ref,
        "opt_out_offered": event.opt_out_offered,
        "includes_service": event.includes_service,
        "invalidates": event.invalidates,
        "spread_from": one.spread_from,
    }


def records_of(
    exported: Iterable[Exported], policy: Policy, *, with_addresses: bool = True
) -> Iterator[dict[str, Any]]:
    """Events as consent records: one for each contact point, party and purpose, with its events in order."""
    for _, of_point in groupby(exported, key=lambda one: one.contact_point_id):
        rows: dict[str, list[dict[str, Any]]] = {}
        for one in of_point:
            row = row_of(one, policy, with_addresses=with_addresses)
            rows.setdefault(row["record_id"], []).append(row)
        for events in rows.values():
            yield _record(events, policy)


def events_of(record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A consent record as flat rows, one for each of its events; a row that is flat already is left as it is.

    Raises `ValueError`, whose text names the field at fault, for one that is not put together as ours are.
    """
    if "events" not in record:
        yield dict(record)
        return
    events, processing = record["events"], record.get("pii_processing", {})
    if not isinstance(events, list) or not all(isinstance(event, dict) for event in events):
        raise ValueError("events: a list of objects is wanted")
    if not isinstance(processing, dict):
        raise ValueError(  # noqa: TRY004  # the value of a field is at fault, as above
            "pii_processing: an object is wanted"
        )
    common = {
        name: value
        for name, value in record.items()
        if name not in ("events", "pii_processing", "party_identification")
    }
    purposes, controllers = processing.get("purposes", []), processing.get("pii_controllers", [])
    for name, found in (("purposes", purposes), ("pii_controllers", controllers)):
        if not isinstance(found, list) or len(found) > 1:
            raise ValueError(f"{name}: a list of one is wanted; a record is about one purpose and one party")
    if purposes:
        common |= purposes[0] if isinstance(purposes[0], dict) else {"purpose": purposes[0]}
    if controllers:
        common["pii_controllers"] = controllers[0]
    for event in events:
        yield common | event


def duration(lasts: timedelta) -> str:
    """A length of time as ISO 8601 writes it, such as `P30DT1H`."""
    days, rest = divmod(lasts, timedelta(days=1))
    seconds, micros = divmod(rest, timedelta(seconds=1))
    fraction = f".{micros.microseconds:06d}" if micros else ""
    clock = f"T{seconds}{fraction}S" if rest else ""
    return f"P{days}D{clock}"


def read_duration(text: str) -> timedelta:
    """Read a length of time in weeks, days, hours, minutes and seconds. Raises `ValueError` for anything else."""
    match = _DURATION.fullmatch(text)
    if match is None or text.endswith(("P", "T")):
        raise ValueError("no length of time")
    parts = {name: int(value) for name, value in match.groupdict().items() if value and name != "fraction"}
    micros = int((match["fraction"] or "").ljust(6, "0"))
    try:
        return timedelta(microseconds=micros, **parts)
    except OverflowError as error:
        raise ValueError("too long a time") from error


def _record(rows: list[dict[str, Any]], policy: Policy) -> dict[str, Any]:
    first = rows[0]
    party = first["pii_controllers"]
    known = policy.merchants.get(party) or policy.groups.get(party)
    types = {"email": "email address", "sms": "telephone number"}
    channels = {row["channel"] for row in rows}
    return {
        "schema_version": first["schema_version"],
        "record_id": first["record_id"],
        "pii_principal_id": first["pii_principal_id"],
        "contact_point": first["contact_point"],
        "pii_processing": {
            "purposes": [
                _said({"purpose": first["purpose"], "purpose_type": first["purpose_type"]}),
            ],
            "pii_information": [
                {"pii_type": told} for channel, told in types.items() if channels & {channel, "*"}
            ],
            "pii_controllers": [party],
        },
        "party_identification": [
            _said(
                {
                    "party_id": party,
                    "party_name": known.name if known else None,
                    "party_role": "PII controller",
                }
            )
        ],
        "events": [_said({name: row[name] for name in _IN_EVENT}) for row in rows],
    }


def _said(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _without_free_texts(event: ConsentEvent) -> ConsentEvent:
    return replace(event, source=None, evidence=None, sale_ref=None, actor=None)
