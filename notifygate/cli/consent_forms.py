"""From the rows of a consent file to consent events: which column is which field, and how values are read."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from notifygate.cli.attachments import Attachment, EvidenceFolder
from notifygate.cli.forms import Wrong
from notifygate.cli.output import CommandError
from notifygate.cli.records import Unreadable, shown_name

if TYPE_CHECKING:
    from notifygate.gateway.consent_imports import ImportRow

_CONTACT = ("contact_point", "email", "phone")
_TEXTS = ("basis", "source", "evidence", "notice_version", "sale_ref", "invalidates", "actor")
_FLAGS = ("opt_out_offered", "includes_service")
_OWN = (
    "state",
    *_CONTACT,
    "party",
    "channel",
    "purpose",
    "occurred_at",
    "expires_at",
    *_TEXTS,
    *_FLAGS,
    "evidence_file",
    "row_key",
)
_STANDARD = ("event_state", "validity_duration", "entity_id")
_YES = {"true", "yes", "y", "1", "on"}
_NO = {"false", "no", "n", "0", "off"}
_BASIS = {"granted": "consent", "soft_opt_in": "existing customer", "requested": "double opt-in"}
_PERMISSIONS = frozenset(_BASIS)
_DATE = re.compile(r"\d{4}-?\d{2}-?\d{2}")
_HEADER_NAME = re.compile(r"[^\W\d][\w .()/#-]{0,39}")
_LONG_NUMBER = re.compile(r"\d{5}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row that was read: what the gateway takes in, and the file that it rests on."""

    taken: ImportRow = field(repr=False)
    evidence: tuple[Path, Attachment] | None = field(default=None, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """How the rows of a file are to be read.

    `columns` gives columns another field than the one of their name, `fixed` gives fields a value for all rows, and
    `values` gives words of the file, by field, those that are meant. `timezone` is for instants that name none.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    values: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    key: str | None = None
    source: str | None = None
    timezone: str | None = None
    ignore_unknown: bool = False
    evidence: EvidenceFolder | None = None

    def __post_init__(self) -> None:
        for where, names in (
            ("--map", self.columns.values()),
            ("--set", self.fixed),
            ("[values]", self.values),
        ):
            for name in names:
                if name not in known_fields():
                    raise CommandError(f"{where}: {_unknown(name)}")
        for name in self.fixed:
            if name in (*_CONTACT, "row_key", "evidence_file"):
                raise CommandError(f"--set: {name} cannot be the same for all rows")

    def check_header(self, header: Sequence[str]) -> None:
        """Check the columns of a CSV file. Raises `Unreadable` that lists all which are at fault."""
        named = [name for name in header if not name.startswith("_")]
        is_header = any(self._field_of(name) for name in named)
        unknown = [name for name in named if self._field_of(name) is None and name != self.key]
        if unknown and not (self.ignore_unknown and is_header):
            listed = ", ".join(
                f"column {header.index(name) + 1}, {_shown(name, is_header)}" for name in unknown
            )
            nears = [f'{name} looks like "{near}"' for name in unknown if (near := _near(name)) and is_header]
            hint = f" ({'; '.join(nears)})" if nears else ""
            raise Unreadable(
                f"unknown columns: {listed}{hint}. Name their fields with --map COLUMN=FIELD, or pass over them with "
                f"--ignore-unknown. Fields are {', '.join(_OWN)}"
            )
        if missing := [name for name in self.columns if name not in named]:
            raise Unreadable(f"--map: the file has no column {', '.join(missing)}")
        if self.key is not None and self.key not in named:
            raise Unreadable(f"--key: the file has no column {self.key}")
        found = [name for column in named if (name := self._field_of(column)) and name not in _told_only()]
        if twice := sorted({name for name in found if found.count(name) > 1}):
            raise Unreadable(f"two columns for one field: {', '.join(twice)}")
        if both := sorted(set(found) & set(self.fixed)):
            raise Unreadable(f"given both by --set and by a column: {', '.join(both)}")
        given = {*found, *self.fixed}
        if not given & set(_CONTACT):
            raise Unreadable(f"no column says who it is about: one of {', '.join(_CONTACT)} is needed")
        if not given & {"state", "event_state"}:
            raise Unreadable(
                "no column is the state: name one with --map COLUMN=state, or say --set state=granted"
            )

    def row_of(self, raw: Mapping[str, Any]) -> Row:
        """What a row stands for. Fields that begin with _ are passed over. Raises `Wrong`."""
        from notifygate.consent import ConsentEvent
        from notifygate.errors import InvalidConsent
        from notifygate.gateway.consent_imports import ImportRow

        given = self._named(raw)
        state = _state(given)
        permits = state in _PERMISSIONS
        point = _contact_point(given)
        if "channel" not in given and permits:
            given["channel"] = point.partition(":")[0]
        occurred_at = self._instant(given, "occurred_at", late=not permits)
        if permits and occurred_at is not None and occurred_at > datetime.now(UTC):
            # It would win over whatever is refused until then: more often a year was mistyped.
            raise Wrong("occurred_at", "lies in the future; take it in once it was given")
        expires_at = self._instant(given, "expires_at", late=False)
        if "validity_duration" in given:
            expires_at = _expiry(given, occurred_at, expires_at)
        found: dict[str, Any] = {"occurred_at": occurred_at, "expires_at": expires_at}
        found |= {name: _text(given, name) for name in _TEXTS if name in given}
        found |= {name: _text(given, name) for name in ("party", "channel", "purpose") if name in given}
        found |= {name: _flag(given, name) for name in _FLAGS if name in given}
        if "actor" not in found and given.get("entity_id") != raw.get("pii_principal_id"):
            found["actor"] = _text(given, "entity_id") if "entity_id" in given else None
        if permits:
            found.setdefault("basis", _BASIS[state])
        evidence = self._evidence(given)
        if evidence is not None:
            found["evidence"] = evidence[1].beside(found.get("evidence"))
        try:
            event = ConsentEvent(state=state, contact_point=point, **found)
        except InvalidConsent as error:
            raise Wrong(error.field, error.problem) from error
        key = _text({"row_key": raw[self.key]}, "row_key") if self.key and raw.get(self.key) else None
        if key is None and "row_key" in given:
            key = _text(given, "row_key")
        return Row(taken=ImportRow(event=event, key=key), evidence=evidence)

    def _named(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The values of a row by field, as the words that are meant."""
        given: dict[str, Any] = dict(self.fixed)
        for column, value in raw.items():
            told = value.strip() if isinstance(value, str) else value
            if column.startswith("_") or told in (None, ""):
                continue
            name = self._field_of(column)
            if name is None:
                if self.ignore_unknown or column == self.key:
                    continue
                raise Wrong(shown_name(column), _unknown(column))
            if name in _told_only():
                continue
            if name in self.fixed:
                raise Wrong(name, "is given by --set as well")
            if name in given:
                raise Wrong(name, "is given twice")
            given[name] = self.values.get(name, {}).get(told, told) if isinstance(told, str) else told
        return given

    def _field_of(self, column: str) -> str | None:
        from notifygate.gateway.consent_records import OURS

        name = self.columns.get(column, column)
        return OURS.get(name, name) if name in known_fields() else None

    def _instant(self, given: Mapping[str, Any], name: str, *, late: bool) -> datetime | None:
        """Read an instant: the first that may be meant, or the last where `late`, as a doubt must never permit."""
        if name not in given:
            return None
        text = _text(given, name)
        wanted = "write it as 2026-05-01T12:00:00+02:00"
        try:
            if is_day := bool(_DATE.fullmatch(text)):
                hour = time.max if late else time.min
                found = datetime.combine(date.fromisoformat(text), hour)
            else:
                found = datetime.fromisoformat(text)
        except ValueError as error:
            raise Wrong(name, f"no instant; {wanted}") from error
        if found.utcoffset() is not None:
            return found
        if self.timezone is None:
            what = "is a day alone" if is_day else "has no time zone"
            raise Wrong(name, f"{what}; {wanted} or ...Z, or say which with --timezone")
        # Where clocks skip an hour the second reading is the earlier instant, and where they repeat one the later.
        zone = ZoneInfo(self.timezone)
        readings = [found.replace(tzinfo=zone, fold=fold) for fold in (0, 1)]
        return (max if late else min)(readings, key=datetime.timestamp)

    def _evidence(self, given: Mapping[str, Any]) -> tuple[Path, Attachment] | None:
        if "evidence_file" not in given:
            return None
        if self.evidence is None:
            raise Wrong("evidence_file", "say with --evidence-dir which folder it is in")
        return self.evidence.attachment(_text(given, "evidence_file"))


def known_fields() -> frozenset[str]:
    """All names that a column may have or be given."""
    from notifygate.gateway.consent_records import OURS

    return frozenset((*_OWN, *_STANDARD, *OURS, *_told_only()))


def read_mapping(path: Path) -> Form:
    """The form that a TOML file describes. Raises `CommandError` naming the key at fault."""
    try:
        with path.open("rb") as file:
            found = tomllib.load(file)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror or type(error).__name__}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"{path} is not TOML: {error}") from error
    kinds: dict[str, type] = {
        "columns": dict,
        "set": dict,
        "values": dict,
        "key": str,
        "source": str,
        "timezone": str,
        "ignore_unknown": bool,
    }
    for name, value in found.items():
        if name not in kinds:
            raise CommandError(f"{path}: {shown_name(name)}: unknown key; known are {', '.join(kinds)}")
        if not isinstance(value, kinds[name]):
            what = {dict: "a table", str: "text", bool: "true or false"}[kinds[name]]
            raise CommandError(f"{path}: {name}: {what} is wanted")
    for table, inner in found.get("values", {}).items():
        if not isinstance(inner, dict) or not all(isinstance(word, str) for word in inner.values()):
            raise CommandError(f"{path}: values.{shown_name(table)}: a table of texts is wanted")
    for name, value in found.get("columns", {}).items():
        if not isinstance(value, str):
            raise CommandError(f"{path}: columns.{shown_name(name)}: the name of a field is wanted")
    for name, value in found.get("set", {}).items():
        if not isinstance(value, str | bool):
            raise CommandError(f"{path}: set.{shown_name(name)}: text, or true or false, is wanted")
    if "set" in found:
        found["fixed"] = found.pop("set")
    return replace(Form(), **found)


def pairs(option: str, given: Iterable[str]) -> dict[str, str]:
    """Read options such as `--map COLUMN=FIELD`. Raises `CommandError`."""
    found: dict[str, str] = {}
    for one in given:
        name, equals, value = one.rpartition("=") if option == "--map" else one.partition("=")
        if not equals or not name or not value:
            shape = "COLUMN=FIELD" if option == "--map" else "FIELD=VALUE"
            raise CommandError(f"{option}: write {option} {shape}")
        if name in found:
            raise CommandError(f"{option}: {shown_name(name)} is given twice")
        found[name] = value
    return found


def _told_only() -> tuple[str, ...]:
    from notifygate.gateway.consent_records import TOLD_ONLY

    return TOLD_ONLY


def _state(given: Mapping[str, Any]) -> str:
    from notifygate.consent import State
    from notifygate.gateway.consent_records import STATE_OF

    if "state" in given:
        found = _text(given, "state").casefold()
        if found in set(State):
            return found
        problem = "must be one of " + ", ".join(State)
        raise Wrong("state", f"{problem}; other words can be mapped in [values.state] of --mapping")
    if "event_state" in given:
        told = _text(given, "event_state").casefold()
        if told in STATE_OF:
            return str(STATE_OF[told])
        raise Wrong("event_state", "must be one of " + ", ".join(STATE_OF))
    raise Wrong("state", "missing")


def _contact_point(given: Mapping[str, Any]) -> str:
    """The contact point as `email:...` or `sms:...`. Where no column tells the channel, the address does."""
    found = [name for name in _CONTACT if name in given]
    channel = given.get("channel")
    if len(found) > 1 and channel in ("email", "sms"):
        wanted = {"email": "email", "sms": "phone"}[channel]
        found = [name for name in found if name == wanted] or found
    if not found:
        raise Wrong("contact_point", f"missing; one of {', '.join(_CONTACT)} is needed")
    if len(found) > 1:
        raise Wrong(found[1], f"there is {found[0]} as well: an event is about one; say which in channel")
    name = found[0]
    text = _text(given, name)
    if name != "contact_point":
        return f"{'email' if name == 'email' else 'sms'}:{text}"
    if text.startswith(("email:", "sms:")):
        return text
    if text.startswith(("cp_", "per_")):
        raise Wrong(name, "is an id of a ledger, and no address: export with addresses to import elsewhere")
    if "@" in text:
        return f"email:{text}"
    if any(mark.isdigit() for mark in text):
        return f"sms:{text}"
    raise Wrong(name, "write sms:NUMBER or email:ADDRESS")


def _expiry(
    given: Mapping[str, Any], occurred_at: datetime | None, expires_at: datetime | None
) -> datetime | None:
    from notifygate.gateway.consent_records import read_duration

    try:
        lasts = read_duration(_text(given, "validity_duration"))
    except ValueError as error:
        problem = "no length of time in weeks, days, hours, minutes and seconds, such as P365D"
        raise Wrong("validity_duration", problem) from error
    if occurred_at is None:
        raise Wrong("validity_duration", "needs occurred_at, from which it counts")
    try:
        found = occurred_at + lasts
    except OverflowError as error:
        raise Wrong("validity_duration", "is too long") from error
    if expires_at is not None and abs(expires_at - found) > timedelta(0):
        raise Wrong("validity_duration", "and expires_at say different things")
    return found


def _text(given: Mapping[str, Any], name: str) -> str:
    value = given[name]
    if isinstance(value, bool) or not isinstance(value, str | int):
        raise Wrong(name, "text is wanted")
    return str(value)


def _flag(given: Mapping[str, Any], name: str) -> bool:
    value = given[name]
    if isinstance(value, bool):
        return value
    word = str(value).casefold()
    if word in _YES:
        return True
    if word in _NO:
        return False
    raise Wrong(name, "write yes or no")


def _shown(name: str, is_header: bool) -> str:
    """A name of a column, where the line is known to hold names and this one is not an address all the same."""
    if is_header and _HEADER_NAME.fullmatch(name) and not _LONG_NUMBER.search(name):
        return name
    return shown_name(name) if "@" not in name else "(a name that is not shown)"


def _near(name: str) -> str | None:
    from notifygate.config.values import nearest

    if not _HEADER_NAME.fullmatch(name):
        return None
    return nearest(re.sub(r"\W+", "_", name.casefold()), known_fields())


def _unknown(name: str) -> str:
    near = _near(name)
    if near:
        return f'{shown_name(name)} is no field; did you mean "{near}"?'
    return f"{shown_name(name)} is no field; fields are {', '.join(_OWN)}"
