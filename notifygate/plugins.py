"""Rules from other packages, found by the entry-point group `notifygate.rules`.

An entry point names a `PluginRule`. It takes part in decisions where the config has a table for it, `[rules.NAME]`, and
only there: installing a package changes no decision, and each policy says which rules it was made of.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Any

from notifygate.errors import NotifygateError
from notifygate.policy import Policy
from notifygate.rules import RULES, Rule

GROUP = "notifygate.rules"


class PluginError(NotifygateError):
    """A rule of another package cannot be used; `name` is that of its entry point."""

    def __init__(self, name: str, problem: str) -> None:
        self.name = name
        self.problem = problem
        super().__init__(f"rules.{name}: {problem}")


@dataclass(frozen=True, slots=True, kw_only=True)
class PluginRule:
    """What an entry point of the group `notifygate.rules` names.

    `check` is called as every rule is, and must be as pure: what it goes by stands in
    `policy.rule_settings[NAME]`. `read` turns the table `[rules.NAME]` into those settings: a mapping of text, whole
    numbers, booleans, lists and mappings, which become part of the policy and its hash. It raises `ValueError` with
    a sentence for an admin, begun with the key at fault. Without it, the table must be empty.
    """

    check: Rule
    read: Callable[[Mapping[str, Any]], Mapping[str, Any]] | None = None


def installed() -> frozenset[str]:
    """The names of all rules that installed packages bring."""
    return frozenset(entry_points(group=GROUP).names)


def find(name: str) -> PluginRule:
    """The rule of that name. Raises `PluginError` where it is missing, cannot be loaded, or is named like ours."""
    if name in {*dict(RULES), "expiry", "policy"}:
        raise PluginError(name, "is the name of a built-in rule, which needs no table here")
    found = entry_points(group=GROUP, name=name)
    if not found:
        known = ", ".join(sorted(installed())) or "none at all"
        raise PluginError(name, f"no installed package brings a rule of this name; there is {known}")
    if len(found) > 1:
        raise PluginError(name, "several installed packages bring a rule of this name; keep one")
    try:
        rule = next(iter(found)).load()
    except Exception as error:
        raise PluginError(name, f"its package cannot be loaded ({type(error).__name__})") from error
    if not isinstance(rule, PluginRule):
        raise PluginError(name, f"its entry point names a {type(rule).__name__}; it must be a PluginRule")
    return rule


def read_settings(name: str, table: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings that a rule makes of its table in the config. Raises `PluginError`."""
    rule = find(name)
    if rule.read is None:
        if table:
            raise PluginError(name, f"takes no settings; leave out {', '.join(sorted(table))}")
        return {}
    try:
        settings: Mapping[str, Any] = _plain(dict(rule.read(table)))
    except (ValueError, TypeError, KeyError) as error:
        raise PluginError(name, str(error)) from error
    return settings


def rules_of(policy: Policy) -> tuple[tuple[str, Rule], ...]:
    """The built-in rules, and then those of other packages that a policy names, in the order of their names.

    Raises `PluginError` for one that is missing: without it, the policy would allow more than it says.
    """
    return (*RULES, *((name, find(name).check) for name in sorted(policy.rule_settings)))


def _plain(value: Any) -> Any:
    if isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return tuple(_plain(inner) for inner in value)
    raise TypeError(
        f"its settings hold a {type(value).__name__}, and may hold text, whole numbers and booleans"
    )
