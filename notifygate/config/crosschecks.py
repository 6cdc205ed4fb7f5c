"""What one key of a config says about another: references, contradictions, names.

The checks read the tables as they were written, not as they were parsed, and pass over whatever has the wrong
form: so they find what they can beside faults of the schema, and an admin sees all faults at once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import timedelta
from typing import Any

from notifygate.config import values
from notifygate.config.faults import Fault, KeyPath, driver_keys
from notifygate.config.schema import DeliverySettings, ReviewRequestsTable, Table
from notifygate.config.sources import variable
from notifygate.plugins import PluginError, read_settings
from notifygate.policy import ANY, CASE_HOLDS_AT_MOST, Accepts, PurposeClass

Tree = Mapping[str, Any]

_NAME = re.compile(r"[a-z0-9][a-z0-9_.-]*")


def check(tables: Tree) -> Iterator[Fault]:
    """Yield every fault between keys."""
    for one in _CHECKS:
        yield from one(tables)


def notes(tables: Tree) -> Iterator[Fault]:
    """Yield what is no fault and still worth a look: merchants without a sender, groups without members."""
    senders = {"email": "email_from", "sms": "sms_sender"}
    for channel in _table(tables, "channels"):
        for merchant, table in _named(tables, "merchants"):
            key = senders.get(channel)
            if key and key not in table:
                problem = f"not set, so {merchant} cannot send on the channel {channel}"
                yield Fault(("merchants", merchant, key), problem)
    held = {table.get("group") for _, table in _named(tables, "merchants") if _is_text(table.get("group"))}
    for group, _ in _named(tables, "groups"):
        if group not in held:
            yield Fault(("groups", group), f'no merchant is in this group; its members say group = "{group}"')


def _table(tree: Tree, name: str) -> Tree:
    found = tree.get(name)
    return found if isinstance(found, Mapping) else {}


def _named(tables: Tree, name: str) -> Iterator[tuple[str, Tree]]:
    for key, table in _table(tables, name).items():
        if isinstance(table, Mapping):
            yield key, table


def _items(tree: Tree, name: str) -> Iterator[tuple[int, Any]]:
    found = tree.get(name)
    yield from enumerate(found if isinstance(found, list) else ())


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _unknown(what: str, name: str, known: Iterable[str]) -> str:
    known = sorted(known)
    if near := values.nearest(name, known):
        hint = f'did you mean "{near}"?'
    elif known:
        hint = f"there are {', '.join(known)}"
    else:
        hint = "there is none at all"
    return f"no {what} is named {values.shown(name)}; {hint}"


def _check_presence(tables: Tree) -> Iterator[Fault]:
    for name, example in (
        ("merchants", '[merchants.cykelpartner] with name = "Cykelpartner.dk" and kind = "shop"'),
        ("purposes", '[purposes.order_update] with class = "service" and permission = "none"'),
    ):
        if not tables.get(name):
            yield Fault((name,), f"missing; at least one is needed, such as {example}")


def _check_names(tables: Tree) -> Iterator[Fault]:
    for kind in ("groups", "merchants", "purposes", "quiet_hours"):
        for name in _table(tables, kind):
            if kind == "purposes" and name in set(PurposeClass):
                problem = (
                    f'"{name}" is the name of a class, so no purpose can be called that; try "{name}_update"'
                )
                yield Fault((kind, name), problem)
            elif name == ANY:
                yield Fault((kind, name), '"*" means all of them, so nothing can be called that')
            elif not _NAME.fullmatch(name):
                yield Fault((kind, name), _about_name(name))
    for name in _table(tables, "groups"):
        if name in _table(tables, "merchants"):
            problem = (
                "a merchant has this name as well; consent is given to either by name, so choose another: "
                f'try "{name}-group"'
            )
            yield Fault(("groups", name), problem)


def _about_name(name: str) -> str:
    better = re.sub(r"[^a-z0-9_.-]+", "_", name.lower()).lstrip("_.-")
    hint = f'; try "{better}"' if better else ""
    return f"a name is made of small letters, digits, _, . and -, and starts with a letter or digit{hint}"


def _check_channels(tables: Tree) -> Iterator[Fault]:
    channels = _table(tables, "channels")
    for name, table in channels.items():
        if not isinstance(table, Mapping):
            continue
        keys = driver_keys(name, table.get("driver")) or {}
        wanted = "username" in table and "password" in keys
        if wanted and "password" not in table and "password_file" not in table:
            path: KeyPath = ("channels", name, "password")
            yield Fault(path, f"missing beside username; set {variable(path)}, or password_file")
        if "username" in keys and "username" not in table and {"password", "password_file"} & table.keys():
            yield Fault(("channels", name, "username"), "missing; a password is set, and needs a user name")
        bodies = [key for key in ("form", "json", "body") if key in table and key in keys]
        if bodies and table.get("method") == "GET":
            problem = "a GET request has no content; use query, or another method"
            yield Fault(("channels", name, bodies[0]), problem)
        if "lookup_url" in table and "lookup_url" in keys:
            yield from _check_lookup(("channels", name, "lookup_url"), table)
        if table.get("accepted_statuses") == []:
            problem = "the list is empty; leave the key out to take any of 200 to 299 for a yes"
            yield Fault(("channels", name, "accepted_statuses"), problem)
        for key in bodies[1:]:
            problem = (
                f"only one of form, json and body can be sent, and {bodies[0]} is set as well; leave one out"
            )
            yield Fault(("channels", name, key), problem)


def _check_lookup(path: KeyPath, table: Tree) -> Iterator[Fault]:
    url = table["lookup_url"]
    if not _is_text(url):
        return
    if not any(f"{{{name}}}" in url for name in ("message_id", "attempt_id", "provider_id")):
        yield Fault(path, "names no message; use {message_id}, {attempt_id} or {provider_id} in it")
    elif "{provider_id}" in url and "provider_id_path" not in table:
        yield Fault(path, "{provider_id} is never known here; set provider_id_path, or use {message_id}")


def _check_delivery(tables: Tree) -> Iterator[Fault]:
    table = _table(tables, "delivery")
    first, most = (_span(table, key, DeliverySettings) for key in ("retry_after", "retry_at_most"))
    if first and most and most < first:
        key = "retry_at_most" if "retry_at_most" in table else "retry_after"
        yield Fault(("delivery", key), "retry_at_most must be at least as long as retry_after")


def _check_merchants(tables: Tree) -> Iterator[Fault]:
    groups = _table(tables, "groups")
    for name, table in _named(tables, "merchants"):
        group = table.get("group")
        if _is_text(group) and group not in groups:
            yield Fault(("merchants", name, "group"), _unknown("group", str(group), groups))


def _check_purposes(tables: Tree) -> Iterator[Fault]:
    quiet_hours = _table(tables, "quiet_hours")
    for name, table in _named(tables, "purposes"):
        yield from _check_permission(("purposes", name), table)
        hours = table.get("quiet_hours")
        if _is_text(hours) and hours not in quiet_hours:
            yield Fault(("purposes", name, "quiet_hours"), _unknown("quiet_hours", str(hours), quiet_hours))
        if table.get("class") == PurposeClass.REVIEW and table.get("on_doubt") == "resend":
            problem = 'a review request is never sent again in doubt; write "hold", or leave the key out'
            yield Fault(("purposes", name, "on_doubt"), problem)
        if table.get("confirms") in (True, "true") and table.get("permission") != "none":
            problem = 'a message that asks to confirm is of class "service", with permission = "none"'
            yield Fault(("purposes", name, "confirms"), problem)
        for number, cap in _items(table, "caps"):
            if isinstance(cap, Mapping):
                yield from _check_cap(("purposes", name, "caps", number), cap, _table(tables, "purposes"))


def _check_permission(path: KeyPath, table: Tree) -> Iterator[Fault]:
    permission, kind = table.get("permission"), table.get("class")
    if permission == "none" and kind in (PurposeClass.MARKETING, PurposeClass.REVIEW):
        problem = (
            f'"none" is for the class "service" only; a {kind} message needs a permission, '
            'such as ["consent", "soft_opt_in"]'
        )
        yield Fault((*path, "permission"), problem)
    if permission == []:
        problem = (
            'the list is empty, so nothing could ever be sent; write "none" (class service only) or a ground'
        )
        yield Fault((*path, "permission"), problem)
    neutral = False
    for number, ground in _items(table, "permission"):
        if ground == "none":
            yield Fault((*path, "permission", number), '"none" stands alone: permission = "none"')
        if ground == Accepts.NEUTRAL_POST_SALE:
            neutral = True
            if kind in (PurposeClass.SERVICE, PurposeClass.MARKETING):
                problem = f'"{ground}" is for the class "review" only; leave it out here'
                yield Fault((*path, "permission", number), problem)
    if "within" in table and not neutral:
        problem = f'has no effect without "{Accepts.NEUTRAL_POST_SALE}" in permission; leave it out'
        yield Fault((*path, "within"), problem)


def _check_cap(path: KeyPath, cap: Tree, purposes: Tree) -> Iterator[Fault]:
    for number, purpose in _items(cap, "purposes"):
        if _is_text(purpose) and purpose not in purposes:
            yield Fault((*path, "purposes", number), _unknown("purpose", purpose, purposes))
    for key in ("purposes", "classes", "channels"):
        if cap.get(key) == []:
            yield Fault((*path, key), "the list is empty; leave the key out to set no such bound")


def _check_quiet_hours(tables: Tree) -> Iterator[Fault]:
    for name, table in _named(tables, "quiet_hours"):
        allow = table.get("allow")
        if allow == {}:
            problem = 'nothing could ever be sent; name days, such as { mon-sat = "09:00-20:00" }'
            yield Fault(("quiet_hours", name, "allow"), problem)
        seen: dict[int, str] = {}
        for key in allow if isinstance(allow, Mapping) else ():
            try:
                named = values.days(key)
            except ValueError:
                continue
            for day in named:
                if day in seen:
                    problem = f'{values.DAYS[day]} is named by "{seen[day]}" as well; name each day once'
                    yield Fault(("quiet_hours", name, "allow", key), problem)
                    break
            for day in named:
                seen[day] = key


def _check_review_requests(tables: Tree) -> Iterator[Fault]:
    table = _table(tables, "review_requests")
    seen: set[str] = set()
    for number, kind in _items(table, "precedence"):
        if isinstance(kind, str):
            if kind in seen:
                problem = (
                    f"{values.shown(kind)} was named before; name each kind once, the first to ask first"
                )
                yield Fault(("review_requests", "precedence", number), problem)
            seen.add(kind)
    if table.get("precedence") == []:
        yield Fault(
            ("review_requests", "precedence"), 'the list is empty; write ["shop", "platform", "carrier"]'
        )
    delay, expires = (_span(table, key, ReviewRequestsTable) for key in ("delay", "expires"))
    if delay is None or expires is None:
        return
    if expires <= delay:
        key = "expires" if "expires" in table else "delay"
        yield Fault(
            ("review_requests", key), "expires must be longer than delay, or nobody could ever be asked"
        )
        return
    if table.get("hold_for_cases") in (True, "true") and delay + CASE_HOLDS_AT_MOST >= expires:
        problem = f"delay and the {CASE_HOLDS_AT_MOST.days} days of a case must be shorter than expires; lengthen it"
        yield Fault(("review_requests", "hold_for_cases"), problem)
    try:
        waits = values.yields(table.get("yield", "deny"))
    except ValueError:
        return
    if waits is not None and delay + waits >= expires:
        problem = 'delay and yield together must be shorter than expires; shorten it, or write "deny"'
        yield Fault(("review_requests", "yield"), problem)


def _span(table: Tree, key: str, model: type[Table]) -> timedelta | None:
    """A span as written, else its default; None where what is written is none."""
    if key not in table:
        default = model.model_fields[key].default
        return default if isinstance(default, timedelta) else None
    try:
        return values.wait(table[key])
    except ValueError:
        return None


def _check_rules(tables: Tree) -> Iterator[Fault]:
    for name, table in _named(tables, "rules"):
        try:
            read_settings(name, table)
        except PluginError as error:
            yield Fault(("rules", name), error.problem)


_CHECKS: tuple[Callable[[Tree], Iterator[Fault]], ...] = (
    _check_presence,
    _check_names,
    _check_channels,
    _check_delivery,
    _check_merchants,
    _check_purposes,
    _check_quiet_hours,
    _check_review_requests,
    _check_rules,
)
