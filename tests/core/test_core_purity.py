"""The pure core imports no I/O, clock or framework (principle 9), and no module below it does.

`notifygate/__init__` imports the gateway, so importing a core module the usual way brings everything. The modules
are therefore looked at twice: in the import graph, and run in a fresh interpreter with an empty package around them.
"""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import grimp
import pytest

import notifygate

PACKAGE = Path(notifygate.__file__).parent
RULES = sorted(f"notifygate.rules.{path.stem}" for path in (PACKAGE / "rules").glob("[!_]*.py"))
PURE = [
    "notifygate.errors",
    "notifygate.message",
    "notifygate.address",
    "notifygate.decision",
    "notifygate.policy",
    "notifygate.consent",
    "notifygate.snapshot",
    "notifygate.rules",
    *RULES,
]
FRAMEWORKS = (
    "sqlalchemy", "alembic", "dramatiq", "redis", "httpx", "pydantic", "pydantic_settings", "typer", "rich", "pika",
)  # fmt: skip
ALLOWED_EXTERNALS = {"email_validator", "holidays", "orjson", "phonenumbers", "rfc8785"}
IO = {
    "os",
    "socket",
    "subprocess",
    "sqlite3",
    "urllib",
    "http",
    "smtplib",
    "pathlib",
    "io",
    "logging",
    "random",
}


@cache
def graph() -> grimp.ImportGraph:
    return grimp.build_graph("notifygate", include_external_packages=True, cache_dir=None)


def below(module: str) -> set[str]:
    """All modules that a module needs, itself included; packages around them are left out."""
    found = graph().find_upstream_modules(module)
    return {module, *found}


def test_all_eight_rules_are_looked_at() -> None:
    assert [name.rpartition(".")[2] for name in RULES] == [
        "caps", "consent", "content", "dedupe", "expiry", "quiet_hours", "review_request", "suppression",
    ]  # fmt: skip


@pytest.mark.parametrize("module", PURE)
def test_nothing_below_a_core_module_is_outside_the_core(module: str) -> None:
    inside = {name for name in below(module) if name.split(".")[0] == "notifygate"}
    assert inside <= set(PURE)


@pytest.mark.parametrize("module", PURE)
def test_a_core_module_needs_no_framework_and_no_io(module: str) -> None:
    outside = {name.split(".")[0] for name in below(module)} - {"notifygate"}
    assert not outside & set(FRAMEWORKS)
    assert not outside & IO
    assert outside - set(sys.stdlib_module_names) <= ALLOWED_EXTERNALS


@pytest.mark.parametrize("module", PURE)
def test_a_core_module_reads_no_clock(module: str) -> None:
    spec = PACKAGE.parent / Path(*module.split("."))
    path = spec / "__init__.py" if spec.is_dir() else spec.with_suffix(".py")
    clocks = {"now", "utcnow", "today", "time_ns", "monotonic", "perf_counter", "localtime", "gmtime"}
    called = {
        node.func.attr
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)
    }
    assert not called & clocks


@pytest.mark.parametrize("rule", RULES)
def test_no_rule_knows_another(rule: str) -> None:
    others = set(RULES) - {rule}
    assert not graph().find_modules_directly_imported_by(rule) & (others | {"notifygate.rules"})


def test_the_core_runs_in_a_fresh_interpreter_without_any_framework() -> None:
    script = (
        "import importlib, json, sys, types\n"
        f"stub = types.ModuleType('notifygate'); stub.__path__ = [{str(PACKAGE)!r}]\n"
        "sys.modules['notifygate'] = stub\n"
        f"for name in {PURE!r}: importlib.import_module(name)\n"
        "print(json.dumps(sorted(sys.modules)))\n"
    )
    run = subprocess.run([sys.executable, "-c", script], check=True, capture_output=True, text=True)
    loaded = set(json.loads(run.stdout))
    assert set(PURE) <= loaded
    assert not {name for name in loaded if name.split(".")[0] in FRAMEWORKS}
