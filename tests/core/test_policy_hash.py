"""The policy's hash: the same for the same rules, another for any other."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace
from datetime import time, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import rfc8785
from core_builders import DAY, POLICY, RICH_POLICY, TICK, purpose

from notifygate import policy as policy_module
from notifygate.policy import PENDING_FOR, PLUGIN_HORIZON, Cap, Limit, Per, Policy, ReviewRequests

VISITED: set[tuple[str, str]] = set()


def mutants(value: Any, hint: Any) -> Iterator[tuple[str, Any]]:
    """Every way to change one thing in a value of the policy, with the path to it."""
    if value is None or (value is not None and type(None) in typing.get_args(hint)):
        kinds = [kind for kind in typing.get_args(hint) if kind is not type(None)]
        yield from _optional(value, kinds[0])
    elif is_dataclass(value) and not isinstance(value, type):
        hints = typing.get_type_hints(type(value))
        for field in fields(value):
            VISITED.add((type(value).__name__, field.name))
            for path, changed in mutants(getattr(value, field.name), hints[field.name]):
                yield f".{field.name}{path}", replace(value, **{field.name: changed})
    elif isinstance(value, Mapping):
        yield from _mapping(value, hint)
    elif isinstance(value, frozenset):
        for item in sorted(value):
            yield f" without {item}", value - {item}
        yield " with another", value | {_another(value)}
    elif isinstance(value, tuple):
        yield from _sequence(value, hint)
    else:
        yield "", _changed(value)


def _optional(value: Any, kind: Any) -> Iterator[tuple[str, Any]]:
    if value is not None:
        yield " unset", None
        yield from mutants(value, kind)
    elif kind is timedelta:
        yield " set", DAY
    elif kind is Limit:
        yield " set", Limit(limit=1, window=DAY)
    else:
        assert kind is str, kind
        yield " set", "other"


def _mapping(value: Mapping[Any, Any], hint: Any) -> Iterator[tuple[str, Any]]:
    _, inner = typing.get_args(hint)
    for key, held in value.items():
        rest = {other: value[other] for other in value if other != key}
        yield f"[{key}] removed", rest
        yield f"[{key}] renamed", rest | {(f"{key}x" if isinstance(key, str) else key + 10): held}
        for path, changed in mutants(held, inner):
            yield f"[{key}]{path}", {**value, key: changed}


def _sequence(value: tuple[Any, ...], hint: Any) -> Iterator[tuple[str, Any]]:
    inner = typing.get_args(hint)
    for place, held in enumerate(value):
        kind = inner[0] if len(inner) == 2 and inner[1] is Ellipsis else inner[place]
        for path, changed in mutants(held, kind):
            yield f"[{place}]{path}", (*value[:place], changed, *value[place + 1 :])
        if len(inner) == 2 and inner[1] is Ellipsis:
            yield f"[{place}] removed", (*value[:place], *value[place + 1 :])


def _another(values: frozenset[Any]) -> Any:
    kind = type(next(iter(values), ""))
    if issubclass(kind, Enum):
        return next(member for member in kind if member not in values)
    return "another"


def _changed(value: Any) -> Any:
    if isinstance(value, Enum):
        return next(member for member in type(value) if member is not value)
    if isinstance(value, bool):
        return not value
    if isinstance(value, int):
        return value + 1
    if isinstance(value, timedelta):
        return value + timedelta(seconds=1)
    if isinstance(value, time):
        return value.replace(minute=value.minute + 1)
    assert isinstance(value, str), value
    return value + "x"


CHANGES = dict(mutants(RICH_POLICY, Policy))


@pytest.mark.parametrize("path", CHANGES)
def test_any_change_of_any_field_changes_the_hash(path: str) -> None:
    assert CHANGES[path].hash != RICH_POLICY.hash


def test_no_two_changes_have_the_same_hash() -> None:
    same: dict[str, list[Policy]] = {}
    for changed in CHANGES.values():
        same.setdefault(changed.hash, []).append(changed)
    assert all(alike.count(alike[0]) == len(alike) for alike in same.values())


def test_the_walk_has_been_at_every_field_of_every_part_of_a_policy() -> None:
    parts = [
        part
        for part in vars(policy_module).values()
        if isinstance(part, type) and is_dataclass(part) and part.__module__ == policy_module.__name__
    ]
    assert {(part.__name__, field.name) for part in parts for field in fields(part)} == VISITED
    assert len(CHANGES) > 150


@pytest.mark.parametrize("name", [field.name for field in fields(Policy)])
def test_every_field_of_a_policy_was_changed_in_some_way(name: str) -> None:
    assert any(path.startswith(f".{name}") for path in CHANGES)


@pytest.mark.parametrize(
    "changed",
    [
        purpose("newsletter", RICH_POLICY, dedupe=timedelta(hours=24) + TICK),
        replace(RICH_POLICY, review_requests=ReviewRequests(yield_for=14 * DAY, delay=7 * DAY + TICK)),
        replace(RICH_POLICY, review_requests=ReviewRequests(yield_for=14 * DAY, delay=7 * DAY - TICK)),
    ],
    ids=["dedupe", "delay longer", "delay shorter"],
)
def test_a_change_of_a_microsecond_changes_the_hash(changed: Policy) -> None:
    assert changed.hash != RICH_POLICY.hash


def _backwards(value: Any) -> Any:
    """The same policy with every mapping and set written the other way round."""
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _backwards(getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, Mapping):
        return types.MappingProxyType({key: _backwards(value[key]) for key in reversed(list(value))})
    if isinstance(value, frozenset):
        return frozenset(sorted(value, reverse=True))
    if isinstance(value, tuple):
        return tuple(_backwards(held) for held in value)
    return value


def test_the_order_of_tables_makes_no_difference() -> None:
    again = _backwards(RICH_POLICY)
    assert list(again.merchants) == list(RICH_POLICY.merchants)[::-1]
    assert (again.text, again.hash) == (RICH_POLICY.text, RICH_POLICY.hash)


def test_the_hash_is_the_sha_256_of_the_text() -> None:
    assert RICH_POLICY.hash == hashlib.sha256(RICH_POLICY.text.encode()).hexdigest()


def test_the_text_is_canonical_json_and_holds_every_field() -> None:
    parsed = json.loads(RICH_POLICY.text)
    assert rfc8785.dumps(parsed).decode() == RICH_POLICY.text
    assert set(parsed) == {field.name for field in fields(Policy)}
    assert set(parsed["purposes"]["newsletter"]["caps"][0]) == {field.name for field in fields(Cap)}


def test_the_hash_is_the_same_in_processes_that_order_their_sets_differently() -> None:
    package = Path(policy_module.__file__).parent
    here = Path(__file__).parent
    script = (
        "import sys, types\n"
        f"stub = types.ModuleType('notifygate'); stub.__path__ = [{str(package)!r}]\n"
        f"sys.modules['notifygate'] = stub; sys.path.insert(0, {str(here)!r})\n"
        "from core_builders import RICH_POLICY; print(RICH_POLICY.hash)\n"
    )
    hashes = {
        subprocess.run(
            [sys.executable, "-c", script],
            check=True,
            capture_output=True,
            text=True,
            env={"PYTHONHASHSEED": seed},
        ).stdout.strip()
        for seed in ("1", "2", "3")
    }
    assert hashes == {RICH_POLICY.hash}


def test_a_policy_and_its_parts_are_frozen_and_keyword_only() -> None:
    for part in (POLICY, POLICY.purposes["newsletter"], POLICY.merchants["m1"], POLICY.review_requests):
        name = fields(part)[0].name
        with pytest.raises(FrozenInstanceError):
            setattr(part, name, None)
    with pytest.raises(TypeError):
        Limit(1, DAY)  # type: ignore[call-arg]


def test_a_value_of_a_policy_that_was_asked_for_its_hash_can_be_changed_only_by_making_another() -> None:
    assert POLICY.hash
    assert replace(POLICY, default_country="SE").hash != POLICY.hash


# The horizon: how far back a snapshot must reach.


def test_the_horizon_is_the_longest_window_of_any_rule() -> None:
    bare = purpose("confirmation", replace(POLICY, rule_settings={}), confirms=False)
    assert bare.horizon == timedelta(0)
    assert purpose("newsletter", bare, dedupe=5 * DAY).horizon == 5 * DAY
    capped = purpose("offers", bare, caps=(Cap(limit=1, window=9 * DAY, per=Per.PERSON),))
    assert capped.horizon == 9 * DAY
    assert purpose("confirmation", bare, confirms=True).horizon == PENDING_FOR


def test_the_horizon_does_not_depend_on_the_limits_of_asks_which_are_all_known() -> None:
    bare = purpose("confirmation", replace(POLICY, rule_settings={}), confirms=False)
    limits = ReviewRequests(per_person=Limit(limit=1, window=300 * DAY), per_person_and_merchant=None)
    assert replace(bare, review_requests=limits).horizon == timedelta(0)


def test_rules_of_other_packages_are_shown_half_a_year() -> None:
    assert replace(POLICY, rule_settings={"blackout": {}}).horizon == PLUGIN_HORIZON == 180 * DAY


def test_a_merchant_knows_its_group_and_a_stranger_has_none() -> None:
    assert POLICY.group_of("m1") == "g"
    assert POLICY.group_of("m3") is None
    assert POLICY.group_of("stranger") is None
