"""`notifygate explain`: what became of a message, and why."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from notifygate.cli import output
from notifygate.cli.options import ConfigPath, Json, MessageId, reading
from notifygate.cli.output import Column

if TYPE_CHECKING:
    from notifygate.decision import Decision, Finding
    from notifygate.gateway import Gateway
    from notifygate.gateway.explanation import Explanation
    from notifygate.ledger.messages import Attempt


def explain(message_id: MessageId, config: ConfigPath = None, json: Json = False) -> None:
    """Tell what became of a message, and why: every decision with all its findings, every attempt to send.

    It is the short answer; 'notifygate log show' tells the consent and the rules behind it as well, for an auditor.
    """
    with reading(config) as gate:
        found = gate.explain(_message_of(gate, message_id))
    if json:
        output.json_line(found.to_json())
        return
    _show_facts(found)
    if not found.decisions:
        output.heading("Not decided yet")
    for number, decision in enumerate(found.decisions, 1):
        show_decision(decision, f"Decision {number} of {len(found.decisions)}")
    show_attempts(found.attempts)


def _message_of(gate: Gateway, given: str) -> str:
    """The message that an id names: its own, or that of an attempt to send it."""
    from notifygate.errors import NotFound

    if not given.startswith("att_"):
        return given
    row = next(gate.log.search(attempt_id=given, limit=1), None)
    if row is None or row.message_id is None:
        raise NotFound(f"no attempt {given!r}")
    return row.message_id


def _show_facts(found: Explanation) -> None:
    due = output.instant(found.due_at) if found.status in ("queued", "deferred") else None
    output.facts(
        [
            ("message", found.message_id),
            ("status", found.status.value),
            ("reason", found.reason),
            ("merchant", found.merchant),
            ("purpose", f"{found.purpose} ({found.purpose_class})"),
            ("to", found.contact_point or f"{found.channel}:(erased)"),
            ("person", found.person_id),
            ("role", found.role),
            ("purchase", " ".join(found.purchase) if found.purchase else None),
            ("submitted", output.instant(found.submitted_at)),
            ("decided next", due),
            ("not before", output.instant(found.send_after)),
            ("expires", output.instant(found.expires_at)),
            *((f"metadata {key}", value) for key, value in found.metadata.items()),
        ]
    )


def show_decision(decision: Decision, title: str) -> None:
    """Print a decision with all its findings."""
    until = f" until {output.instant(decision.until)}" if decision.until else ""
    output.heading(f"{title}: {decision.outcome}{until}, at {output.instant(decision.at)}")
    output.facts([("policy", decision.policy)])
    columns = [Column("rule"), Column("outcome", whole=True), Column("reason"), Column("why")]
    output.table(columns, [_row(finding) for finding in decision.findings])


def show_attempts(attempts: Sequence[Attempt]) -> None:
    """Print the attempts to send, if there were any."""
    if not attempts:
        return
    output.heading("Attempts")
    columns = [
        Column("attempt", whole=True),
        Column("reserved", whole=True),
        Column("result"),
        Column("detail"),
        Column("ended"),
        Column("provider's id"),
    ]
    if not output.is_terminal():
        rows: list[tuple[object, ...]] = [
            (
                one.attempt_id,
                output.instant(one.reserved_at),
                one.state,
                one.detail or "-",
                output.instant(one.ended_at) or "-",
                one.provider_id or "-",
            )
            for one in attempts
        ]
        output.table(columns, rows)
        return
    for one in attempts:
        output.facts(
            [
                ("attempt", one.attempt_id),
                ("reserved", output.instant(one.reserved_at)),
                ("result", one.state),
                ("detail", one.detail),
                ("ended", output.instant(one.ended_at)),
                ("provider's id", one.provider_id),
            ]
        )
        output.say()


def _row(finding: Finding) -> tuple[object, ...]:
    why = finding.text
    if finding.until is not None:
        why += f" Until {output.instant(finding.until)}."
    if finding.evidence:
        why += f"\n[{evidence(finding.evidence)}]"
    return finding.rule, finding.outcome.value, str(finding.reason), why


_LOCAL_TIME = "local_time"  # shown as it is: the recipient's own time is what the rule went by


def evidence(facts: Mapping[str, Any]) -> str:
    """Facts on one line, such as `limit=2, window=7d`."""
    return ", ".join(
        f"{name}={' '.join(value) if name == _LOCAL_TIME else _value(value)}"
        for name, value in facts.items()
        if value is not None
    )


def _value(value: object) -> str:
    if isinstance(value, str):
        try:
            at = datetime.fromisoformat(value)
        except ValueError:
            return value
        return output.instant(at) if at.utcoffset() is not None else value
    if isinstance(value, list | tuple):
        return " ".join(_value(one) for one in value)
    if isinstance(value, Mapping):
        return f"({evidence(value)})"
    return str(value)
