"""`notifygate submit`: every line is taken in or rejected by name, and a bad one never stops the rest."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest

from cli.shop import Run, sms, write_lines
from notifygate import Gateway

NESTED = {
    "merchant": "myshop",
    "purpose": "review_request",
    "role": "buyer",
    "content": {
        "to": "anna@example.dk",
        "subject": "How was it?",
        "text": "Tell us",
        "html": "<p>Tell us</p>",
    },
    "purchase": {
        "seller": "myshop",
        "order_id": "1001",
        "purchased_at": "2026-01-01T10:00:00Z",
        "delivered_at": "2026-01-03T10:00:00+01:00",
    },
    "idempotency_key": "review-1001",
    "metadata": {"campaign": 7},
}


def handed_over(shop: Path) -> list[dict[str, object]]:
    with Gateway.open(shop / "notifygate.toml") as gate:
        rows = list(gate.log.search(kind="submitted", limit=None))
        return [gate.explain(row.message_id or "").to_json() for row in reversed(rows)]


def test_nested_and_flat_forms_mean_the_same(shop: Path, run: Run) -> None:
    flat = {name: NESTED[name] for name in ("merchant", "purpose", "role", "idempotency_key", "metadata")}
    content, purchase = NESTED["content"], NESTED["purchase"]
    assert isinstance(content, dict)
    assert isinstance(purchase, dict)
    ran = run("submit", write_lines(shop / "a.jsonl", NESTED, flat | content | purchase), "--json")
    assert ran.code == 0
    first, second = ran.jsons
    assert (first["outcome"], second["outcome"]) == ("accepted", "duplicate")
    assert first["message_id"] == second["message_id"]
    (told,) = handed_over(shop)
    assert told["purchase"] == {"seller": "myshop", "order_id": "1001"}
    assert told["metadata"] == {"campaign": 7}
    assert told["contact_point"] == "email:anna@example.dk"


@pytest.mark.parametrize(
    ("fields", "contact_point"),
    [
        ({"to": "+45 20 12 34 56"}, "sms:+4520123456"),
        ({"to": "sms:+4520123456"}, "sms:+4520123456"),
        ({"to": "20123456", "channel": "sms"}, "sms:+4520123456"),
        ({"to": "anna@example.dk", "subject": "Hi"}, "email:anna@example.dk"),
        ({"to": "email:anna@example.dk", "subject": "Hi", "channel": "email"}, "email:anna@example.dk"),
    ],
)
def test_the_address_tells_the_channel(
    shop: Path, run: Run, fields: dict[str, object], contact_point: str
) -> None:
    assert run("submit", write_lines(shop / "a.jsonl", sms(**fields))).code == 0
    assert handed_over(shop)[0]["contact_point"] == contact_point


BAD_LINES: list[tuple[object, str, str]] = [
    ("nonsense", "line", "is not JSON"),
    ("[1]", "line", "one JSON object"),
    ('{"to": "a", "to": "b"}', "to", "twice"),
    ('{"to": NaN}', "line", "JSON"),
    ("[" * 100_000, "line", "JSON"),
    (sms(merchant=None), "merchant", "missing"),
    (sms(merchant="myshopp"), "merchant", 'did you mean "myshop"?'),
    (sms(merchant=3), "merchant", "text is wanted, not a number"),
    (sms(purpose="nothing like it"), "purpose", "there are newsletter, order_update, review_request"),
    (sms(to=None), "to", "missing"),
    (sms(to=4520123456), "to", "text is wanted"),
    (sms(to="+45 1"), "to", "not a phone number"),
    (sms(to="anna@@example", subject="Hi"), "to", "not an email address"),
    (sms(to="email:anna@example.dk", channel="sms"), "channel", "begins with email:"),
    (sms(channel="fax"), "channel", "sms or email"),
    (sms(subject="Hi"), "subject", "a text message has none"),
    (sms(to="anna@example.dk"), "subject", "missing"),
    (sms(text=""), "text", "is empty"),
    (sms(text="\ud800"), "text", "surrogate"),
    (sms(tekst="x"), "tekst", 'did you mean "text"?'),
    (sms(content={"to": "+4520123456"}), "to", "given twice"),
    (sms(content="x"), "content", "an object is wanted, not text"),
    (
        {"merchant": "myshop", "purpose": "order_update", "content": {"tto": "+4520123456", "text": "x"}},
        "content.tto",
        'did you mean "to"?',
    ),
    (
        {"merchant": "myshop", "purpose": "order_update", "content": {"to": "+45 1", "text": "x"}},
        "content.to",
        "not a phone number",
    ),
    (sms(role="giver"), "role", "buyer"),
    (sms(send_after="2026-05-01T12:00:00"), "send_after", "has no time zone"),
    (sms(send_after="2026-05-01"), "send_after", "has no time zone"),
    (sms(expires_at="soon"), "expires_at", "write it as"),
    (sms(expires_at=1767225600), "expires_at", "not a number"),
    (sms(timezone="Mars/Base"), "timezone", "IANA"),
    (sms(seller="myshop"), "order_id", "missing"),
    (sms(delivered_at="2026-05-01T12:00:00Z"), "seller", "missing"),
    (sms(seller="nobody", order_id="1"), "seller", "no such merchant"),
    (sms(purchase={"seller": "myshop", "order_id": 1001}), "purchase.order_id", "text is wanted"),
    (sms(metadata={"a": [1]}), "metadata", "text, numbers"),
    (sms(purpose="review_request"), "purchase", "which purchase"),
]
"""Lines that are rejected, at which field, and what is said about it."""


def test_each_bad_line_is_rejected_at_its_field_and_the_others_are_taken_in(shop: Path, run: Run) -> None:
    lines: list[object] = [sms(text="before")]
    for number, (bad, _, _) in enumerate(BAD_LINES):
        lines += [bad, sms(text=f"after {number}")]
    ran = run("submit", write_lines(shop / "a.jsonl", *lines))
    assert ran.code == 1
    good, bad_ones = len(BAD_LINES) + 1, len(BAD_LINES)
    assert ran.out.splitlines()[-1] == f"accepted {good}, duplicate 0, rejected {bad_ones}"
    assert len(handed_over(shop)) == good
    told = [one for one in ran.err.splitlines() if one.startswith("line ")]
    for number, ((_, field, problem), rejection) in enumerate(zip(BAD_LINES, told, strict=True)):
        assert rejection.startswith(f"line {2 * number + 2}: {field}: ")
        assert problem in rejection
        assert "2012" not in rejection
        assert "anna" not in rejection


def test_a_rejection_never_holds_what_stands_in_a_shifted_column(shop: Path, run: Run) -> None:
    shifted = {"merchant": "anna@example.dk", "purpose": "Dear Anna", "to": "x", "text": "y"}
    odd = sms(**{"anna@example.dk": 1})
    ran = run("submit", write_lines(shop / "a.jsonl", shifted, odd, sms(seller="+4520123456", order_id="1")))
    assert ran.code == 1
    assert "anna" not in (ran.out + ran.err).lower()
    assert "+4520123456" not in ran.err


def test_a_key_used_for_other_content_rejects_that_line_only(shop: Path, run: Run) -> None:
    lines = [sms(idempotency_key="k", text=text) for text in ("one", "other", "one")]
    ran = run("submit", write_lines(shop / "a.jsonl", *lines, sms()), "--json")
    assert [one["outcome"] for one in ran.jsons] == ["accepted", "rejected", "duplicate", "accepted"]
    assert ran.jsons[1]["field"] == "idempotency_key"
    assert ran.code == 1


def test_many_lines_keep_their_numbers_across_batches(shop: Path, run: Run) -> None:
    lines = [
        sms(text=f"number {number}", **({"to": "+45 1"} if number % 97 == 0 else {}))
        for number in range(1200)
    ]
    ran = run("submit", write_lines(shop / "a.jsonl", *lines), "--json")
    assert [one["line"] for one in ran.jsons] == list(range(1, 1201))
    rejected = [one["line"] for one in ran.jsons if one["outcome"] == "rejected"]
    assert rejected == [number + 1 for number in range(0, 1200, 97)]
    assert (
        ran.err.splitlines()[0] == f"accepted {1200 - len(rejected)}, duplicate 0, rejected {len(rejected)}"
    )


def test_rejects_can_be_mended_and_submitted_again(shop: Path, run: Run) -> None:
    file = write_lines(shop / "a.jsonl", sms(), sms(to="+45 1"), "nonsense")
    rejects = shop / "rejects.jsonl"
    assert run("submit", file, "--rejects", rejects).code == 1
    bad, unreadable = [json.loads(line) for line in rejects.read_text().splitlines()]
    assert bad["_line"] == 2
    assert "not a phone number" in bad["_reason"]
    assert unreadable["_raw"] == "nonsense"
    assert rejects.stat().st_mode & 0o077 == 0, "it holds addresses"
    assert run("submit", write_lines(shop / "again.jsonl", bad | {"to": "+4520123457"})).code == 0


def test_rejects_of_csv_can_be_mended_and_submitted_again(shop: Path, run: Run) -> None:
    (shop / "a.csv").write_text(
        "merchant,purpose,to,text\nmyshop,order_update,+45 1,Hi\nmyshop,order_update\n"
    )
    rejects = shop / "rejects.csv"
    assert run("submit", shop / "a.csv", "--rejects", rejects).code == 1
    header, bad, short = rejects.read_text().splitlines()
    assert header == "_line,_reason,merchant,purpose,to,text"
    assert bad.startswith("2,")
    assert short.startswith("3,")
    (shop / "again.csv").write_text(f"{header}\n{bad.replace('+45 1,', '+4520123456,')}\n")
    assert run("submit", shop / "again.csv").code == 0


def test_a_file_of_rejects_that_is_there_is_left_alone_unless_forced(shop: Path, run: Run) -> None:
    file, rejects = write_lines(shop / "a.jsonl", sms(to="+45 1")), shop / "rejects.jsonl"
    rejects.write_text("mine")

    ran = run("submit", file, "--rejects", rejects)

    assert ran.code == 2
    assert "is there already; choose another name, or say --force" in ran.err
    assert rejects.read_text() == "mine"
    assert run("submit", file, "--rejects", rejects, "--force").code == 1
    assert "not a phone number" in rejects.read_text()


def test_where_lines_are_too_many_to_list_it_says_how_ids_are_found(shop: Path, run: Run) -> None:
    ran = run("submit", write_lines(shop / "a.jsonl", *(sms(to=f"+45201234{n}") for n in range(10, 21))))

    assert ran.out == "accepted 11, duplicate 0, rejected 0\n"
    assert "--json" in ran.err.splitlines()[0]
    assert len(run("log", "search", "--kind", "submitted", "--since", "1h", "--json").jsons) == 11


def test_rejects_must_not_be_the_input(shop: Path, run: Run) -> None:
    file = write_lines(shop / "a.jsonl", sms())
    before = file.read_bytes()
    assert run("submit", file, "--rejects", file).code == 2
    assert file.read_bytes() == before


def test_csv_with_quotes_line_breaks_and_empty_cells(shop: Path, run: Run) -> None:
    (shop / "a.csv").write_text(
        "merchant,purpose,channel,to,subject,text,seller,order_id,delivered_at\r\n"
        'myshop,order_update,email,anna@example.dk,"Hi, Anna","One\nline ""two""",myshop,1,2026-05-01T12:00:00Z\r\n'
        "myshop,order_update,sms,+4520123456,,Hi,,,\r\n"
        "\r\n"
        "myshop,order_update,sms,+45 1,,Hi,,,\r\n",
        newline="",
    )
    ran = run("submit", shop / "a.csv")
    assert ran.code == 1
    assert "line 6: to: " in ran.err, "the line that a record begins on"
    assert ran.out.splitlines()[-1] == "accepted 2, duplicate 0, rejected 1"


def test_csv_as_a_danish_spreadsheet_writes_it(shop: Path, run: Run) -> None:
    (shop / "a.csv").write_bytes(
        "\ufeffmerchant;purpose;to;text\r\nmyshop;order_update;+4520123456;Så er den her\r\n".encode()
    )
    assert run("submit", shop / "a.csv").code == 0


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("merchant,purpose,to,txt\n", 'column 4, txt: unknown field; did you mean "text"?'),
        ("merchant,purpose,to,text,to\n", "column 5, to: is there twice"),
        ("merchant,purpose,to\n", "missing: text"),
        ("", "missing: merchant, purpose, to, text"),
        ("myshop,order_update,anna@example.dk,Hi\n", "column 1"),
    ],
)
def test_a_csv_header_that_is_wrong_hands_over_nothing(shop: Path, run: Run, text: str, problem: str) -> None:
    (shop / "a.csv").write_text(text + "myshop,order_update,+4520123456,Hi\n")
    if not text:
        (shop / "a.csv").write_text("")
    ran = run("submit", shop / "a.csv")
    assert ran.code == 2
    assert problem in ran.err
    assert "anna@" not in ran.err
    assert len(ran.err.splitlines()) == 1
    assert handed_over(shop) == []


def test_csv_that_breaks_off_within_quotes_is_rejected(shop: Path, run: Run) -> None:
    (shop / "a.csv").write_text('merchant,purpose,to,text\nmyshop,order_update,+4520123456,"Hi\nmore\n')
    ran = run("submit", shop / "a.csv")
    assert ran.code == 1
    assert ran.err.startswith("line 2: line: is not CSV")


def test_bytes_that_are_no_utf8_reject_their_line_only(shop: Path, run: Run) -> None:
    good = json.dumps(sms()).encode()
    (shop / "a.jsonl").write_bytes(good + b"\n" + good.replace(b"On", b"\xe5n") + b"\n" + good + b"\n")
    ran = run("submit", shop / "a.jsonl", "--json")
    assert [one["outcome"] for one in ran.jsons] == ["accepted", "rejected", "accepted"]
    (shop / "a.csv").write_bytes(b"merchant,purpose,to,text\nmyshop,order_update,+4520123456,\xe5n\n")
    ran = run("submit", shop / "a.csv")
    assert ran.err.startswith("line 2: text: is not UTF-8 text")


def test_standard_input_is_json_lines_unless_said_otherwise(shop: Path, run: Run) -> None:
    assert run("submit", "-", stdin=json.dumps(sms()).encode()).code == 0
    csv = b"merchant,purpose,to,text\nmyshop,order_update,+4520123456,Hi\n"
    assert run("submit", "-", "--format", "csv", stdin=csv).code == 0
    assert len(handed_over(shop)) == 2


def test_an_empty_file_is_fine(shop: Path, run: Run) -> None:
    ran = run("submit", write_lines(shop / "a.jsonl"))
    assert (ran.code, ran.out) == (0, "accepted 0, duplicate 0, rejected 0\n")


@pytest.mark.parametrize("name", ["missing.jsonl", "list.txt", "."])
def test_a_file_that_cannot_be_read_is_wrong_use(shop: Path, run: Run, name: str) -> None:
    (shop / "list.txt").write_text("")
    ran = run("submit", name, *(["--format", "jsonl"] if name == "." else []))
    assert ran.code == 2
    assert ran.out == ""
    assert len(ran.err.splitlines()) == 1


def test_a_ledger_that_fails_half_way_says_how_far_it_came(
    shop: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from notifygate import LedgerError

    whole = Gateway.submit_many
    calls = []

    def fails_later(gate: Gateway, messages: object) -> object:
        calls.append(1)
        if len(calls) > 1:
            raise LedgerError("the ledger cannot be used (test)")
        return whole(gate, messages)  # type: ignore[arg-type]  # passed on as it came

    monkeypatch.setattr(Gateway, "submit_many", fails_later)
    file = write_lines(shop / "a.jsonl", *(sms(text=str(number)) for number in range(700)))
    ran = run("submit", file)
    assert ran.code == 2
    assert "broken off; until then: accepted 500, duplicate 0, rejected 0" in ran.err
    assert "the ledger cannot be used (test)" in ran.err


def test_memory_stays_flat(shop: Path, run: Run) -> None:
    text = "x" * 1_500
    lines = [sms(to="+45 1", text=text)] * 5_000
    file = write_lines(shop / "a.jsonl", *lines)
    size = file.stat().st_size
    assert size > 7_000_000
    run("submit", write_lines(shop / "small.jsonl", sms()))  # what is loaded once does not count
    tracemalloc.start()
    try:
        from notifygate.cli.records import read_json_lines

        with file.open("rb") as stream:
            assert sum(1 for _ in read_json_lines(stream, lambda count: None)) == 5_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1_000_000
