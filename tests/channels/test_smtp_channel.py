"""The SMTP driver, against a real server (aiosmtpd) and against servers that misbehave on purpose."""

from __future__ import annotations

import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest
import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult, Envelope, LoginPassword
from support.rude_servers import CLOSES, HANGS, RESETS, Does, RudeSmtpServer, Stage, Then, free_port, says

from notifygate.address import Channel
from notifygate.channels import HandOff, HandOffOutcome, Result
from notifygate.channels.smtp import SmtpChannel
from notifygate.errors import ChannelError

AT = datetime(2026, 3, 4, 9, 30, tzinfo=UTC)
LETTER = HandOff(
    message_id="m-1",
    attempt_id="a-1",
    channel=Channel.EMAIL,
    to="Anna@example.dk",
    sender="Cykelpartner <hej@cykelpartner.example>",
    subject="Kære Anna",
    text="Hej Anna,\n.\n.en prik\nFrom os: æøå €\n",
    at=AT,
)


def send(channel: SmtpChannel, *letters: HandOff) -> list[HandOffOutcome]:
    return list(channel.send(letters or [LETTER]))


def _plain(part: EmailMessage) -> str:
    """The text, with the line ends of a program instead of those of a message."""
    content = part.get_content()
    assert isinstance(content, str)
    return content.replace("\r\n", "\n")


# ---- a real server ----------------------------------------------------------------------------------------


class Mailbox:
    """An aiosmtpd handler that keeps what arrives and counts connections."""

    def __init__(self) -> None:
        self.envelopes: list[Envelope] = []
        self.peers: set[object] = set()
        self.options: list[list[str]] = []

    async def handle_DATA(self, server: Any, session: Any, envelope: Envelope) -> str:  # noqa: N802
        self.peers.add(session.peer)
        self.options.append(list(envelope.mail_options))
        self.envelopes.append(envelope)
        return f"250 2.0.0 Ok: queued as 4XyZ{len(self.envelopes)}"

    def message(self, index: int = -1) -> EmailMessage:
        content = self.envelopes[index].original_content
        assert content is not None
        message = message_from_bytes(content, policy=default)
        assert isinstance(message, EmailMessage)
        return message


class _SecureController(Controller):
    def _trigger_server(self) -> None:
        """Greet the server, as aiosmtpd's own does, but leave no socket open."""
        unchecked = ssl._create_unverified_context()
        with (
            socket.create_connection(("127.0.0.1", self.port), timeout=5) as plain,
            unchecked.wrap_socket(plain) as secure,
        ):
            secure.recv(100)


@contextmanager
def mail_server(mailbox: Mailbox, *, smtps: ssl.SSLContext | None = None, **options: Any) -> Iterator[int]:
    kind = _SecureController if smtps else Controller
    controller = kind(mailbox, hostname="127.0.0.1", port=0, ssl_context=smtps, **options)
    # Port 0 lets the system choose; aiosmtpd reads its own port back only for its greeting.
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        controller.port = probe.getsockname()[1]
    controller.start()
    try:
        yield controller.port
    finally:
        controller.stop()


@pytest.fixture
def mailbox() -> Mailbox:
    return Mailbox()


@pytest.fixture
def server(mailbox: Mailbox) -> Iterator[int]:
    with mail_server(mailbox) as port:
        yield port


@pytest.fixture
def connect() -> Iterator[Callable[..., SmtpChannel]]:
    made: list[SmtpChannel] = []

    def make(port: int, **options: Any) -> SmtpChannel:
        settings: dict[str, Any] = {
            "host": "127.0.0.1",
            "timeout_s": 5,
            "helo_name": "client.example",
        } | options
        channel = SmtpChannel(port=port, **settings)
        made.append(channel)
        return channel

    yield make
    for channel in made:
        channel.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="module")
def ca_file(authority: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> str:
    path: Path = tmp_path_factory.mktemp("ca") / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture(scope="module")
def server_tls(authority: trustme.CA) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context


Connect = Callable[..., SmtpChannel]


def test_a_message_arrives_with_its_headers_and_text(mailbox: Mailbox, server: int, connect: Connect) -> None:
    [outcome] = send(connect(server))

    assert outcome == HandOffOutcome(result=Result.ACCEPTED, detail="smtp 250", provider_id="4XyZ1")
    [envelope] = mailbox.envelopes
    assert envelope.mail_from == "hej@cykelpartner.example"
    assert envelope.rcpt_tos == ["Anna@example.dk"]
    message = mailbox.message()
    assert message["From"] == "Cykelpartner <hej@cykelpartner.example>"
    assert message["To"] == "Anna@example.dk"
    assert message["Subject"] == "Kære Anna"
    assert message["Date"].datetime == AT
    assert message["Message-ID"] == "<a-1@cykelpartner.example>"
    assert message["X-Notifygate-Message-Id"] == "m-1"
    assert message["Auto-Submitted"] == "auto-generated"
    assert message.get_content_type() == "text/plain"
    assert _plain(message) == LETTER.text
    assert envelope.original_content is not None
    assert envelope.original_content.isascii()


def test_html_goes_beside_the_text(mailbox: Mailbox, server: int, connect: Connect) -> None:
    send(connect(server), replace(LETTER, html="<p>Hej Ærø</p>"))

    message = mailbox.message()
    assert message.get_content_type() == "multipart/alternative"
    text, html = message.iter_parts()
    assert isinstance(text, EmailMessage)
    assert isinstance(html, EmailMessage)
    assert _plain(text) == LETTER.text
    assert (html.get_content_type(), html.get_content().strip()) == ("text/html", "<p>Hej Ærø</p>")


@pytest.mark.parametrize(
    ("sender", "shown"),
    [
        ("Blomster Ærø <hej@x.example>", "Blomster Ærø <hej@x.example>"),
        ("Flowers, Inc. <hej@x.example>", '"Flowers, Inc." <hej@x.example>'),
        ("hej@x.example", "hej@x.example"),
        ("Blå <hej@blåbær.example>", "Blå <hej@xn--blbr-roah.example>"),
    ],
)
def test_the_sender_is_shown_as_configured(
    sender: str, shown: str, mailbox: Mailbox, server: int, connect: Connect
) -> None:
    [outcome] = send(connect(server), replace(LETTER, sender=sender))
    assert outcome.result is Result.ACCEPTED
    assert str(mailbox.message()["From"]) == shown


def test_an_international_domain_is_sent_in_ascii(mailbox: Mailbox, server: int, connect: Connect) -> None:
    [outcome] = send(connect(server), replace(LETTER, to="anna@blåbær.dk"))
    assert outcome.result is Result.ACCEPTED
    assert mailbox.envelopes[0].rcpt_tos == ["anna@xn--blbr-roah.dk"]


def test_a_local_part_beyond_ascii_goes_by_smtputf8(mailbox: Mailbox, connect: Connect) -> None:
    with mail_server(mailbox, enable_SMTPUTF8=True) as port:
        channel = connect(port)
        outcomes = send(channel, replace(LETTER, to="ænna@example.dk"), LETTER)
        channel.close()
    assert [outcome.result for outcome in outcomes] == [Result.ACCEPTED, Result.ACCEPTED]
    assert mailbox.envelopes[0].rcpt_tos == ["ænna@example.dk"]
    assert str(mailbox.message(0)["To"]) == "ænna@example.dk"
    assert "SMTPUTF8" in mailbox.options[0]
    assert "SMTPUTF8" not in mailbox.options[1]


def test_without_smtputf8_such_an_address_is_rejected_and_the_batch_goes_on(
    mailbox: Mailbox, connect: Connect
) -> None:
    with mail_server(mailbox, enable_SMTPUTF8=False) as port:
        channel = connect(port)
        first, second = send(channel, replace(LETTER, to="ænna@example.dk"), LETTER)
        channel.close()
    assert (first.result, first.detail) == (Result.REJECTED, "smtputf8 not offered")
    assert second.result is Result.ACCEPTED


@pytest.mark.parametrize(
    "wrong",
    [
        {"to": "anna"},
        {"to": "anna@example.dk>\r\nRCPT TO:<eve@example.dk"},
        {"sender": "no address"},
        {"sender": "X <a b@x.example>"},
        {"subject": "a\r\nBcc: eve@example.dk"},
    ],
)
def test_what_no_letter_can_hold_is_rejected(
    wrong: dict[str, Any], mailbox: Mailbox, server: int, connect: Connect
) -> None:
    first, second = send(connect(server), replace(LETTER, **wrong), LETTER)
    assert (first.result, first.detail) == (Result.REJECTED, "message cannot be written")
    assert second.result is Result.ACCEPTED
    assert len(mailbox.envelopes) == 1


def test_one_connection_serves_a_batch_and_the_next(mailbox: Mailbox, server: int, connect: Connect) -> None:
    channel = connect(server)
    assert {outcome.result for outcome in send(channel, *[LETTER] * 20)} == {Result.ACCEPTED}
    send(channel, *[LETTER] * 5)
    assert len(mailbox.envelopes) == 25
    assert len(mailbox.peers) == 1


def test_threads_do_not_share_a_connection_at_one_time(
    mailbox: Mailbox, server: int, connect: Connect
) -> None:
    channel = connect(server)
    outcomes: list[HandOffOutcome] = []
    threads = [
        threading.Thread(target=lambda: outcomes.extend(send(channel, *[LETTER] * 10))) for _ in range(5)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [outcome.result for outcome in outcomes] == [Result.ACCEPTED] * 50
    assert len(mailbox.envelopes) == 50
    assert 1 <= len(mailbox.peers) <= 5
    send(channel)
    assert len(mailbox.peers) <= 5


def test_a_batch_that_is_left_early_gives_its_connection_back(
    mailbox: Mailbox, server: int, connect: Connect
) -> None:
    channel = connect(server)
    outcomes = channel.send([LETTER, LETTER])
    next(outcomes)
    outcomes.close()  # type: ignore[attr-defined]  # it is a generator
    send(channel)
    assert (len(mailbox.envelopes), len(mailbox.peers)) == (2, 1)


def test_nothing_is_pulled_before_it_is_handed_over(server: int, connect: Connect) -> None:
    pulled: list[int] = []

    def batch() -> Iterator[HandOff]:
        for number in range(3):
            pulled.append(number)
            yield LETTER

    outcomes = connect(server).send(batch())
    assert pulled == []
    next(outcomes)
    assert pulled == [0]
    next(outcomes)
    assert pulled == [0, 1]
    list(outcomes)


def test_a_forked_child_does_not_use_its_parents_connection(
    mailbox: Mailbox, server: int, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    channel = connect(server)
    send(channel)
    own_pid = os.getpid()
    monkeypatch.setattr("notifygate.channels.smtp.os.getpid", lambda: own_pid + 1)
    send(channel)
    assert len(mailbox.peers) == 2


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_tls_with_a_trusted_certificate(
    tls: str, mailbox: Mailbox, server_tls: ssl.SSLContext, ca_file: str, connect: Connect
) -> None:
    options: dict[str, Any] = (
        {"smtps": server_tls} if tls == "tls" else {"tls_context": server_tls, "require_starttls": True}
    )
    with mail_server(mailbox, **options) as port:
        channel = connect(port, tls=tls, ca_file=ca_file)
        assert {outcome.result for outcome in send(channel, *[LETTER] * 3)} == {Result.ACCEPTED}
        send(channel)
        assert ("STARTTLS ok" if tls == "starttls" else "TLS ok") in channel.check()
        channel.close()
    assert len(mailbox.peers) == 1


@pytest.mark.parametrize("tls", ["starttls", "tls"])
def test_an_untrusted_certificate_gets_nothing(
    tls: str, mailbox: Mailbox, server_tls: ssl.SSLContext, connect: Connect
) -> None:
    options: dict[str, Any] = {"smtps": server_tls} if tls == "tls" else {"tls_context": server_tls}
    with mail_server(mailbox, **options) as port:
        channel = connect(port, tls=tls)
        first, second = send(channel, LETTER, LETTER)
        with pytest.raises(ChannelError, match=r"certificate not trusted; .*ca_file"):
            channel.check()
    assert (first.result, first.detail) == (Result.FAILED, "certificate not trusted")
    assert (second.result, second.detail) == (Result.FAILED, "not attempted after certificate not trusted")
    assert mailbox.envelopes == []


def test_starttls_never_falls_back_to_plain_text(mailbox: Mailbox, server: int, connect: Connect) -> None:
    channel = connect(server, tls="starttls")
    [outcome] = send(channel)
    assert (outcome.result, outcome.detail) == (Result.FAILED, "STARTTLS not offered")
    assert mailbox.envelopes == []


def _authenticate(server: Any, session: Any, envelope: Any, mechanism: Any, data: Any) -> AuthResult:
    right = isinstance(data, LoginPassword) and (data.login, data.password) == (b"shop", b"right")
    return AuthResult(success=right, handled=False)


@pytest.mark.parametrize(("password", "result"), [("right", Result.ACCEPTED), ("wrong", Result.FAILED)])
def test_login(
    password: str,
    result: Result,
    mailbox: Mailbox,
    server_tls: ssl.SSLContext,
    ca_file: str,
    connect: Connect,
) -> None:
    options: dict[str, Any] = {
        "tls_context": server_tls,
        "authenticator": _authenticate,
        "auth_required": True,
    }
    with mail_server(mailbox, **options) as port:
        channel = connect(port, tls="starttls", ca_file=ca_file, username="shop", password=password)
        [outcome] = send(channel)
        if result is Result.ACCEPTED:
            assert "AUTH ok" in channel.check()
        else:
            with pytest.raises(ChannelError, match="535 at login; correct username and password"):
                channel.check()
        channel.close()
    assert outcome.result is result
    assert len(mailbox.envelopes) == (result is Result.ACCEPTED)


def test_check_says_what_it_found(server: int, connect: Connect) -> None:
    assert connect(server).check() == f"smtp 127.0.0.1:{server} answers"


def test_close_takes_leave_and_a_closed_channel_keeps_no_connection(
    mailbox: Mailbox, server: int, connect: Connect
) -> None:
    channel = connect(server)
    outcomes = channel.send([LETTER, LETTER])
    next(outcomes)
    channel.close()
    assert next(outcomes).result is Result.ACCEPTED
    list(outcomes)
    assert channel._idle == []


# ---- servers that misbehave; what becomes of one message is in test_smtp_contract ---------------------------

ENDLESS = Does(b"250-and\r\n")


class EndlessServer(RudeSmtpServer):
    """A server whose reply has line after line."""

    def _do(self, client: socket.socket, does: Does) -> bool:
        while does is ENDLESS:
            client.sendall(does.says)
            time.sleep(0.05)
        return super()._do(client, does)


def test_a_server_that_takes_no_session_fails_the_whole_batch_at_once(connect: Connect) -> None:
    with RudeSmtpServer({Stage.GREETING: HANGS}) as server:
        channel = connect(server.port, timeout_s=0.3)
        first, *rest = send(channel, *[LETTER] * 100)
        assert server.connections == 1
    assert (first.result, first.detail, first.channel_down) == (Result.FAILED, "timeout at connect", True)
    refusal = HandOffOutcome(
        result=Result.FAILED, detail="not attempted after timeout at connect", attempted=False
    )
    assert rest == [refusal] * 99


@pytest.mark.parametrize(
    ("greeting", "sentence"),
    [
        (says("421 too busy"), "smtp 421 at greeting; look at the server's log"),
        (
            says("HTTP/1.1 400 Bad Request"),
            "reply not readable at start of session; check that an SMTP server",
        ),
        (HANGS, "timeout at connect; check host, port and firewall"),
        (CLOSES, "connection failed; check host, port"),
    ],
    ids=str,
)
def test_check_says_what_is_wrong_and_what_would_be_right(
    greeting: Does, sentence: str, connect: Connect
) -> None:
    with (
        RudeSmtpServer({Stage.GREETING: greeting}) as server,
        pytest.raises(ChannelError, match=re.escape(sentence)),
    ):
        connect(server.port, timeout_s=0.3).check()


def test_check_says_that_nobody_listens(connect: Connect) -> None:
    with pytest.raises(ChannelError, match="connection refused; start the server, or correct host and port"):
        connect(free_port()).check()


def test_a_reply_without_end_is_a_timeout(connect: Connect) -> None:
    with EndlessServer({Stage.DOT: ENDLESS}) as server:
        [outcome] = send(connect(server.port, timeout_s=0.3))
    assert (outcome.result, outcome.detail) == (Result.IN_DOUBT, "timeout after end of data")


def test_two_timeouts_in_a_row_end_the_batch(connect: Connect) -> None:
    with RudeSmtpServer({Stage.DOT: HANGS}) as server:
        channel = connect(server.port, timeout_s=0.2)
        outcomes = send(channel, *[LETTER] * 50)
        assert server.connections == 2
    assert [outcome.result for outcome in outcomes[:2]] == [Result.IN_DOUBT, Result.IN_DOUBT]
    assert {outcome.result for outcome in outcomes[2:]} == {Result.FAILED}


@pytest.mark.parametrize(
    "farewell",
    [
        Does(b"250 ok\r\n", Then.CLOSE),
        Does(b"250 ok\r\n421 idle for too long\r\n", Then.CLOSE),
    ],
    ids=str,
)
def test_a_pooled_connection_that_died_is_replaced_unnoticed(farewell: Does, connect: Connect) -> None:
    """The server leaves after the first message's reply, so that the client meets it at its next MAIL."""
    with RudeSmtpServer({Stage.DOT: farewell}, {}) as server:
        channel = connect(server.port)
        assert send(channel)[0].result is Result.ACCEPTED
        time.sleep(0.05)
        assert send(channel)[0].result is Result.ACCEPTED
        channel.close()
    assert server.connections == 2
    assert len(server.taken) == 2


@pytest.mark.parametrize(
    "answer", [CLOSES, RESETS, Does(b"421 enough for one connection\r\n", Then.CLOSE)], ids=str
)
def test_a_used_connection_refused_at_mail_is_replaced_at_once(answer: Does, connect: Connect) -> None:
    with RudeSmtpServer({}, {}) as server:
        channel = connect(server.port)
        send(channel)
        server.change(Stage.MAIL, answer)
        [outcome] = send(channel)
        channel.close()
    assert outcome.result is Result.ACCEPTED
    assert (server.connections, len(server.taken)) == (2, 2)


def test_a_stray_reply_is_not_taken_for_the_answer_to_the_next_message(connect: Connect) -> None:
    with RudeSmtpServer({Stage.DOT: Does(b"250 ok\r\n250 ok\r\n")}, {Stage.RCPT: says("550 no")}) as server:
        channel = connect(server.port)
        first, second = send(channel, LETTER, LETTER)
        channel.close()
    assert (first.result, second.result) == (Result.ACCEPTED, Result.REJECTED)
    assert server.connections == 2


def test_an_idle_connection_is_asked_before_it_is_used(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("notifygate.channels.smtp._ASK_AFTER_S", 0.0)
    with RudeSmtpServer({Stage.NOOP: says("421 bye")}, {}) as server:
        channel = connect(server.port)
        send(channel, LETTER)
        [outcome] = send(channel, LETTER)
        channel.close()
    assert outcome.result is Result.ACCEPTED
    assert server.connections == 2


def test_lost_after_the_yes_is_still_accepted(connect: Connect) -> None:
    with RudeSmtpServer({Stage.DOT: Does(b"250 ok\r\n", Then.CLOSE)}) as server:
        channel = connect(server.port)
        assert send(channel)[0].result is Result.ACCEPTED


class _TimeIsUpError(BaseException):
    """What a worker's time limit raises, at any point of the code."""


def test_a_connection_left_in_mid_transaction_is_never_used_again(
    connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strike(*_: object) -> None:
        raise _TimeIsUpError

    with RudeSmtpServer({}) as server:
        channel = connect(server.port)
        with monkeypatch.context() as patched:
            patched.setattr("notifygate.channels.smtp._Session.data", strike)
            with pytest.raises(_TimeIsUpError):
                send(channel)
        assert channel._idle == []
        assert send(channel)[0].result is Result.ACCEPTED
        channel.close()
    assert server.connections == 2


def test_without_a_helo_name_this_machine_names_itself(server: int, connect: Connect) -> None:
    assert send(connect(server, helo_name=None))[0].result is Result.ACCEPTED


@pytest.mark.parametrize(
    ("reply", "provider_id"),
    [
        ("250 2.0.0 Ok: queued as 4Xk2vN1z", "4Xk2vN1z"),
        ("250 OK id=1rHxYz-0001Ab-2C", "1rHxYz-0001Ab-2C"),
        ("250 2.0.0 44K9xkPq012345 Message accepted for delivery", "44K9xkPq012345"),
        ("250 queued as anna@example.dk", None),
        ("250 fine", None),
    ],
)
def test_the_queue_id_is_read_from_the_usual_replies(
    reply: str, provider_id: str | None, connect: Connect
) -> None:
    with RudeSmtpServer({Stage.DOT: says(reply)}) as server:
        channel = connect(server.port)
        [outcome] = send(channel)
        channel.close()
    assert outcome.provider_id == provider_id


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"tls": "ssl"}, "tls"),
        ({"host": ""}, "host"),
        ({"port": 0}, "port"),
        ({"timeout_s": 0}, "timeout_s"),
        ({"username": "x"}, "password"),
        ({"username": "x", "password": "ø"}, "password"),
        ({"tls": "tls", "ca_file": "/nowhere/ca.pem"}, "ca_file"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], key: str) -> None:
    with pytest.raises(ChannelError, match=f"^{key}: "):
        SmtpChannel(**({"host": "localhost"} | settings))
