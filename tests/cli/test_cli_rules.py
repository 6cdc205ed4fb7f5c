"""`notifygate rules test`: exit codes, and what it says."""

from __future__ import annotations

from pathlib import Path

import pytest

from notifygate.cli import main

SCENARIOS = Path(__file__).parent.parent / "scenarios"
WRONG = """\
config = "{policy}"
[[scenario]]
name = "a newsletter needs no permission"
at = 2026-03-02T12:00:00Z
request = {{ merchant = "m1", purpose = "newsletter", to = "email:anna@example.dk" }}
expect = {{ outcome = "allow" }}
"""


def test_scenarios_that_hold_exit_0(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "test", str(SCENARIOS / "expiry.toml")]) == 0
    assert "0 failed, 0 faulty" in capsys.readouterr().out


def test_a_difference_is_named_and_exits_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text(WRONG.format(policy=SCENARIOS / "policy.toml"))
    assert main(["rules", "test", str(tmp_path)]) == 1
    said = capsys.readouterr().out
    assert "a newsletter needs no permission" in said
    assert "consent_missing" in said


def test_a_faulty_file_and_a_missing_folder_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "broken.toml").write_text("[[scenario")
    assert main(["rules", "test", str(tmp_path)]) == 2
    assert "1 faulty" in capsys.readouterr().out
    assert main(["rules", "test", str(tmp_path / "nowhere")]) == 2
    assert "Traceback" not in capsys.readouterr().err
