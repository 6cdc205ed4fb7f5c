"""How what was expected differs from what was decided, in plain sentences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from notifygate.config import values
from notifygate.decision import Decision, Finding, Outcome, Reason
from notifygate.gateway.explanation import Explanation
from notifygate.message import Status
from notifygate.scenarios.forms import Expect

RULE_OF: Mapping[str, str] = {
    reason: rule
    for rule, reasons in {
        "suppression": [reason for reason in Reason if reason.startswith("suppressed_")],
        "consent": [
            *(reason for reason in Reason if reason.startswith("consent_")),
            Reason.CONFIRMATION_SENT,
        ],
        "content": [Reason.MISDECLARED_CLASS],
        "review_request": [
            Reason.PURCHASE_MISSING,
            Reason.PURCHASE_ALREADY_ASKED,
            Reason.PERSON_ASKED_RECENTLY,
            Reason.PERSON_ASKED_BY_MERCHANT_RECENTLY,
            Reason.REVIEW_EXISTS,
            Reason.SELLER_ASKS_ITSELF,
            Reason.NOT_THE_BUYER,
            Reason.REVIEW_NOT_DUE,
            Reason.REVIEW_TOO_LATE,
            Reason.CASE_OPEN,
        ],
        "dedupe": [Reason.DUPLICATE],
        "caps": [Reason.CAP_REACHED],
        "quiet_hours": [Reason.QUIET_HOURS, Reason.TIMEZONE_UNKNOWN],
        "expiry": [Reason.EXPIRED],
    }.items()
    for reason in reasons
}
"""Which of the built-in rules gives a reason."""


def between(expect: Expect, decision: Decision, status: Status | None = None) -> Iterator[str]:
    """Yield a sentence for each thing that is not as expected."""
    if decision.outcome is not expect.outcome or sorted(decision.reasons) != sorted(expect.reasons):
        expected, got = _named(expect.outcome, expect.reasons), _named(decision.outcome, decision.reasons)
        findings = (said(finding) for finding in _telling(decision, expect))
        yield "; ".join([f"expected {expected}, got {got}", *findings, *_misspelt(expect.reasons)])
    elif expect.until is not None and decision.until is not None and decision.until != expect.until:
        got = decision.until.astimezone(expect.until.tzinfo).isoformat()
        findings = (said(finding) for finding in decision.determining)
        yield "; ".join([f"expected to wait until {expect.until.isoformat()}, got {got}", *findings])
    if expect.status is not None and status is not expect.status:
        yield f"expected the status {expect.status}, got {status}"


def told(explanation: Explanation) -> str:
    """What became of a message, in one sentence."""
    decision = explanation.decision
    if decision is None or decision.outcome is Outcome.ALLOW:
        return f"it is {explanation.status}" + (f" ({explanation.reason})" if explanation.reason else "")
    why = "; ".join(said(finding) for finding in decision.determining)
    return f"it is {explanation.status} [{', '.join(decision.reasons)}]; {why}"


def said(finding: Finding) -> str:
    """What a rule says, with its name."""
    return f"the {finding.rule} rule says: {finding.text}"


def _named(outcome: Outcome, reasons: Sequence[str]) -> str:
    return f"{outcome} [{', '.join(reasons)}]" if reasons else str(outcome)


def _telling(decision: Decision, expect: Expect) -> Iterator[Finding]:
    """The findings that explain a difference: those that made the outcome, and those that were expected to."""
    missed = {RULE_OF.get(reason) for reason in expect.reasons if reason not in decision.reasons}
    for finding in decision.findings:
        made_it = decision.outcome is not Outcome.ALLOW and finding in decision.determining
        is_news = finding.reason not in expect.reasons or decision.outcome is not expect.outcome
        if (made_it and is_news) or finding.rule in missed:
            yield finding


def _misspelt(reasons: Sequence[str]) -> Iterator[str]:
    """A word on reasons that no built-in rule gives; one of a plug-in rule may still be right."""
    for reason in reasons:
        if reason not in RULE_OF and (near := values.nearest(reason, RULE_OF, likeness=0.8)):
            yield f'no built-in rule gives the reason "{reason}"; did you mean "{near}"?'
