"""Kannel's sendsms interface, and the many gateways that copy it.

Sources: Kannel User's Guide, chapter "Sending messages with HTTP" (parameters, and the table of answers
202, 4xx and 503), and Kannel's `gw/smsbox.c`, which makes those answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import Final

from notifygate.channels import HandOff, HandOffOutcome, Result
from notifygate.channels.http import (
    NOT_E164,
    Answer,
    HttpExchange,
    NoAnswer,
    Template,
    check_url,
    e164,
    send_each,
    sort_answer,
    with_query,
)
from notifygate.channels.patience import Trouble
from notifygate.errors import ChannelError

# The GSM 7-bit default alphabet and its extension table, 3GPP TS 23.038 sections 6.2.1 and 6.2.1.1.
_GSM_7: Final = frozenset(
    "@£$¥èéùìòÇ\nØø\rÅåΔ_ΦΓΛΩΠΨΣΘΞÆæßÉ !\"#¤%&'()*+,-./0123456789:;<=>?"
    "¡ABCDEFGHIJKLMNOPQRSTUVWXYZÄÖÑÜ§¿abcdefghijklmnopqrstuvwxyzäöñüà"
    "\f^{}\\[~]|€"
)
_CODING_GSM_7: Final = "0"
_CODING_UCS_2: Final = "2"

# smsbox answers 202; Kannel before 1.4 answered 200 with the same words, and so do some of its imitators.
_ACCEPTED_WORDS: Final = (b"0: Accepted", b"3: Queued", b"Sent.")
_NOT_NOW: Final = b"Temporal failure"
_NOT_ROUTABLE: Final = b"Not routable"

# Delivered to the phone, not delivered to the phone, refused by the SMS centre.
_DLR_MASK: Final = 1 + 2 + 16


class KannelChannel:
    """Sends SMS through Kannel's sendsms interface, one GET request a message.

    `url` is that of sendsms, as `http://localhost:13013/cgi-bin/sendsms`; parameters in it, such as
    `?smsc=a`, are kept. `username` and `password` are those of its `sendsms-user`. The text goes as UTF-8,
    to be sent in the GSM 7-bit alphabet where that holds every character of it, else in UCS-2.

    With `dlr_url`, Kannel calls that URL with news of the message: its own escapes (`%d` ...) are for
    Kannel to fill in, `{message_id}` and `{attempt_id}` are filled in here. `dlr_mask` (1 to 63) says which
    news. `timeout_s` is in seconds, for connecting and for each read and write. `ca_file` (PEM) replaces
    the default certificate authorities for https.

    The interface puts password, number and text in the URL. They are kept out of the logs here; keep them
    out of the logs of whatever stands between, and use https where it is not the same machine.

    Raises `ChannelError` that names the setting at fault.
    """

    def __init__(
        self,
        *,
        url: str,
        username: str,
        password: str,
        timeout_s: float = 30,
        dlr_url: str | None = None,
        dlr_mask: int = _DLR_MASK,
        ca_file: str | None = None,
    ) -> None:
        check_url(url)
        if dlr_url is not None and not dlr_url.startswith(("http://", "https://")):
            raise ChannelError("dlr_url: not an http or https URL")
        if not 1 <= dlr_mask <= 63:
            raise ChannelError(f"dlr_mask: {dlr_mask} is not between 1 and 63")
        self._url = url
        self._username = username
        self._password = password
        self._dlr_url = (
            None if dlr_url is None else Template("dlr_url", dlr_url, ("message_id", "attempt_id"))
        )
        self._dlr_mask = dlr_mask
        self._exchange = HttpExchange(timeout_s=timeout_s, ca_file=ca_file)

    def send(self, batch: Iterable[HandOff]) -> Iterator[HandOffOutcome]:
        """Make one request a message and yield its outcome.

        202: `accepted`. 503 in Kannel's own words: `failed`, for its core refused the message; any other
        5xx (a proxy's, say): `in_doubt`. 403 `Not routable`: `rejected`; 403 otherwise (a wrong password, a
        forbidden IP address): `failed`. The rest as for `HttpChannel`.
        """
        yield from send_each(batch, self._hand_over)

    def check(self) -> str:
        """Connect to the server, as far as TLS, and send nothing: Kannel cannot be asked about a password."""
        return f"kannel: {self._exchange.connect(self._url)}"

    def close(self) -> None:
        """Close all connections."""
        self._exchange.close()

    def _hand_over(self, hand_off: HandOff) -> tuple[HandOffOutcome, Trouble]:
        to = e164(hand_off.to)
        if to is None:
            return NOT_E164, Trouble.NONE
        query = {
            "username": self._username,
            "password": self._password,
            "to": to,
            "from": hand_off.sender,
            "text": hand_off.text,
            "charset": "UTF-8",
            "coding": _CODING_GSM_7 if _GSM_7.issuperset(hand_off.text) else _CODING_UCS_2,
        }
        if self._dlr_url is not None:
            ids = {"message_id": hand_off.message_id, "attempt_id": hand_off.attempt_id}
            query |= {"dlr-mask": str(self._dlr_mask), "dlr-url": self._dlr_url.render(ids)}
        answer = self._exchange.request("GET", with_query(self._url, query))
        if isinstance(answer, NoAnswer):
            return answer.outcome, answer.trouble
        return _sort(answer), answer.trouble


def _sort(answer: Answer) -> HandOffOutcome:
    body = (answer.body or b"").lstrip()
    if answer.status == 503 and body.startswith(_NOT_NOW):
        return replace(sort_answer(answer), result=Result.FAILED, detail="kannel 503 temporal failure")
    if answer.status == 403 and body.startswith(_NOT_ROUTABLE):
        return HandOffOutcome(result=Result.REJECTED, detail="kannel 403 not routable")
    accepted = (200, 202) if body.startswith(_ACCEPTED_WORDS) else (202,)
    return sort_answer(answer, accepted)
