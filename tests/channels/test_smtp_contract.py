"""What becomes of an email, whatever a mail server does: every row is acted out by a real server.

The codes and their meaning are those of RFC 5321 section 4.2; what a reply after the final dot means is its section
6.1, and what a missing one means its section 4.5.3.2.6.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import pytest
from support.channel_contract import Promise, documented, each
from support.rude_servers import (
    CLOSES,
    HANGS,
    RESETS,
    Does,
    RudeSmtpServer,
    Script,
    Stage,
    Then,
    breaks_off,
    free_port,
    says,
)

from notifygate.address import Channel
from notifygate.channels import HandOff, Result
from notifygate.channels.smtp import SmtpChannel

ACCEPTED, REJECTED, FAILED, IN_DOUBT = Result.ACCEPTED, Result.REJECTED, Result.FAILED, Result.IN_DOUBT
BEFORE_DOT = (Stage.MAIL, Stage.RCPT, Stage.DATA)
LARGE = ("x" * 70 + "\n") * 120_000

LETTER = HandOff(
    message_id="m-1",
    attempt_id="a-1",
    channel=Channel.EMAIL,
    to="anna@example.dk",
    sender="Cykelpartner <hej@cykelpartner.example>",
    subject="Tak",
    text="Hej Anna",
    at=datetime(2026, 3, 4, 9, 30, tzinfo=UTC),
)


@dataclass(frozen=True, slots=True)
class Case:
    """One way to act a row out: the server's script, the driver's settings, and the letter."""

    script: Script = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    letter: HandOff = LETTER
    is_there: bool = True

    def __str__(self) -> str:
        acts = [f"{stage.value}: {does.says!r} {does.then.name}" for stage, does in self.script.items()]
        return ", ".join(acts) or "-"


def at(stage: Stage, *all_that_it_does: Does, **more: Any) -> list[Case]:
    return [Case({stage: does}, **more) for does in all_that_it_does]


def at_each(stages: tuple[Stage, ...], *all_that_it_does: Does) -> list[Case]:
    return [case for stage in stages for case in at(stage, *all_that_it_does)]


def offering(extension: str, script: Script, **settings: Any) -> Case:
    return Case(
        {Stage.EHLO: Does(f"250-rude.example\r\n250 {extension}\r\n".encode())} | dict(script), settings
    )


STARTTLS = {"tls": "starttls"}
LOGIN: dict[str, Any] = {"username": "shop", "password": "secret"}
PASSING = [says(f"{code} anna@example.dk is not welcome now") for code in (421, 450, 451, 452)]
FINAL = [says(f"{code} anna@example.dk is not welcome") for code in (500, 550, 552, 553, 554)]
WANTS_LOGIN = [says("530 log in first"), says("535 who are you")]
UNREADABLE = [
    says("garbage"),
    says("999 what"),
    says("\xff\xfe"),
    says("2_0 ok"),
    says("250ok"),
    Does(b"5" * 9000 + b"\r\n", Then.CLOSE),
    breaks_off("25"),
    breaks_off("250"),
    breaks_off("250 o"),
    breaks_off("451 no"),
    breaks_off("550 no"),
    Does(b"550-no\r\n250 ok\r\n"),
]
CUT_BETWEEN_LINES = [breaks_off("250-queued\r\n"), breaks_off("550-no\r\n")]

TABLE: dict[Promise, list[Case]] = {
    # ---- no session: nothing was handed over, and the rest of the batch waits as well
    Promise("refuses the connection", FAILED, "connection refused"): [Case(is_there=False)],
    Promise("has a name that DNS does not know", FAILED, "dns failure"): [
        Case(settings={"host": "no-such-host.invalid"})
    ],
    Promise("is silent instead of a greeting, or before the first message", FAILED, "timeout at connect"): [
        *at_each((Stage.GREETING, Stage.EHLO), HANGS),
        offering("STARTTLS", {Stage.STARTTLS: HANGS}, **STARTTLS),
        offering("STARTTLS", {Stage.STARTTLS: Does(b"220 go\r\n", Then.HANG)}, **STARTTLS),
        offering("AUTH PLAIN", {Stage.AUTH: HANGS}, **LOGIN),
    ],
    Promise("closes or resets the connection before the first message", FAILED, "connection failed"): [
        *at_each((Stage.GREETING, Stage.EHLO), CLOSES, RESETS),
        offering("AUTH PLAIN", {Stage.AUTH: CLOSES}, **LOGIN),
    ],
    Promise("greets with 421 or 554", FAILED, "smtp NNN at greeting"): at(
        Stage.GREETING, says("421 too busy"), says("554 no mail here")
    ),
    Promise(
        "answers what cannot be read before the first message",
        FAILED,
        "reply not readable at start of session",
    ): [
        *at(Stage.GREETING, *UNREADABLE),
        offering("STARTTLS", {Stage.STARTTLS: says("garbage")}, **STARTTLS),
        offering("AUTH PLAIN", {Stage.AUTH: says("garbage")}, **LOGIN),
    ],
    Promise("does not offer STARTTLS, which is set", FAILED, "STARTTLS not offered"): [
        Case(settings=STARTTLS)
    ],
    Promise("refuses STARTTLS, as with 454", FAILED, "smtp NNN at start of session"): [
        offering("STARTTLS", {Stage.STARTTLS: says(f"{code} no")}, **STARTTLS) for code in (454, 501)
    ],
    Promise("speaks no TLS where TLS is set", FAILED, "tls failure"): [
        Case(settings={"tls": "tls"}),
        offering("STARTTLS", {Stage.STARTTLS: Does(b"220 go\r\nno hello\r\n")}, **STARTTLS),
    ],
    Promise("has a certificate that is not trusted", FAILED, "certificate not trusted"): [
        Case({Stage.GREETING: Does(then=Then.TLS)}, {"tls": "tls"}),
        offering("STARTTLS", {Stage.STARTTLS: Does(b"220 go\r\n", Then.TLS)}, **STARTTLS),
    ],
    Promise("cannot check the password (454), or refuses it (535)", FAILED, "smtp NNN at login"): [
        offering("AUTH PLAIN", {Stage.AUTH: says(f"{code} no")}, **LOGIN) for code in (421, 454, 534, 535)
    ],
    Promise("offers no login, where username and password are set", FAILED, "login not offered"): [
        Case(settings=LOGIN)
    ],
    # ---- before the final dot: no server has the message
    Promise("answers MAIL, RCPT or DATA with 4xx", FAILED, "smtp NNN"): at_each(BEFORE_DOT, *PASSING),
    Promise("answers MAIL, RCPT or DATA with 5xx", REJECTED, "smtp NNN"): at_each(BEFORE_DOT, *FINAL),
    Promise("wants a login first, at any stage (530, 534, 535, 538)", FAILED, "smtp NNN"): at_each(
        (*BEFORE_DOT, Stage.DOT), *WANTS_LOGIN
    ),
    Promise("answers DATA with neither 354 nor a refusal", FAILED, "smtp NNN"): at(
        Stage.DATA, says("250 what"), says("355 what")
    ),
    Promise(
        "is silent at MAIL, RCPT or DATA, or stops reading the message", FAILED, "timeout before end of data"
    ): [
        *at_each(BEFORE_DOT, HANGS),
        *at(Stage.CONTENT, HANGS, letter=replace(LETTER, text=LARGE)),
    ],
    Promise(
        "closes or resets the connection before the final dot", FAILED, "connection lost before end of data"
    ): [
        *at_each(BEFORE_DOT, CLOSES, RESETS, *CUT_BETWEEN_LINES),
        *at(Stage.CONTENT, CLOSES, RESETS, letter=replace(LETTER, text=LARGE)),
    ],
    Promise("answers MAIL, RCPT or DATA with what cannot be read", FAILED, "reply not readable"): at_each(
        BEFORE_DOT, *UNREADABLE
    ),
    # ---- after the final dot: only the reply tells
    Promise("answers the final dot with 2xx, and stays or not", ACCEPTED, "smtp NNN"): [
        Case(),
        *at(Stage.DOT, Does(b"250 ok\r\n", Then.CLOSE), Does(b"250-o\r\n250 k\r\n"), Does(b"250\r\n")),
    ],
    Promise("answers the final dot with 4xx", FAILED, "smtp NNN"): at(Stage.DOT, *PASSING),
    Promise("answers the final dot with 5xx", REJECTED, "smtp NNN"): at(Stage.DOT, *FINAL),
    Promise("is silent after the final dot", IN_DOUBT, "timeout after end of data"): at(Stage.DOT, HANGS),
    Promise(
        "closes or resets the connection after the final dot", IN_DOUBT, "connection lost after end of data"
    ): at(Stage.DOT, CLOSES, RESETS, *CUT_BETWEEN_LINES),
    Promise(
        "answers the final dot with what cannot be read", IN_DOUBT, "reply not readable after end of data"
    ): at(Stage.DOT, *UNREADABLE, says("354 go on")),
    # ---- not the server's doing
    Promise("does not offer SMTPUTF8, which the address needs", REJECTED, "smtputf8 not offered"): [
        Case(letter=replace(LETTER, to="ænna@example.dk"))
    ],
    Promise("is not asked: no letter can hold the message", REJECTED, "message cannot be written"): [
        Case(letter=replace(LETTER, to="anna")),
        Case(letter=replace(LETTER, subject="a\r\nBcc: eve@example.dk")),
    ],
}


def test_the_page_promises_what_is_tested_here() -> None:
    assert documented("smtp") == list(TABLE)


@pytest.mark.parametrize(("promise", "case"), each(TABLE), ids=str)
def test_dot_left_is_in_doubt_and_before_it_nothing_is(promise: Promise, case: Case) -> None:
    # The misbehaviour is that of one connection: the next one meets a server that does as it should.
    with RudeSmtpServer(case.script, {}, receives_at_once=4096) if case.is_there else nullcontext() as server:
        usual: dict[str, Any] = {"host": "127.0.0.1", "timeout_s": 0.2, "helo_name": "client.example"}
        channel = SmtpChannel(port=server.port if server else free_port(), **(usual | dict(case.settings)))
        first, second = channel.send([case.letter, replace(LETTER, text="second")])
        channel.close()

    promise.check(first)
    if server is None:
        return
    taken = [content for content in server.taken if b"second" not in content]
    if first.result in (REJECTED, FAILED):
        assert taken == []
    elif first.result is ACCEPTED:
        assert len(taken) == 1
    if server.connections == 2:
        assert second.result is ACCEPTED, "after a broken connection a new one is made"
    elif server.connections == 1 and second.attempted and case.letter is LETTER:
        assert second.result is first.result, "the connection was kept, with its script"
