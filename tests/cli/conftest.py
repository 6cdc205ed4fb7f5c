"""Running the command line: in this process for breadth, as a process of its own for the real thing."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from cli.shop import CONFIG, Ran, environment
from notifygate.cli import main


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, with nothing of the caller's environment."""
    for name in os.environ:
        if name.startswith("NOTIFYGATE_") or name in ("FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS"):
            monkeypatch.delenv(name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def shop(folder: Path) -> Path:
    """A working folder with a config in which nothing depends on the time of day."""
    (folder / "notifygate.toml").write_text(CONFIG)
    return folder


@pytest.fixture
def run(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Ran]:
    """Run a command in this process."""

    def run(*args: str | Path, stdin: bytes = b"") -> Ran:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        code = main([str(one) for one in args])
        out, err = capsys.readouterr()
        return Ran(code, out, err)

    return run


@pytest.fixture
def process(folder: Path) -> Callable[..., Ran]:
    """Run a command as a process of its own, with every warning an error."""

    def run(*args: str | Path, stdin: str = "") -> Ran:
        done = subprocess.run(
            [sys.executable, "-W", "error", "-m", "notifygate", *args],
            cwd=folder,
            env=environment(),
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Ran(done.returncode, done.stdout, done.stderr)

    return run
