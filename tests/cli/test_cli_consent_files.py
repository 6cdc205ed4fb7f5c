"""`notifygate consent import`, `export`, `evidence verify`: files as shops have them, and what becomes of each row."""

from __future__ import annotations

import csv
import hashlib
import json
import stat
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from cli.shop import Run
from notifygate import Gateway
from notifygate.gateway.consent_records import COLUMNS

MAILCHIMP = """\ufeffEmail Address,First Name,OPTIN_TIME,MEMBER_RATING
anna@example.dk,Anna,2026-03-01 12:00:00,3
bo@example.dk,Bo,2026-03-02 12:00:00,2
"""
AS_MAILCHIMP = (
    *("--map", "Email Address=email", "--map", "OPTIN_TIME=occurred_at", "--timezone", "UTC"),
    *("--set", "state=granted", "--set", "party=myshop", "--set", "purpose=newsletter"),
    *("--source", "mailchimp", "--ignore-unknown"),
)
PLAIN = "state,email,party,purpose,occurred_at\n"
ANNA = "granted,anna@example.dk,myshop,newsletter,2026-03-01T12:00:00Z\n"


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def history(shop: Path, contact: str = "email:anna@example.dk") -> list[Any]:
    with Gateway.open(shop / "notifygate.toml") as gate:
        return list(gate.consent.history(contact))


class TestImport:
    def test_a_list_of_subscribers_is_taken_in_with_its_own_column_names(self, shop: Path, run: Run) -> None:
        ran = run("consent", "import", write(shop / "members.csv", MAILCHIMP), *AS_MAILCHIMP)
        assert ran.code == 0, ran.err
        assert "written 2, known 0, rejected 0" in ran.out
        (event,) = history(shop)
        assert (event.state, event.party, event.purpose) == ("granted", "myshop", "newsletter")
        assert event.occurred_at.isoformat() == "2026-03-01T12:00:00+00:00"
        assert (event.source, event.basis, event.channel) == ("mailchimp", "consent", "email")
        assert (
            run(
                "consent", "show", "email:bo@example.dk", "--merchant", "myshop", "--purpose", "newsletter"
            ).code
            == 0
        )

    def test_a_second_import_of_the_same_file_adds_nothing_and_says_so(self, shop: Path, run: Run) -> None:
        path = write(shop / "members.csv", MAILCHIMP)
        run("consent", "import", path, *AS_MAILCHIMP)
        ran = run("consent", "import", path, *AS_MAILCHIMP)
        assert ran.code == 0
        assert "nothing new" in ran.out
        assert len(history(shop)) == 1

    def test_a_refusal_without_a_date_holds_again_after_a_newer_permission_and_the_end_says_so(
        self, shop: Path, run: Run
    ) -> None:
        path = write(shop / "list.csv", "state,email\nwithdrawn,anna@example.dk\n")
        assert run("consent", "import", path, "--json").json["refused_again"] == 0
        run("consent", "grant", "email:anna@example.dk", "--party", "myshop", "--purpose", "newsletter")
        assert run("consent", "import", path, "--dry-run", "--json").json["refused_again"] == 1
        ran = run("consent", "import", path)
        assert (ran.code, "1 without a date" in ran.out) == (0, True), ran.out
        assert [str(one.state) for one in history(shop)] == ["withdrawn", "granted", "withdrawn"]
        assert "nothing new" in run("consent", "import", path).out

    def test_words_of_the_file_are_mapped_in_a_file_of_its_own(self, shop: Path, run: Run) -> None:
        write(
            shop / "klaviyo.toml",
            'source = "klaviyo"\nkey = "Profile ID"\n'
            '[columns]\nEmail = "email"\nReason = "state"\nDate = "occurred_at"\n'
            '[set]\nparty = "myshop"\npurpose = "marketing"\n'
            '[values.state]\nUNSUBSCRIBED = "withdrawn"\nMARKED_AS_SPAM = "objected"\n',
        )
        path = write(
            shop / "suppressed.tsv",
            "Profile ID\tEmail\tReason\tDate\n"
            "01\tanna@example.dk\tUNSUBSCRIBED\t2026-03-01T12:00:00+00:00\n"
            "02\tbo@example.dk\tMARKED_AS_SPAM\t2026-03-01T12:00:00+00:00\n",
        )
        assert run("consent", "import", path, "--mapping", shop / "klaviyo.toml").code == 0
        assert [str(one.state) for one in history(shop)] == ["withdrawn"]
        assert [str(one.state) for one in history(shop, "email:bo@example.dk")] == ["objected"]
        changed = write(path, path.read_text().replace("UNSUBSCRIBED", "MARKED_AS_SPAM"))
        ran = run("consent", "import", changed, "--mapping", shop / "klaviyo.toml")
        assert ran.code == 1
        assert "line 2: row_key: was used before for other content" in ran.err

    def test_a_dry_run_says_what_would_be_written_and_writes_nothing(self, shop: Path, run: Run) -> None:
        rows = ANNA + ANNA + "granted,bo@example.dk,nobody,newsletter,2026-03-01T12:00:00Z\n"
        path = write(shop / "a.csv", PLAIN + rows)
        told = run("consent", "import", path, "--dry-run", "--json")
        assert told.code == 1
        assert told.json["dry_run"] is True
        assert {name: told.json[name] for name in ("written", "known", "rejected")} == {
            "written": 1,
            "known": 1,
            "rejected": 1,
        }
        assert told.json["events"] == [
            {"state": "granted", "party": "myshop", "purpose": "newsletter", "count": 1}
        ]
        assert told.json["file_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert history(shop) == []
        real = run("consent", "import", path, "--json")
        assert real.json | {"dry_run": True} == told.json

    def test_rejected_rows_can_be_mended_and_imported_again(self, shop: Path, run: Run) -> None:
        bad = "granted,bo@example.dk,myshop,newsletter,2026-03-01\n"
        path = write(shop / "a.csv", PLAIN + ANNA + bad + "too,few\n")
        rejects = shop / "rejects.csv"
        ran = run("consent", "import", path, "--rejects", rejects)
        assert ran.code == 1
        assert stat.S_IMODE(rejects.stat().st_mode) == 0o600
        header, *rejected = csv.reader(rejects.read_text().splitlines())
        assert header == ["_line", "_reason", *PLAIN.strip().split(",")]
        assert [row[0] for row in rejected] == ["3", "4"]
        assert "has 2 cells" in rejected[1][1]
        assert "day alone" in rejected[0][1]

        again = run("consent", "import", path, "--rejects", rejects)
        assert (again.code, "--force" in again.err) == (2, True)
        mended = write(
            shop / "mended.csv", rejects.read_text().replace("2026-03-01\n", "2026-03-01T12:00Z\n")
        )
        mended.write_text("\n".join(mended.read_text().splitlines()[:2]) + "\n")
        assert run("consent", "import", mended).code == 0, mended.read_text()
        assert len(history(shop, "email:bo@example.dk")) == 1
        assert run("consent", "import", path, "--rejects", rejects, "--force").code == 1

    def test_unknown_columns_are_listed_with_what_would_be_right(self, shop: Path, run: Run) -> None:
        path = write(shop / "a.csv", "state,e-mail,Favourite Colour,party,purpose\n")
        ran = run("consent", "import", path)
        assert ran.code == 2
        assert "e-mail" in ran.err
        assert '"email"' in ran.err
        assert "Favourite Colour" in ran.err
        assert "--ignore-unknown" in ran.err

    def test_a_file_without_a_header_is_refused_without_its_values(self, shop: Path, run: Run) -> None:
        path = write(shop / "a.csv", "anna@example.dk,Anna Andersen,+4520123456\n")
        for more in ([], ["--ignore-unknown"]):
            ran = run("consent", "import", path, *more)
            assert ran.code == 2
            assert "Anna" not in ran.err
            assert "anna" not in ran.err
            assert "4520" not in ran.err

    @pytest.mark.parametrize(
        ("header", "options", "said"),
        [
            ("email,party", [], "no column is the state"),
            ("state,party", [], "who it is about"),
            ("state,email,occurred_at,event_time", [], "two columns for one field: occurred_at"),
            ("state,email,party", ["--set", "party=myshop"], "both by --set and by a column: party"),
            ("state,email", ["--map", "Mail=email"], "has no column Mail"),
            ("state,email", ["--map", "email=e_mail"], "e_mail is no field"),
            ("state,email", ["--map", "email"], "COLUMN=FIELD"),
            ("state,email", ["--set", "email=a"], "cannot be the same for all rows"),
            ("state,email", ["--key", "id"], "has no column id"),
            ("state,email", ["--timezone", "Danish"], "no such zone"),
            ("state,email", ["--source", "anna@example.dk"], "source"),
            ("state,email", ["--keep-evidence", "kept"], "goes with --evidence-dir"),
            ("state,email", ["--evidence-dir", "nowhere"], "is not there"),
            ("state,email", ["--mapping", "nowhere.toml"], "cannot be read"),
        ],
    )
    def test_wrong_use_is_told_at_once(
        self, shop: Path, run: Run, header: str, options: list[str], said: str
    ) -> None:
        ran = run("consent", "import", write(shop / "a.csv", header + "\n"), *options)
        assert (ran.code, said in ran.err) == (2, True), ran.err
        assert "anna@" not in ran.err

    @pytest.mark.parametrize(
        ("fields", "said"),
        [
            ({"state": "subscribed"}, "state: must be one of granted"),
            ({"state": None}, "state: missing"),
            ({"email": None}, "contact_point: missing"),
            ({"phone": "+4520123456"}, "there is email as well"),
            ({"email": "anna"}, "contact_point: not an email address"),
            ({"email": ["anna@example.dk"]}, "email: text is wanted"),
            ({"occurred_at": "2026-03-01T12:00:00"}, "has no time zone"),
            ({"occurred_at": "01/03/2026"}, "no instant"),
            ({"occurred_at": ""}, "says when it was given"),
            ({"occurred_at": "9999-99-99"}, "no instant"),
            ({"occurred_at": "2926-03-01T12:00:00Z"}, "occurred_at: lies in the future"),
            ({"opt_out_offered": "perhaps"}, "write yes or no"),
            ({"purpose": "newsleter"}, 'did you mean "newsletter"?'),
            ({"nickname": "x"}, "is no field"),
            ({"evidence_file": "a.pdf"}, "--evidence-dir"),
            ({"validity_duration": "P1Y"}, "no length of time"),
            ({"validity_duration": "P1D", "expires_at": "2026-05-01T00:00Z"}, "different things"),
            ({"state": "invalidated", "invalidates": "k"}, "is neither the key"),
            ({"email": None, "contact_point": "cp_1"}, "export with addresses"),
            ({"evidence": "\ud800"}, "evidence: holds half of a surrogate pair"),
            ({"row_key": "\ud800"}, "row_key: holds half of a surrogate pair"),
            ({"evidence": "a\x00b"}, "evidence: holds a NUL character"),
        ],
    )
    def test_a_bad_row_is_told_by_line_and_field_and_stops_no_other(
        self, shop: Path, run: Run, fields: dict[str, Any], said: str
    ) -> None:
        good = dict(zip(PLAIN.strip().split(","), ANNA.strip().split(","), strict=True))
        bad = {name: value for name, value in (good | fields).items() if value is not None}
        path = write(shop / "a.jsonl", f"{json.dumps(bad)}\n{json.dumps(good)}\n")
        ran = run("consent", "import", path)
        assert ran.code == 1
        assert "line 1: " in ran.err
        assert said in ran.err
        assert "anna@" not in ran.out + ran.err
        assert len(history(shop)) == 1

    def test_a_day_alone_is_read_so_that_a_doubt_never_permits(self, shop: Path, run: Run) -> None:
        path = write(
            shop / "a.csv",
            "state,email,party,purpose,occurred_at\n"
            "granted,anna@example.dk,myshop,newsletter,2026-03-01\n"
            "withdrawn,anna@example.dk,myshop,newsletter,2026-03-01\n",
        )
        assert run("consent", "import", path, "--timezone", "Europe/Copenhagen").code == 0
        at = sorted(one.occurred_at.isoformat() for one in history(shop))
        assert at == ["2026-02-28T23:00:00+00:00", "2026-03-01T22:59:59.999999+00:00"]

    @pytest.mark.parametrize(
        ("local", "permitted", "refused"),
        [
            ("2026-03-29T02:30:00", "00:30:00", "01:30:00"),  # an hour that clocks passed over
            ("2026-10-25T02:30:00", "00:30:00", "01:30:00"),  # an hour that clocks showed twice
        ],
    )
    def test_an_hour_that_clocks_skip_or_repeat_is_read_so_that_a_doubt_never_permits(
        self, shop: Path, run: Run, local: str, permitted: str, refused: str
    ) -> None:
        rows = [f"{state},anna@example.dk,myshop,newsletter,{local}\n" for state in ("granted", "withdrawn")]
        path = write(shop / "a.csv", PLAIN + "".join(rows))
        assert run("consent", "import", path, "--timezone", "Europe/Copenhagen").code == 0
        at = {str(one.state): one.occurred_at.time().isoformat() for one in history(shop)}
        assert at == {"granted": permitted, "withdrawn": refused}

    def test_standard_input_is_read_and_its_hash_is_logged(self, shop: Path, run: Run) -> None:
        text = (PLAIN + ANNA).encode()
        assert run("consent", "import", "-", "--format", "csv", stdin=text).code == 0
        (row,) = run("log", "search", "--kind", "imported", "--json").jsons
        assert row["body"]["file_sha256"] == hashlib.sha256(text).hexdigest()
        assert row["body"]["source"] == "import"

    def test_memory_stays_flat_however_long_the_file(self, shop: Path, run: Run) -> None:
        def peak(count: int, *options: str) -> int:
            path = shop / f"{count}.csv"
            path.write_text(PLAIN + ANNA * count)
            tracemalloc.start()
            assert run("consent", "import", path, *options).code == 0
            _, found = tracemalloc.get_traced_memory()
            tracemalloc.stop()
            return found

        peak(10)
        assert peak(3_000) < peak(500) + 1_000_000
        assert peak(3_000, "--dry-run") < peak(500, "--dry-run") + 1_000_000


class TestEvidence:
    @pytest.fixture
    def forms(self, shop: Path) -> Path:
        (shop / "forms").mkdir()
        (shop / "forms" / "anna.pdf").write_bytes(b"%PDF anna signed")
        write(shop / "secret.txt", "out of reach")
        (shop / "forms" / "link.txt").symlink_to(shop / "secret.txt")
        return shop / "forms"

    def row(self, shop: Path, name: str) -> Path:
        return write(
            shop / "a.csv", PLAIN.strip() + ",evidence_file,evidence\n" + ANNA.strip() + f",{name},by post\n"
        )

    def test_a_file_is_known_by_its_hash_and_can_be_verified(self, shop: Path, run: Run, forms: Path) -> None:
        kept = shop / "kept"
        options = ("--evidence-dir", forms, "--keep-evidence", kept)
        path = self.row(shop, "anna.pdf")
        assert run("consent", "import", path, *options, "--dry-run").code == 0
        assert not kept.exists()
        assert run("consent", "import", path, *options).code == 0

        sha256 = hashlib.sha256(b"%PDF anna signed").hexdigest()
        (event,) = history(shop)
        assert event.evidence == f"sha256:{sha256} 16 application/pdf; by post"
        assert [one.name for one in kept.iterdir()] == [sha256]
        assert stat.S_IMODE((kept / sha256).stat().st_mode) == 0o600

        verify = ("consent", "evidence", "verify", event.event_id, "--evidence-dir")
        assert run(*verify, kept).code == 0
        assert run(*verify, forms, "--json").json["outcome"] == "unaltered"
        (forms / "anna.pdf").write_bytes(b"%PDF anna Signed")
        assert (run(*verify, forms).code, "missing" in run(*verify, forms).out) == (1, True)
        (kept / sha256).write_bytes(b"%PDF anna Signed")
        assert (run(*verify, kept).code, "altered" in run(*verify, kept).out) == (1, True)

    def test_a_copy_that_an_interruption_prevented_is_made_by_the_next_run(
        self, shop: Path, run: Run, forms: Path
    ) -> None:
        path = self.row(shop, "anna.pdf")
        assert run("consent", "import", path, "--evidence-dir", forms).code == 0
        kept = shop / "kept"
        ran = run("consent", "import", path, "--evidence-dir", forms, "--keep-evidence", kept)
        assert "nothing new" in ran.out
        assert len(list(kept.iterdir())) == 1

    @pytest.mark.parametrize(
        ("name", "said"),
        [
            ("../secret.txt", "leads out"),
            ("link.txt", "leads out"),
            ("/etc/passwd", "leads out"),
            (".", "is no file"),
            ("Anna Andersen.pdf", "no such file"),
        ],
    )
    def test_no_file_outside_the_folder_is_read_nor_a_name_repeated(
        self, shop: Path, run: Run, forms: Path, name: str, said: str
    ) -> None:
        ran = run("consent", "import", self.row(shop, name), "--evidence-dir", forms)
        assert (ran.code, said in ran.err) == (1, True), ran.err
        assert "Andersen" not in ran.out + ran.err

    def test_an_event_without_a_file_is_wrong_use(self, shop: Path, run: Run) -> None:
        run("consent", "import", write(shop / "a.csv", PLAIN + ANNA))
        (event,) = history(shop)
        ran = run("consent", "evidence", "verify", event.event_id, "--evidence-dir", shop)
        assert (ran.code, "names no file" in ran.err) == (2, True)


class TestExport:
    @pytest.fixture
    def filled(self, shop: Path, run: Run) -> Path:
        run("consent", "import", write(shop / "a.csv", PLAIN + ANNA), "--set", "evidence=form 17")
        run("consent", "withdraw", "sms:+4520123456", "--includes-service")
        return shop

    @pytest.mark.parametrize("name", ["out.csv", "out.jsonl"])
    def test_what_is_exported_can_be_imported_as_it_is(
        self, filled: Path, run: Run, tmp_path: Path, name: str
    ) -> None:
        ran = run("consent", "export", "--out", name)
        assert ran.code == 0
        assert "2 events written" in ran.err
        assert stat.S_IMODE((filled / name).stat().st_mode) == 0o600
        other = write(
            filled / "other.toml", (filled / "notifygate.toml").read_text().replace("ledger.db", "o.db")
        )
        ran = run("consent", "import", name, "--config", other)
        assert (ran.code, "written 2" in ran.out) == (0, True), ran.err
        with Gateway.open(other) as gate:
            (event,) = gate.consent.history("sms:+4520123456")
        assert event.includes_service
        assert (
            run(
                "consent",
                "show",
                "email:anna@example.dk",
                "--merchant",
                "myshop",
                "--purpose",
                "newsletter",
                "--config",
                other,
            ).code
            == 0
        )

    def test_csv_has_a_row_for_each_event_under_the_names_of_the_standard(
        self, filled: Path, run: Run
    ) -> None:
        header, *rows = csv.reader(run("consent", "export", "--format", "csv").out.splitlines())
        assert tuple(header) == COLUMNS
        told = [dict(zip(header, row, strict=True)) for row in rows]
        (grant,) = [one for one in told if one["state"] == "granted"]
        assert grant["event_state"] == "consent given"
        assert grant["pii_controllers"] == "myshop"
        assert grant["lawful_basis"] == "consent"
        assert grant["contact_point"] == "email:anna@example.dk"

    def test_json_has_a_record_for_each_consent(self, filled: Path, run: Run) -> None:
        run("consent", "withdraw", "email:anna@example.dk", "--party", "myshop", "--purpose", "newsletter")
        records = json.loads(run("consent", "export", "--format", "json", "--party", "myshop").out)
        (record,) = [one for one in records if one["contact_point"] == "email:anna@example.dk"]
        assert [event["state"] for event in record["events"]] == ["granted", "withdrawn"]
        assert record["pii_processing"]["purposes"] == [
            {"purpose": "newsletter", "purpose_type": "marketing"}
        ]
        assert record["pii_processing"]["pii_information"] == [
            {"pii_type": "email address"},
            {"pii_type": "telephone number"},
        ]
        assert record["party_identification"][0]["party_name"] == "My Shop"

    def test_a_file_that_is_there_is_left_alone_unless_forced(self, filled: Path, run: Run) -> None:
        write(filled / "out.csv", "mine")
        ran = run("consent", "export", "--out", "out.csv")
        assert (ran.code, "--force" in ran.err) == (2, True)
        assert (filled / "out.csv").read_text() == "mine"
        assert run("consent", "export", "--out", "out.csv", "--force").code == 0
        assert (filled / "out.csv").read_text().startswith("schema_version")
        assert stat.S_IMODE((filled / "out.csv").stat().st_mode) == 0o600
        assert not list(filled.glob(".out.csv*"))

    def test_pseudonyms_tell_no_address(self, filled: Path, run: Run) -> None:
        ran = run("consent", "export", "--pseudonymous")
        assert "anna@" not in ran.out
        assert "form 17" not in ran.out
        assert len(ran.jsons) == 2

    def test_wrong_names_are_wrong_use(self, filled: Path, run: Run) -> None:
        assert run("consent", "export", "--party", "nobody").code == 2
        assert run("consent", "export", "--out", "out.txt").code == 2
        assert not (filled / "out.txt").exists()
