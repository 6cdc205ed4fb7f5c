"""The files for systemd and containers name verbs, options and config keys that exist."""

from __future__ import annotations

import configparser
import re
import shlex
from pathlib import Path

import pytest

from notifygate.cli import main
from notifygate.config.schema import Tables

DEPLOY = Path(__file__).parents[1] / "deploy"


def command_lines() -> list[list[str]]:
    """The arguments that each file gives to `notifygate`."""
    unit = configparser.RawConfigParser(strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # as the library documents
    unit.read(DEPLOY / "systemd" / "notifygate-worker.service")
    _, *arguments = shlex.split(unit["Service"]["ExecStart"])
    image = (DEPLOY / "container" / "Containerfile").read_text("utf-8")
    found = re.search(r"^CMD \[(.*)\]$", image, re.MULTILINE)
    assert found is not None
    return [arguments, [one.strip().strip('"') for one in found[1].split(",")]]


@pytest.mark.parametrize("arguments", command_lines(), ids=["systemd", "container"])
def test_the_command_is_one_that_exists(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--help"]) == 0
    shown = capsys.readouterr().out
    options = [one for one in arguments if one.startswith("--")]
    assert options
    assert all(option in shown for option in options)


def test_variables_set_keys_that_exist() -> None:
    texts = [path.read_text("utf-8") for path in DEPLOY.rglob("*") if path.is_file()]
    named = {name.lower() for text in texts for name in re.findall(r"NOTIFYGATE_(\w+__\w+)", text)}

    assert {"gateway__data_dir", "gateway__ledger", "monitoring__listen"} <= named
    for name in named:
        table, key, *_ = name.split("__")
        model = Tables.model_fields[table].annotation
        assert model is not None
        assert key in model.model_fields or table == "channels"
