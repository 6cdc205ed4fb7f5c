"""What the rules say: a finding for each rule, and the decision that they add up to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any, Self

Evidence = Mapping[str, Any]
"""JSON-compatible facts behind a finding: ids, counts, limits, instants (ISO 8601, UTC). Never an address."""


class Outcome(StrEnum):
    """What a rule, or all of them together, say."""

    ALLOW = "allow"
    DEFER = "defer"
    DENY = "deny"


class Reason(StrEnum):
    """Why: the closed list of reason codes of the built-in rules. A plug-in rule brings its own."""

    PASSED = "passed"
    NOT_APPLICABLE = "not_applicable"

    SUPPRESSED_HARD_BOUNCE = "suppressed_hard_bounce"
    SUPPRESSED_COMPLAINT = "suppressed_complaint"
    SUPPRESSED_ERASED = "suppressed_erased"
    SUPPRESSED_MANUAL = "suppressed_manual"

    CONSENT_NOT_NEEDED = "consent_not_needed"
    CONSENT_GRANTED = "consent_granted"
    CONSENT_SOFT_OPT_IN = "consent_soft_opt_in"
    CONSENT_NEUTRAL_POST_SALE = "consent_neutral_post_sale"
    CONSENT_REQUESTED = "consent_requested"
    CONSENT_MISSING = "consent_missing"
    CONSENT_PENDING = "consent_pending"
    CONSENT_EXPIRED = "consent_expired"
    CONSENT_INVALIDATED = "consent_invalidated"
    CONSENT_WITHDRAWN = "consent_withdrawn"
    CONSENT_OBJECTED = "consent_objected"
    CONSENT_REFUSED = "consent_refused"

    CONFIRMATION_SENT = "confirmation_sent"

    PURCHASE_MISSING = "purchase_missing"
    PURCHASE_ALREADY_ASKED = "purchase_already_asked"
    PERSON_ASKED_RECENTLY = "person_asked_recently"
    PERSON_ASKED_BY_MERCHANT_RECENTLY = "person_asked_by_merchant_recently"
    REVIEW_EXISTS = "review_exists"
    SELLER_ASKS_ITSELF = "seller_asks_itself"
    NOT_THE_BUYER = "not_the_buyer"
    REVIEW_NOT_DUE = "review_not_due"
    REVIEW_TOO_LATE = "review_too_late"
    CASE_OPEN = "case_open"

    DUPLICATE = "duplicate"
    CAP_REACHED = "cap_reached"
    QUIET_HOURS = "quiet_hours"
    TIMEZONE_UNKNOWN = "timezone_unknown"
    MISDECLARED_CLASS = "misdeclared_class"
    EXPIRED = "expired"

    UNKNOWN_MERCHANT = "unknown_merchant"
    UNKNOWN_PURPOSE = "unknown_purpose"
    RULE_ERROR = "rule_error"


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one rule says. `text` is a sentence for a compliance officer; `until` goes with `defer` only."""

    rule: str = ""
    outcome: Outcome
    reason: str
    text: str
    evidence: Evidence = field(default_factory=dict, hash=False)
    until: datetime | None = None

    def __post_init__(self) -> None:
        if (self.outcome is Outcome.DEFER) != (self.until is not None):
            raise ValueError("until: goes with defer, and with nothing else")
        if self.until is not None and self.until.utcoffset() is None:
            raise ValueError("until: must be timezone-aware")

    @classmethod
    def allow(cls, reason: str, text: str, **evidence: Any) -> Self:
        return cls(outcome=Outcome.ALLOW, reason=reason, text=text, evidence=evidence)

    @classmethod
    def deny(cls, reason: str, text: str, **evidence: Any) -> Self:
        return cls(outcome=Outcome.DENY, reason=reason, text=text, evidence=evidence)

    @classmethod
    def defer(cls, until: datetime, reason: str, text: str, **evidence: Any) -> Self:
        return cls(outcome=Outcome.DEFER, reason=reason, text=text, evidence=evidence, until=until)

    def by(self, rule: str) -> Finding:
        """This finding, signed with the name of the rule that made it."""
        if self.rule == rule:
            return self
        return Finding(
            rule=rule,
            outcome=self.outcome,
            reason=self.reason,
            text=self.text,
            evidence=self.evidence,
            until=self.until,
        )

    def to_json(self) -> dict[str, Any]:
        shown: dict[str, Any] = {
            "rule": self.rule,
            "outcome": str(self.outcome),
            "reason": str(self.reason),
            "text": self.text,
            "evidence": dict(self.evidence),
        }
        if self.until is not None:
            shown["until"] = self.until.isoformat()
        return shown

    @classmethod
    def from_json(cls, shown: Mapping[str, Any]) -> Self:
        until = shown.get("until")
        return cls(
            rule=shown["rule"],
            outcome=Outcome(shown["outcome"]),
            reason=shown["reason"],
            text=shown["text"],
            evidence=shown["evidence"],
            until=datetime.fromisoformat(until) if until else None,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """All findings of one evaluation and what they add up to.

    Any deny makes it a deny; else any defer defers to the latest `until`; else it is an allow.
    """

    outcome: Outcome
    findings: tuple[Finding, ...]
    at: datetime
    policy: str
    until: datetime | None = None

    @classmethod
    def of(cls, findings: Sequence[Finding], *, at: datetime, policy: str) -> Self:
        """Combine findings, made at instant `at` under the policy with that hash."""
        until = None
        outcomes = [finding.outcome for finding in findings]
        if Outcome.DENY in outcomes:
            outcome = Outcome.DENY
        elif Outcome.DEFER in outcomes:
            outcome = Outcome.DEFER
            until = max(finding.until for finding in findings if finding.until is not None)
        else:
            outcome = Outcome.ALLOW
        return cls(outcome=outcome, findings=tuple(findings), at=at, policy=policy, until=until)

    @property
    def determining(self) -> tuple[Finding, ...]:
        """The findings that made the outcome: every deny of a denial, every defer of a deferral."""
        return tuple(finding for finding in self.findings if finding.outcome is self.outcome)

    @property
    def reasons(self) -> tuple[str, ...]:
        """The reason codes of the determining findings of a deny or defer; empty for an allow."""
        if self.outcome is Outcome.ALLOW:
            return ()
        return tuple(finding.reason for finding in self.determining)

    @property
    def reason(self) -> str | None:
        """The first of `reasons`."""
        return self.reasons[0] if self.reasons else None

    def to_json(self) -> dict[str, Any]:
        return {
            "outcome": self.outcome.value,
            "reasons": [str(reason) for reason in self.reasons],
            "until": self.until.isoformat() if self.until else None,
            "at": self.at.isoformat(),
            "policy": self.policy,
            "findings": [finding.to_json() for finding in self.findings],
        }

    @classmethod
    def from_json(cls, shown: Mapping[str, Any]) -> Self:
        findings = [Finding.from_json(finding) for finding in shown["findings"]]
        return cls.of(findings, at=datetime.fromisoformat(shown["at"]), policy=shown["policy"])
