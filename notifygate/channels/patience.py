"""How long one batch goes on trying a provider that does not answer.

Without this, a batch of 100 messages and a timeout of 30 seconds hold a worker for 50 minutes, long after the
leases of the reservations ran out.
"""

from __future__ import annotations

from dataclasses import replace
from enum import Enum, auto

from notifygate.channels import HandOffOutcome, Result

_TIMEOUTS_IN_A_ROW = 2


class Trouble(Enum):
    """What an attempt says about the provider, besides its outcome."""

    NONE = auto()
    UNREACHABLE = auto()
    TIMEOUT = auto()


class Patience:
    """One batch's patience: it ends with one failure to connect, or with two timeouts in a row.

    Once it has ended, `refusal` is the outcome of every further message of the batch: `failed`, for it was
    never handed over. The next batch tries again.
    """

    def __init__(self) -> None:
        self.refusal: HandOffOutcome | None = None
        self._timeouts = 0

    def saw(self, outcome: HandOffOutcome, trouble: Trouble) -> HandOffOutcome:
        """Take note of an attempt's outcome; return it, marked where it ended the patience."""
        self._timeouts = self._timeouts + 1 if trouble is Trouble.TIMEOUT else 0
        if trouble is Trouble.UNREACHABLE or self._timeouts >= _TIMEOUTS_IN_A_ROW:
            outcome = replace(outcome, channel_down=True)
            self.refusal = HandOffOutcome(
                result=Result.FAILED, detail=f"not attempted after {outcome.detail}", attempted=False
            )
        return outcome
