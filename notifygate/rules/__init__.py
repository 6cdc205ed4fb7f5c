"""The rules, and how their findings become a decision.

A rule is one file with one function `check(request, snapshot, policy, now) -> Finding`, and one entry in `RULES`.
No rule knows another; all of them always run. `expiry` comes last, because it looks at the deferral of the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from datetime import datetime

import orjson

from notifygate.decision import Decision, Finding, Reason
from notifygate.policy import Policy
from notifygate.rules import caps, consent, content, dedupe, expiry, quiet_hours, review_request, suppression
from notifygate.snapshot import Request, Snapshot

Rule = Callable[[Request, Snapshot, Policy, datetime], Finding]

RULES: tuple[tuple[str, Rule], ...] = (
    ("suppression", suppression.check),
    ("consent", consent.check),
    ("content", content.check),
    ("review_request", review_request.check),
    ("dedupe", dedupe.check),
    ("caps", caps.check),
    ("quiet_hours", quiet_hours.check),
)
_BUILT_IN = frozenset(rule for _, rule in RULES)


def evaluate(
    request: Request,
    snapshot: Snapshot,
    policy: Policy,
    now: datetime,
    *,
    rules: Sequence[tuple[str, Rule]] = RULES,
) -> Decision:
    """Decide one request. Pure: the same arguments give the same decision, for ever.

    An unknown merchant or purpose is denied before any rule runs. A rule that raises denies with `rule_error`:
    what cannot be judged is not sent.
    """
    if unknown := _unknown(request, policy):
        return Decision.of([unknown], at=now, policy=policy.hash)
    findings = [_run(name, rule, request, snapshot, policy, now) for name, rule in rules]
    until = Decision.of(findings, at=now, policy=policy.hash).until if request.expires_at else None
    findings.append(expiry.check(request, now, until=until).by("expiry"))
    return Decision.of(findings, at=now, policy=policy.hash)


def _unknown(request: Request, policy: Policy) -> Finding | None:
    if request.merchant not in policy.merchants:
        text = f"No merchant {request.merchant!r} in the policy, so nothing is sent in its name."
        return Finding.deny(Reason.UNKNOWN_MERCHANT, text, merchant=request.merchant).by("policy")
    if request.purpose not in policy.purposes:
        text = f"No purpose {request.purpose!r} in the policy, so nothing is sent for it."
        return Finding.deny(Reason.UNKNOWN_PURPOSE, text, purpose=request.purpose).by("policy")
    return None


def _check_that_it_can_be_written_down(finding: Finding) -> None:
    """Raise `ValueError` or `TypeError` where not: it would keep a whole batch from being decided."""
    # As deep as it stands in a decision, in a row of the send log, in its canonical form.
    shown = [[[finding.to_json()]]]
    json.dumps(shown, allow_nan=False)
    written = orjson.dumps(shown, option=orjson.OPT_SORT_KEYS)  # as the send log has it
    if b"\\u0000" in written:  # which PostgreSQL does not take
        raise ValueError("a finding holds a NUL character")


def _run(
    name: str, rule: Rule, request: Request, snapshot: Snapshot, policy: Policy, now: datetime
) -> Finding:
    try:
        finding = rule(request, snapshot, policy, now).by(name)
        if rule not in _BUILT_IN:
            _check_that_it_can_be_written_down(finding)
        if finding.until is not None and finding.until <= now:
            # It would be decided for ever.
            raise ValueError("until: must be later than now")
    except Exception as error:  # noqa: BLE001  # fail closed, whatever a rule raises
        text = f"The rule {name} failed with {type(error).__name__}, so nothing is sent."
        return Finding.deny(Reason.RULE_ERROR, text, error=type(error).__name__).by(name)
    return finding
