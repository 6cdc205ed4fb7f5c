"""Email over SMTP (RFC 5321).

What counts is whether the final dot of a message has left: before it, no server has taken the message;
after it, only the server's reply tells. smtplib's `sendmail` hides that moment, so the transaction is spelt
out here.
"""

from __future__ import annotations

import os
import re
import select
import smtplib
import socket
import ssl
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.policy import SMTP as SMTP_POLICY
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, Literal

import idna
from email_validator import EmailNotValidError, validate_email

from notifygate.channels import HandOff, HandOffOutcome, Result
from notifygate.channels.patience import Patience, Trouble
from notifygate.errors import ChannelError

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

Tls = Literal["none", "starttls", "tls"]

# A connection that was idle for this long is asked whether it still lives; one idle for long is not worth
# asking. RFC 5321 section 4.5.3.2.7 has servers wait 5 minutes for a command, but many wait less.
_ASK_AFTER_S: Final = 5.0
_DROP_AFTER_S: Final = 60.0
_GOODBYE_TIMEOUT_S: Final = 2.0

# Refusals of us, not of the message (RFC 4954 section 6, RFC 3207 section 4): a wrong password, a missing
# login.
_AUTH_CODES: Final = frozenset({530, 534, 535, 538})
_SERVICE_CLOSING: Final = 421
_START_MAIL_INPUT: Final = 354
# RFC 5321 section 4.2; a bare code is to be understood as well. Section 4.5.3.1.5 has lines of 512 octets.
_REPLY_LINE: Final = re.compile(rb"([2-5][0-9][0-9])(?:([ \t-])(.*))?\r?\n", re.DOTALL)
_LONGEST_REPLY_LINE: Final = 8192
_UNREADABLE: Final = -1

# How Postfix, Exim and Sendmail name a message in the reply after the final dot. No @, so never an address.
_QUEUE_ID: Final = re.compile(
    r"(?:queued as |\bid=|^(?:2\.\d\.\d )?(?=\S+ Message accepted))([0-9A-Za-z._-]{3,64})(?=[\s;,)]|$)",
    re.IGNORECASE,
)
_LOCAL_PART: Final = re.compile(r"[^\x00-\x20\x7f<>()\[\]:;@\\,\"]+")
# `Name <address>`, where the name may be quoted, but need not be: unlike in a header, a comma is no
# separator here.
_SENDER: Final = re.compile(r'(?:"((?:[^"\\]|\\.)*)"|([^<>"]*))\s*<([^<>]+)>')
# 7-bit content passes every server, with or without 8BITMIME (RFC 6152).
_POLICY: Final = SMTP_POLICY.clone(cte_type="7bit")
_UTF8_POLICY: Final = SMTP_POLICY.clone(cte_type="7bit", utf8=True)


class SmtpChannel:
    """Hands email to one SMTP server.

    `tls`: `none`, `starttls` (never without: a server that does not offer it gets nothing) or `tls` from
    the start. Certificates are checked against the system's authorities, or those in `ca_file` (PEM).
    `username` and `password` log in, if given. `timeout_s`, in seconds, bounds connecting and each wait for
    a reply; RFC 5321 section 4.5.3.2.6 would give the last reply 10 minutes, here a late one makes a
    message in doubt. `helo_name` is what EHLO says; by default this machine's name.

    Connections are kept and used again, over batches and threads, and safe to be inherited by a forked
    process.

    Messages carry `X-Notifygate-Message-Id`, a `Message-ID` made of the attempt's id, and `Auto-Submitted:
    auto-generated` (RFC 3834 section 5), which keeps holiday replies away.

    Raises `ChannelError` that names the setting at fault.
    """

    def __init__(
        self,
        *,
        host: str,
        port: int = 25,
        tls: Tls = "none",
        username: str | None = None,
        password: str | None = None,
        timeout_s: float = 30,
        ca_file: str | None = None,
        helo_name: str | None = None,
    ) -> None:
        if tls not in ("none", "starttls", "tls"):
            raise ChannelError(f"tls: {tls!r} is not known; write none, starttls or tls")
        if not host:
            raise ChannelError("host: is empty; give the server's name")
        if not 0 < port < 65536:
            raise ChannelError(f"port: {port} is not between 1 and 65535")
        if not timeout_s > 0:
            raise ChannelError(f"timeout_s: {timeout_s} is not a time to wait; give seconds above 0")
        if (username is None) != (password is None):
            raise ChannelError("password: username and password go together; give both or neither")
        if not (username or "").isascii() or not (password or "").isascii():
            raise ChannelError("password: username and password must be ASCII")
        self._host = host
        self._port = port
        self._tls = tls
        self._login = None if username is None or password is None else (username, password)
        self._timeout_s = timeout_s
        self._helo_name = helo_name
        self._context: ssl.SSLContext | None = None
        if tls != "none":
            try:
                self._context = ssl.create_default_context(cafile=ca_file)
            except OSError as error:
                wanted = "give a PEM file of certificates"
                raise ChannelError(f"ca_file: {ca_file!r} cannot be read; {wanted}") from error
        self._lock = threading.Lock()
        self._idle: list[_Session] = []
        self._closed = False

    def send(self, batch: Iterable[HandOff]) -> Iterator[HandOffOutcome]:
        """Hand over each message and yield its outcome.

        5xx: `rejected`; 4xx, and anything that goes wrong before the final dot has left: `failed`; no
        readable reply after it: `in_doubt`. An address that needs SMTPUTF8 (RFC 6531) where the server
        lacks it: `rejected`. A server that wants another login: `failed`, for the message is good. When the
        server cannot be reached, the rest of the batch is `failed`.
        """
        session: _Session | None = None
        patience = Patience()
        try:
            for hand_off in batch:
                if patience.refusal is not None:
                    yield patience.refusal
                    continue
                try:
                    letter = _write(hand_off)
                except (EmailNotValidError, MessageError, ValueError):
                    yield _outcome(Result.REJECTED, "message cannot be written")
                    continue
                try:
                    session = self._ready(session)
                    outcome = session.deliver(letter)
                    if session.went_stale:
                        session = self._connect()
                        outcome = session.deliver(letter)
                except _NoSession as error:
                    session = None
                    refused = _outcome(Result.FAILED, error.detail)
                    yield patience.saw(refused, Trouble.UNREACHABLE)
                    continue
                yield patience.saw(outcome, Trouble.TIMEOUT if session.timed_out else Trouble.NONE)
        finally:
            if session is not None:
                self._give_back(session)

    def check(self) -> str:
        """Connect, log in and say NOOP, on a new connection. Raises `ChannelError`."""
        server = f"smtp {self._host}:{self._port}"
        try:
            session = self._connect()
        except _NoSession as error:
            raise ChannelError(f"{server}: {error.detail}; {error.wanted}") from error
        try:
            alive = session.is_alive()
            offered = session.has_extn("starttls")
        finally:
            session.goodbye()
        if not alive:
            raise ChannelError(f"{server}: connected, but NOOP failed; look at the server's log")
        found = {"none": "", "starttls": ", STARTTLS ok", "tls": ", TLS ok"}[self._tls]
        if self._tls == "none" and offered:
            found = ', STARTTLS offered but not used (tls = "starttls" would)'
        return f"{server} answers{found}" + (", AUTH ok" if self._login else "")

    def close(self) -> None:
        """Take leave of the server on every idle connection; those in use are closed when they are done."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for session in idle:
            session.goodbye()

    def _ready(self, session: _Session | None) -> _Session:
        """A connection that can take a message: this one, a pooled one, or a new one. Raises `_NoSession`."""
        while session is not None or (session := self._take()) is not None:
            if session.is_usable():
                session.is_used = True
                return session
            session.close()
            session = None
        return self._connect()

    def _take(self) -> _Session | None:
        with self._lock:
            return self._idle.pop() if self._idle else None

    def _give_back(self, session: _Session) -> None:
        with self._lock:
            if session.at_rest and not self._closed:
                self._idle.append(session)
                return
        if session.at_rest:
            session.goodbye()
        else:
            session.close()

    def _connect(self) -> _Session:
        with self._lock:
            if self._helo_name is None:
                # Once: each look-up of the own name can wait for a name server.
                self._helo_name = _own_name()
            helo_name = self._helo_name
        session: _Session | None = None
        try:
            # The constructor connects, and closes what it opened when it fails.
            if self._tls == "tls":
                session = _TlsSession(
                    self._host, self._port, helo_name, timeout=self._timeout_s, context=self._context
                )
            else:
                session = _Session(self._host, self._port, helo_name, timeout=self._timeout_s)
            session.ehlo_or_helo_if_needed()
            if self._tls == "starttls":
                session.starttls(context=self._context)
                session.ehlo_or_helo_if_needed()
            if self._login is not None:
                session.login(*self._login)
            if session.sock is not None:
                # The end of a message goes out at once, and does not wait for the server to confirm its
                # beginning.
                session.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        except (smtplib.SMTPException, OSError, ValueError) as error:
            if session is not None:
                session.close()
            raise _NoSession(error) from error
        except BaseException:  # a worker's time limit, say: it may strike anywhere
            if session is not None:
                session.close()
            raise
        session.rest()
        return session


@dataclass(frozen=True, slots=True, kw_only=True)
class _Letter:
    """One message, written out. `needs_utf8` if only SMTPUTF8 can carry its addresses."""

    sender: str
    to: str
    content: bytes
    needs_utf8: bool


class _Session(smtplib.SMTP):
    """One connection, which knows how far its transaction has come."""

    def __init__(self, host: str, port: int, local_hostname: str, **options: Any) -> None:
        self.at_rest = False
        self.is_used = False
        self.went_stale = False
        self.timed_out = False
        self._dot_left = False
        self._used_at = 0.0
        self._pid = os.getpid()
        self._reply_timeout_s: float = options["timeout"]
        super().__init__(host, port, local_hostname, **options)

    def deliver(self, letter: _Letter) -> HandOffOutcome:
        """One transaction, for one recipient (RFC 5321 section 3.3)."""
        self.went_stale = self.timed_out = self._dot_left = self.at_rest = False
        asked_mail = False
        if letter.needs_utf8 and not (self.does_esmtp and self.has_extn("smtputf8")):
            self.rest()
            return _outcome(Result.REJECTED, "smtputf8 not offered")
        options = ""
        if self.does_esmtp and self.has_extn("size"):
            options += f" SIZE={len(letter.content)}"  # RFC 1870: too large is refused before it is sent
        if letter.needs_utf8:
            options += " SMTPUTF8 BODY=8BITMIME"
            self.command_encoding = "utf-8"
        try:
            code, _ = self.docmd(f"MAIL FROM:<{letter.sender}>{options}")
            if code == _SERVICE_CLOSING and self.is_used:
                self.went_stale = True
            asked_mail = True
            if code // 100 == 2:
                code, _ = self.docmd(f"RCPT TO:<{letter.to}>")
                if code // 100 == 2:
                    code, reply = self.data(letter.content)
        except (smtplib.SMTPException, OSError) as error:
            self.close()
            self.timed_out = _has(error, TimeoutError)
            how = "timeout" if self.timed_out else "connection lost"
            # INVARIANT(dot-left-is-in-doubt): once the final dot has left, only a reply tells what became
            # of it.
            if self._dot_left:
                return _outcome(Result.IN_DOUBT, f"{how} after end of data")
            # A server may close an idle connection at any time; nothing of this message has been said yet.
            self.went_stale = self.is_used and not asked_mail
            return _outcome(Result.FAILED, f"{how} before end of data")
        outcome = _after_dot(code, reply) if self._dot_left else _before_dot(code)
        self._settle(code)
        return outcome

    def data(self, msg: ReadableBuffer | str) -> tuple[int, bytes]:
        """DATA and the content (RFC 5321 section 4.1.1.4), noting when all of it has been written."""
        content = msg.encode("ascii") if isinstance(msg, str) else bytes(msg)
        code, reply = self.docmd("DATA")
        if code != _START_MAIL_INPUT:
            return code, reply
        stuffed = re.sub(rb"(?m)^\.", b"..", content)  # RFC 5321 section 4.5.2
        if not stuffed.endswith(b"\r\n"):
            stuffed += b"\r\n"
        # sendall raises unless the system has taken every byte, so an error here leaves the dot, or part of
        # it, unsent: the server has no whole message to take.
        self.send(stuffed + b".\r\n")
        self._dot_left = True
        return self.getreply()

    def getreply(self) -> tuple[int, bytes]:
        """Read one reply (RFC 5321 section 4.2); its code is -1 where it cannot be read for certain.

        smtplib makes a reply out of a code that the connection broke off in, of `25`, and of lines whose codes
        differ; and it goes on for as long as further lines come.
        """
        if self.file is None and self.sock is not None:
            self.file = self.sock.makefile("rb")
        give_up_at = time.monotonic() + self._reply_timeout_s
        codes: set[int] = set()
        texts: list[bytes] = []
        while True:
            line = self._read_line()
            match = _REPLY_LINE.fullmatch(line)
            if match is None:
                return _UNREADABLE, b""
            codes.add(int(match[1]))
            texts.append((match[3] or b"").strip())
            if len(codes) > 1:
                return _UNREADABLE, b""
            if match[2] != b"-":
                return codes.pop(), b"\n".join(texts)
            if time.monotonic() > give_up_at:
                self.close()
                raise smtplib.SMTPServerDisconnected("the reply has no end") from TimeoutError()

    def _read_line(self) -> bytes:
        try:
            line = self.file.readline(_LONGEST_REPLY_LINE) if self.file is not None else b""
        except OSError as error:
            self.close()
            raise smtplib.SMTPServerDisconnected("connection lost") from error
        if not line:
            self.close()
            raise smtplib.SMTPServerDisconnected("connection closed")
        return bytes(line)

    def is_usable(self) -> bool:
        """Whether another message may be begun here; asks the server after a time of silence."""
        if not self.at_rest or self.sock is None or self._pid != os.getpid():
            return False
        if not self._is_silent(self.sock):
            return False
        idle_s = time.monotonic() - self._used_at
        return idle_s < _ASK_AFTER_S or (idle_s < _DROP_AFTER_S and self.is_alive())

    def _is_silent(self, sock: socket.socket) -> bool:
        """Whether nothing came unasked: a goodbye, or a reply that would be taken for the next answer."""
        poll = select.poll()
        poll.register(sock, select.POLLIN)
        if poll.poll(0):
            return False
        sock.settimeout(0)
        try:
            return self.file is None or not self.file.peek(1)
        except (BlockingIOError, ssl.SSLWantReadError):
            return True
        except OSError:
            return False
        finally:
            sock.settimeout(self.timeout)

    def is_alive(self) -> bool:
        """Whether the server answers NOOP."""
        try:
            return self.noop()[0] // 100 == 2
        except (smtplib.SMTPException, OSError):
            return False

    def rest(self) -> None:
        """Mark the connection as between two transactions: only so may it be used again."""
        self.at_rest = True
        self._used_at = time.monotonic()

    def goodbye(self) -> None:
        """QUIT, without waiting long, and close. A forked child only closes: it is not its own."""
        with suppress(smtplib.SMTPException, OSError):
            if self.sock is not None and self._pid == os.getpid():
                self.sock.settimeout(_GOODBYE_TIMEOUT_S)
                self.quit()
        self.close()

    def _settle(self, code: int) -> None:
        """Make the connection ready for the next message, or close it. The outcome is known and stays."""
        if code == _SERVICE_CLOSING or code // 100 not in (2, 4, 5):
            self.close()
            return
        if not self._dot_left:
            with suppress(smtplib.SMTPException, OSError):
                if code // 100 != 2 and self.rset()[0] // 100 == 2:
                    self.rest()
            if not self.at_rest:
                self.close()
            return
        self.rest()


class _TlsSession(_Session, smtplib.SMTP_SSL):
    """The same over TLS from the start (RFC 8314)."""


class _NoSession(Exception):  # it names what is missing, and never leaves this module
    """There is no connection to begin a message on: `detail` says why, `wanted` what would be right."""

    def __init__(self, error: Exception) -> None:
        self.detail, self.wanted = _why(error)
        super().__init__(self.detail)


def _before_dot(code: int) -> HandOffOutcome:
    """What a reply means that ended the transaction before the content was sent."""
    if code // 100 == 5 and code not in _AUTH_CODES:
        return _outcome(Result.REJECTED, f"smtp {code}")
    return _outcome(Result.FAILED, f"smtp {code}" if code // 100 in range(2, 6) else "reply not readable")


def _after_dot(code: int, reply: bytes) -> HandOffOutcome:
    """What the reply after the final dot means."""
    match code // 100:
        case 2:
            return HandOffOutcome(result=Result.ACCEPTED, detail=f"smtp {code}", provider_id=_queue_id(reply))
        case 4:
            return _outcome(Result.FAILED, f"smtp {code}")
        case 5:
            return _outcome(Result.FAILED if code in _AUTH_CODES else Result.REJECTED, f"smtp {code}")
        case _:
            return _outcome(Result.IN_DOUBT, "reply not readable after end of data")


def _queue_id(reply: bytes) -> str | None:
    match = _QUEUE_ID.search(reply.decode("ascii", "replace"))
    return match[1] if match else None


def _write(hand_off: HandOff) -> _Letter:
    """Write the message out (RFC 5322).

    Raises `ValueError`, `MessageError` or `EmailNotValidError` for what no letter can hold.
    """
    checked = validate_email(hand_off.to, check_deliverability=False)
    to_domain = checked.ascii_domain or checked.domain
    name, local, domain = _sender(hand_off.sender)
    needs_utf8 = not (local.isascii() and checked.local_part.isascii())

    message = EmailMessage(policy=_UTF8_POLICY if needs_utf8 else _POLICY)
    message["From"] = Address(name, local, domain)
    message["To"] = Address("", checked.local_part, to_domain)
    message["Subject"] = hand_off.subject or ""
    message["Date"] = hand_off.at
    message["Message-ID"] = f"<{hand_off.attempt_id}@{domain}>"
    message["X-Notifygate-Message-Id"] = hand_off.message_id
    message["Auto-Submitted"] = "auto-generated"
    message.set_content(hand_off.text)
    if hand_off.html is not None:
        message.add_alternative(hand_off.html, subtype="html")
    return _Letter(
        sender=f"{local}@{domain}",
        to=f"{checked.local_part}@{to_domain}",
        content=message.as_bytes(),
        needs_utf8=needs_utf8,
    )


@lru_cache(maxsize=1024)
def _sender(sender: str) -> tuple[str, str, str]:
    """Display name, local part and ASCII domain of `Name <local@domain>`. Raises `ValueError`."""
    match = _SENDER.fullmatch(sender.strip())
    name, address = (match[1] or match[2] or "", match[3]) if match else ("", sender.strip())
    local, at, domain = address.rpartition("@")
    if not (at and domain) or not _LOCAL_PART.fullmatch(local):
        raise ValueError("sender is no email address")
    name = re.sub(r"\\(.)", r"\1", name).strip()
    return name, local, domain if domain.isascii() else idna.encode(domain, uts46=True).decode("ascii")


def _why(error: Exception) -> tuple[str, str]:
    """Why there is no session, and what would be right, without anything that the server said."""
    if isinstance(error, smtplib.SMTPResponseException) and error.smtp_code == _UNREADABLE:
        return (
            "reply not readable at start of session",
            "check that an SMTP server listens there, and that tls fits the port",
        )
    if isinstance(error, smtplib.SMTPAuthenticationError):
        return f"smtp {error.smtp_code} at login", _about_login(error.smtp_code)
    if isinstance(error, smtplib.SMTPNotSupportedError):
        if "STARTTLS" in str(error):
            return (
                "STARTTLS not offered",
                'use tls = "tls" on port 465, or tls = "none" to a server you trust',
            )
        return (
            "login not offered",
            "remove username and password, or use tls, which some servers demand first",
        )
    if type(error) is smtplib.SMTPException:
        return "no login method in common", "let the server offer PLAIN, LOGIN or CRAM-MD5"
    if isinstance(error, smtplib.SMTPResponseException):
        stage = "greeting" if isinstance(error, smtplib.SMTPConnectError) else "start of session"
        return f"smtp {error.smtp_code} at {stage}", "look at the server's log"
    if _has(error, ssl.SSLCertVerificationError):
        return "certificate not trusted", "correct host, or name the certificate authority in ca_file"
    if _has(error, ssl.SSLError):
        return "tls failure", "check that tls fits the port: starttls is usual on 587, tls on 465, none on 25"
    if _has(error, socket.gaierror):
        return "dns failure", "correct host"
    if _has(error, ConnectionRefusedError):
        return "connection refused", "start the server, or correct host and port"
    if _has(error, TimeoutError):
        return "timeout at connect", "check host, port and firewall, and that tls fits the port"
    return "connection failed", "check host, port and the network, and that tls fits the port"


def _about_login(code: int) -> str:
    """RFC 4954 section 6: with 4xx the server could not tell whether the password is right."""
    return "correct username and password" if code // 100 == 5 else "wait, or look at the server's log"


def _has(error: BaseException, kind: type[BaseException]) -> bool:
    """Whether this error, or one that led to it, is of that kind: smtplib wraps what the socket raised."""
    seen: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in seen:
        if isinstance(link, kind):
            return True
        seen.append(link)
        link = link.__cause__ or link.__context__
    return False


def _own_name() -> str:
    """This machine's name, or an address literal where it has none that means anything to others (4.1.4)."""
    name = socket.getfqdn()
    return name if "." in name and name.isascii() else "[127.0.0.1]"


def _outcome(result: Result, detail: str) -> HandOffOutcome:
    return HandOffOutcome(result=result, detail=detail)
