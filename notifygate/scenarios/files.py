"""Reading scenario files: every fault at its key, and one scenario's faults never hide another's."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_core import ErrorDetails

from notifygate.config import Config, values
from notifygate.config.faults import KeyPath, suggest_key, written
from notifygate.config.schema import Table
from notifygate.scenarios.forms import Expect, Form, Instant, PurchaseForm, RequestForm
from notifygate.scenarios.steps import STEPS, Step

_FILE_KEYS = ("config", "scenario")
_SHARED = ("at", "request", "expect")
_SCENARIO_KEYS = ("name", "history", "ask", *_SHARED)
_NEAR = "did you mean"
_NO_SCENARIO = "there is no [[scenario]] in this file; keep files that are no scenarios elsewhere"
_ONE_BRACKET = "write [[scenario]], with two brackets"
_SENTENCES = {
    "missing": "missing",
    "string_type": "must be text in quotes",
    "bool_type": "must be true or false, without quotes",
    "list_type": "must be a list in square brackets",
    "dict_type": "must be a table",
    "model_type": "must be a table",
    "model_attributes_type": "must be a table",
}


class Ask(Form):
    """One question: may this be sent at that instant?"""

    at: Instant
    request: RequestForm
    expect: Expect


class Told(Form):
    """A scenario as written, with what all its questions share put into each."""

    history: list[Step] = Field(default_factory=list)
    ask: list[Ask] = Field(min_length=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """One scenario of a file, fit to be played unless it has `faults`.

    `name` is empty for what is wrong with a file as a whole. `config` is the one that it is played against.
    """

    file: Path
    name: str
    config: Config | None = None
    history: tuple[Step, ...] = ()
    asks: tuple[Ask, ...] = ()
    faults: tuple[str, ...] = ()


def document(file: Path) -> dict[str, Any] | str:
    """The tables of a TOML file, or what is wrong with it."""
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        return f"the file cannot be read: {error.strerror or type(error).__name__}"
    except UnicodeDecodeError:
        return "the file is no UTF-8 text; save it as UTF-8"
    except tomllib.TOMLDecodeError as error:
        return f"this is not TOML: {error}; each step and table in braces stands on one line"


def scenarios(file: Path, tables: Mapping[str, Any], config: Config | Sequence[str]) -> Iterator[Scenario]:
    """The scenarios of a file, and first what is wrong with the file itself.

    `config` is what its scenarios are played against, or what is wrong with that.
    """
    faults = [_unknown(key, _FILE_KEYS) for key in tables if key not in _FILE_KEYS]
    if not isinstance(config, Config):
        faults.extend(f"config: {problem}" for problem in config)
    found = tables.get("scenario")
    if not isinstance(found, list) or not found:
        faults = [fault for fault in faults if _NEAR in fault]  # some other TOML file, or a slip of the pen
        faults.append(f"scenario: {_NO_SCENARIO if found is None else _ONE_BRACKET}")
        found = []
    if faults:
        yield Scenario(file=file, name="", faults=tuple(faults))
    if not isinstance(config, Config):
        return
    names: set[str] = set()
    for number, raw in enumerate(found, start=1):
        yield _scenario(file, number, raw, config, names)


def _scenario(file: Path, number: int, raw: Any, config: Config, names: set[str]) -> Scenario:
    if not isinstance(raw, Mapping):
        return Scenario(file=file, name=f"scenario {number}", faults=("scenario: must be a table",))
    faults: list[str] = []
    name = raw.get("name")
    if not isinstance(name, str) or not name.strip():
        faults.append("name: missing; every scenario has a name in quotes")
        name = f"scenario {number}"
    elif name in names:
        faults.append("name: another scenario of this file has this name")
    names.add(name)
    faults.extend(_unknown(key, _SCENARIO_KEYS) for key in raw if key not in _SCENARIO_KEYS)
    if "ask" in raw and "expect" in raw:
        faults.append("expect: each [[scenario.ask]] has its own; leave this one out")
    try:
        read = Told.model_validate(_spread(raw), context={"config": config})
    except ValidationError as error:
        told = (_fault(details, raw) for details in error.errors(include_url=False))
        return Scenario(file=file, name=name, faults=tuple(dict.fromkeys([*faults, *told])))
    faults.extend(_out_of_order("history", read.history))
    faults.extend(_out_of_order("ask", read.ask))
    faults.extend(_after_all(read))
    return Scenario(
        file=file,
        name=name,
        config=config,
        history=tuple(read.history),
        asks=tuple(read.ask),
        faults=tuple(faults),
    )


def _spread(raw: Mapping[str, Any]) -> dict[str, Any]:
    """The questions of a scenario, each with what the scenario says for all of them."""
    told: dict[str, Any] = {"history": raw["history"]} if "history" in raw else {}
    shared = {key: raw[key] for key in _SHARED if key in raw}
    asks = raw.get("ask", [{}])
    if not isinstance(asks, list):
        return told | {"ask": asks}
    return told | {"ask": [_laid_over(shared, ask) for ask in asks]}


def _laid_over(shared: Mapping[str, Any], ask: Any) -> Any:
    if not isinstance(ask, Mapping):
        return ask
    below, above = shared.get("request"), ask.get("request", {})
    laid = {**shared, **ask}
    if isinstance(below, Mapping) and isinstance(above, Mapping):
        laid["request"] = {**below, **above}
    return laid


def _out_of_order(key: str, dated: Sequence[Step | Ask]) -> Iterator[str]:
    for number in range(1, len(dated)):
        if dated[number].at < dated[number - 1].at:
            yield f"{key}[{number}].at: earlier than the one before it; write them in order of time"


def _after_all(read: Told) -> Iterator[str]:
    last = max(ask.at for ask in read.ask)
    for number, step in enumerate(read.history):
        if step.at > last:
            yield f"history[{number}].at: later than the last question, so it could make no difference"


def _fault(details: ErrorDetails, raw: Mapping[str, Any]) -> str:
    """A fault as pydantic found it, at the key where it is written."""
    path, tag = list(details["loc"]), None
    if path[0] == "history" and len(path) > 2:
        tag = str(path.pop(2))  # pydantic's mark for the kind of step
    kind = details["type"]
    if kind in ("union_tag_invalid", "union_tag_not_found"):
        return f"{_written((*path, 'step'), raw)}: {_about_step(details['input'])}"
    if kind == "extra_forbidden":
        problem = suggest_key(path[-1], _model(path, tag))
    elif kind == "value_error":
        problem = str(details["ctx"]["error"])
    elif kind == "too_short":
        problem = "the list is empty; leave it out, and ask with at, request and expect"
    else:
        problem = _SENTENCES.get(kind, "is not of the form that is wanted here")
    return f"{_written(tuple(path), raw)}: {problem}"


def _model(path: Sequence[str | int], tag: str | None) -> type[Table] | None:
    """The table that an unknown key is in."""
    within: dict[str, type[Table]] = {"request": RequestForm, "purchase": PurchaseForm, "expect": Expect}
    parent = path[-2]
    if isinstance(parent, str):
        return within.get(parent)
    return STEPS[tag] if tag else Ask


def _about_step(table: Any) -> str:
    step = table.get("step") if isinstance(table, Mapping) else None
    if step is None:
        return f"missing; it must be {values.either(STEPS)}"
    if near := values.nearest(step, STEPS):
        return f'there is no step {values.shown(step)}; did you mean "{near}"?'
    return f"there is no step {values.shown(step)}; it must be {values.either(STEPS)}"


def _written(path: KeyPath, raw: Mapping[str, Any]) -> str:
    """A key path as it stands in the file: what all questions share was written once."""
    if path[:1] != ("ask",) or len(path) < 3:
        return written(path)
    asks = raw.get("ask")
    ask = asks[path[1]] if isinstance(asks, list) and isinstance(path[1], int) else {}
    own: Any = ask if isinstance(ask, Mapping) else {}
    if "ask" not in raw or (path[2] in raw and path[2] not in own):
        return written(path[2:])
    if path[2] == "request" and len(path) > 3:
        table, base = own.get("request"), raw.get("request")
        if isinstance(base, Mapping) and path[3] in base and path[3] not in (table or {}):
            return written(path[2:])
    return written(path)


def _unknown(key: str, known: Sequence[str]) -> str:
    near = values.nearest(key, known)
    hint = f'{_NEAR} "{near}"?' if near else f"known here: {', '.join(known)}"
    return f"{written((key,))}: unknown key; {hint}"
