"""How the single values of a config file are written: spans, windows, zones, addresses, URLs, paths.

Each function takes what TOML (or the environment) gave and returns the value, or raises `ValueError` with a
plain sentence that says what would be right. No sentence repeats an address, a URL or anything that may hold
a password.
"""

from __future__ import annotations

import difflib
import json
import re
import string
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import time, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

import phonenumbers
from email_validator import EmailNotValidError, validate_email
from pydantic import SecretStr, ValidationInfo
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from notifygate.notes import NoteError, Signer

Windows = tuple[tuple[time, time], ...]

DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
FOOTER_FIELDS = ("merchant", "seller", "order")

_CONTROL = re.compile(r"[\x00-\x1f\x7f\x85\u2028\u2029]")
_SPAN = re.compile(r"([0-9]+)([smhdw])")
_LARGEST = 2**31 - 1
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_PERIOD = re.compile(r"([0-9]{1,6})([dwy])")
_PERIOD_DAYS = {"d": 1, "w": 7, "y": 365}
_LONGEST = timedelta(days=36_500)
_WINDOW = re.compile(r"([0-9]{1,2}):([0-9]{2})\s*-\s*([0-9]{1,2}):([0-9]{2})")
_HOST = re.compile(r"[^\s/@?#]+")
_LISTEN = re.compile(r"(?:\[([0-9A-Fa-f:.]+)\]|([A-Za-z0-9._-]+)):([0-9]{1,5})")
_ORIGIN = re.compile(r"[!-*,-~]{1,100}")
_DOMAIN = re.compile(r"([a-z0-9]([a-z0-9-]*[a-z0-9])?\.)+[a-z0-9-]*[a-z][a-z0-9-]*")
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # RFC 9110 section 5.6.2
_LANGUAGE = re.compile(r"[a-z]{2,3}(-[a-z0-9]{2,8})*", re.IGNORECASE)
# Letters, digits and what passes unchanged through the GSM 7-bit alphabet and most gateways (3GPP TS 23.040
# section 9.1.2.5 limits an alphanumeric sender to 11 characters).
_GSM_SENDER = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9&._-]([A-Za-z0-9&._ -]{0,9}[A-Za-z0-9&._-])?")
_BROKERS = {"redis", "rediss", "unix", "amqp", "amqps"}
_URL_PASSWORD = re.compile(r"^([a-z][a-z0-9+.-]*://[^:/?#]*):.*@", re.IGNORECASE | re.DOTALL)
_QUERY_PASSWORD = re.compile(r"([?&][^=&]*(?:pass|pwd|secret|token|key)[^=&]*=)[^&#]*", re.IGNORECASE)


def either(options: Iterable[str]) -> str:
    """List words for a sentence: `"a", "b" or "c"`."""
    quoted = [json.dumps(str(option), ensure_ascii=False) for option in options]
    return " or ".join(filter(None, [", ".join(quoted[:-1]), quoted[-1]]))


def shown(value: object) -> str:
    """A value as a sentence may quote it: short text, else only its kind."""
    if isinstance(value, str):
        return json.dumps(value if len(value) <= 40 else value[:40] + "…", ensure_ascii=False)
    return _KINDS.get(type(value), "a date or time")


_KINDS: dict[type, str] = {
    bool: "a yes-or-no value",
    int: "a number",
    float: "a number",
    dict: "a table",
    list: "a list",
}


def nearest(word: object, options: Iterable[str], *, likeness: float = 0.6) -> str | None:
    """The option that a misspelt word most likely meant, if any is near (`likeness` 1 is equal)."""
    found = difflib.get_close_matches(str(word), [str(option) for option in options], n=1, cutoff=likeness)
    return found[0] if found else None


def one_of(options: Iterable[str]) -> Callable[[Any], str]:
    """A check that takes only these words."""
    known = [str(option) for option in options]

    def check(value: Any) -> str:
        if isinstance(value, str) and value in known:
            return value
        raise ValueError(f"must be {either(known)}, not {shown(value)}")

    return check


def whole(least: int, most: int | None = None) -> Callable[[Any], int]:
    """A check that takes whole numbers; text too, for the environment knows nothing else."""
    wanted = (
        f"a whole number of at least {least}" if most is None else f"a whole number from {least} to {most}"
    )

    def check(value: Any) -> int:
        if isinstance(value, str) and re.fullmatch(r"[0-9]{1,9}", value):
            value = int(value)
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise ValueError(f"must be {wanted}")
        if value > (_LARGEST if most is None else most):
            raise ValueError(f"must be {wanted}{'' if most is not None else f', and at most {_LARGEST}'}")
        return value

    return check


def switch(value: Any) -> bool:
    """Read `true` or `false`; as text too, for the environment knows nothing else."""
    if isinstance(value, bool):
        return value
    if value in ("true", "false"):
        return bool(value == "true")
    raise ValueError("must be true or false, without quotes")


def span(value: Any) -> timedelta:
    """Read `30s`, `15m`, `24h`, `7d` or `2w`: a number above zero and one unit, at most 100 years."""
    length = wait(value)
    if not length:
        raise ValueError('must be longer than nothing, such as "1s"')
    return length


def wait(value: Any) -> timedelta:
    """Read a span as `span` does, or one of no length, such as `0d`."""
    match = _SPAN.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            f"{shown(value)} is no span of time; it must be a whole number and one of s, m, h, d, w, "
            'such as "30s", "15m", "24h", "7d" or "2w"'
        )
    try:
        length = timedelta(**{_UNITS[match[2]]: int(match[1])})
    except (OverflowError, ValueError):
        length = _LONGEST * 2
    if length > _LONGEST:
        raise ValueError("must be at most 36500d (100 years)")
    return length


def period(value: Any) -> timedelta:
    """Read how long something is kept: `90d`, `26w` or `3y`, a year being 365 days; at most 100 years.

    Shorter units are refused: whoever writes `6m` for half a year would have six minutes.
    """
    match = _PERIOD.fullmatch(value) if isinstance(value, str) else None
    if match is None or not int(match[1]):
        raise ValueError(
            f"{shown(value)} is no time to keep something for; it must be a whole number of at least 1 and "
            'one of d, w, y (days, weeks, years), such as "90d", "26w" or "3y"'
        )
    length = timedelta(days=int(match[1]) * _PERIOD_DAYS[match[2]])
    if length > _LONGEST:
        raise ValueError("must be at most 100y")
    return length


def days(value: str) -> tuple[int, ...]:
    """Read `mon`, `mon-fri`, `sat-mon` (over the week's end), `daily` or `all`: weekdays, 0 being Monday."""
    if value in ("daily", "all"):
        return tuple(range(7))
    first, dash, last = value.partition("-")
    if first not in DAYS or (dash and last not in DAYS):
        raise ValueError(
            f"{shown(value)} is no day; write mon, tue, wed, thu, fri, sat or sun, "
            'a range such as mon-fri, or "daily"'
        )
    start = DAYS.index(first)
    count = (DAYS.index(last) - start) % 7 + 1 if dash else 1
    return tuple((start + offset) % 7 for offset in range(count))


def day_key(value: str) -> str:
    """Check a key of `allow` and leave it as it is."""
    days(value)
    return value


def windows(value: Any) -> Windows:
    """Read `"09:00-20:00"`, several with commas between, or a list of them, in order of the day.

    `"22:00-06:00"` runs past midnight. The end of a day is `24:00`, held as `time(0)`.
    """
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list) or not value:
        raise ValueError(
            'must be a window such as "09:00-20:00", or a list of windows; leave out days without any'
        )
    return tuple(sorted({_window(part) for part in value}))


def _window(value: Any) -> tuple[time, time]:
    match = _WINDOW.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(f'{shown(value)} is no window; write it as "09:00-20:00"')
    start_hour, start_minute, end_hour, end_minute = (int(part) for part in match.groups())
    if (end_hour, end_minute) == (24, 0):
        end_hour = 0
        whole_day = start_hour == start_minute == 0
    else:
        whole_day = False
    try:
        start, end = time(start_hour, start_minute), time(end_hour, end_minute)
    except ValueError as error:
        raise ValueError(
            f'{shown(value)} is no window; hours run from 00:00 to 24:00, as "09:00-20:00"'
        ) from error
    if start == end and not whole_day:
        raise ValueError(f'{shown(value)} starts and ends at once; a whole day is "00:00-24:00"')
    return start, end


def zone(value: Any) -> str:
    """Check an IANA time zone name."""
    if isinstance(value, str) and _is_zone(value):
        return value
    near = nearest(value, available_timezones(), likeness=0.8) if isinstance(value, str) else None
    hint = f"did you mean {near}?" if near else 'write it as "Europe/Copenhagen"'
    raise ValueError(f"{shown(value)} is no IANA time zone; {hint}")


def _is_zone(name: str) -> bool:
    # A directory of the tz database ("Europe") and a path out of it are errors of their own kinds.
    try:
        ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        return False
    return bool(name)


def region(value: Any) -> str:
    """Check an ISO 3166-1 alpha-2 code that has a numbering plan; small letters will do."""
    if isinstance(value, str) and value.upper() in phonenumbers.SUPPORTED_REGIONS:
        return value.upper()
    raise ValueError(f'{shown(value)} is no country code; write two letters of ISO 3166-1, such as "DK"')


def line(value: Any) -> str:
    """Check a text of one line that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be text in quotes, and not empty")
    if _CONTROL.search(value):
        raise ValueError("must be one line, without control characters")
    return value.strip()


def origin(value: Any) -> str:
    """Check what a log is called: a name as a web address has it, without the scheme."""
    if not isinstance(value, str) or not _ORIGIN.fullmatch(value):
        raise ValueError('must be a name without spaces or "+", such as "shop.example/notifygate"')
    return value


def signing_key(value: Any) -> SecretStr:
    """Check a private key."""
    key = value.get_secret_value() if isinstance(value, SecretStr) else str(value)
    try:
        Signer.from_pem("log", key.encode())
    except NoteError:
        raise ValueError(
            "must be a private Ed25519 key in PEM, as 'openssl genpkey -algorithm ed25519' writes it"
        ) from None
    return SecretStr(key)


def email_from(value: Any) -> str:
    """Check a sender such as `Anna's shop <hello@shop.example>`, without any DNS look-up."""
    right = 'write it as "Cykelpartner <hej@cykelpartner.example>"'
    text = value.strip() if isinstance(value, str) else ""
    if _CONTROL.search(text):
        raise ValueError(f"must be one line, without control characters; {right}")
    try:
        validate_email(text, check_deliverability=False, allow_display_name=True)
    except EmailNotValidError as error:
        # The validator's own sentence may quote the address, so it is not passed on.
        raise ValueError(f"is no email address, with or without a name before it; {right}") from error
    return text


def sms_sender(value: Any) -> str:
    """Check a sender of text messages: a name of up to 11 characters, or a number."""
    if isinstance(value, str):
        if _GSM_SENDER.fullmatch(value) or re.fullmatch(r"[0-9]{1,15}", value):
            return value
        if re.fullmatch(r"\+[0-9]{7,15}", value):
            try:
                if phonenumbers.is_possible_number(phonenumbers.parse(value)):
                    return value
            except phonenumbers.NumberParseException:
                pass
    raise ValueError(
        "must be a name of at most 11 letters and digits (a space, &, . _ and - are allowed within), "
        'a number of at most 15 digits, or a number with its country code, such as "+4520123456"'
    )


def host(value: Any) -> str:
    """Check a host name or IP address without scheme or port."""
    if not isinstance(value, str) or not _HOST.fullmatch(value):
        raise ValueError('must be the name of a server only, such as "smtp.example.com"')
    return value


@dataclass(frozen=True, slots=True)
class Listen:
    """Where a server listens: a name or address of this machine, and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def listen(value: Any) -> Listen:
    """Read `127.0.0.1:9464` or `[::1]:9464`. A port that the system chooses (0) could not be found by anyone."""
    match = _LISTEN.fullmatch(value) if isinstance(value, str) else None
    if match is None or not 1 <= int(match[3]) <= 65_535:
        raise ValueError(
            'must be an address of this machine and a port from 1 to 65535, such as "127.0.0.1:9464" or "[::1]:9464"'
        )
    return Listen(match[1] or match[2], int(match[3]))


def web_url(value: Any) -> str:
    """Check an http or https URL without user name and password, which have keys of their own."""
    right = 'write it as "https://sms.example.com/send"'
    if not isinstance(value, str) or re.search(r"[\s\x00-\x1f\x7f]", value):
        raise ValueError(f"must be a URL in quotes, without spaces; {right}")
    try:
        parts = urlsplit(value)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ValueError(f"is no http or https URL; {right}")
    if "@" in parts.netloc:
        raise ValueError("may hold no user name or password; use the keys username and password_file")
    return value


def location(value: Any, info: ValidationInfo) -> Path:
    """Read a path, relative ones from the folder of the config file (the context of the validation)."""
    if not isinstance(value, str | Path) or not str(value).strip() or "\0" in str(value):
        raise ValueError("must be a path in quotes")
    return _folder(info) / Path(value).expanduser()


def existing(value: Any, info: ValidationInfo) -> Path:
    """As `location`, for a file that must be there."""
    path = location(value, info)
    if not path.is_file():
        raise ValueError(f"no such file: {path}")
    return path


def _folder(info: ValidationInfo) -> Path:
    folder = (info.context or {}).get("folder")
    return folder if isinstance(folder, Path) else Path.cwd()


def ledger(value: Any, info: ValidationInfo) -> str:
    """Check the ledger's URL: PostgreSQL by psycopg, or an SQLite file, its path made absolute."""
    right = 'write "sqlite:///notifygate.db" or "postgresql+psycopg://user@host/database"'
    if not isinstance(value, str) or "://" not in value:
        raise ValueError(f"must be a database URL; {right}")
    try:
        url = make_url(value)
    except (ArgumentError, ValueError):
        raise ValueError(f"is no database URL; {right}") from None  # the cause would quote the URL
    if url.drivername in ("postgresql", "postgres", "postgresql+psycopg"):
        return url.set(drivername="postgresql+psycopg").render_as_string(hide_password=False)
    if url.drivername in ("sqlite", "sqlite+pysqlite"):
        return _sqlite(url, _folder(info))
    raise ValueError(f"only SQLite and PostgreSQL (by psycopg) can hold the ledger; {right}")


def _sqlite(url: URL, folder: Path) -> str:
    database = url.database or ":memory:"
    if ":memory:" in database or url.query.get("mode") == "memory":
        raise ValueError(
            "the ledger cannot be in memory: several processes share it, and it must outlive them; "
            'name a file, as "sqlite:///notifygate.db"'
        )
    if database.startswith("file:") or url.query or url.host:
        raise ValueError('must be "sqlite:///" and the path of a file, and nothing else')
    path = folder / Path(database).expanduser()
    return f"sqlite:///{path}"


def broker(value: Any) -> str:
    """Check what carries the work: `embedded`, `none`, or the URL of Redis or RabbitMQ."""
    right = 'write "embedded", "none", "redis://host:6379/0" or "amqp://host/"'
    text = value if isinstance(value, str) else ""
    if text in ("embedded", "none"):
        return text
    try:
        parts = urlsplit(text)
        reachable = bool(parts.path if parts.scheme == "unix" else parts.hostname) and parts.port != 0
    except ValueError:
        raise ValueError(f"is no broker URL; {right}") from None  # the cause would quote the URL
    if parts.scheme not in _BROKERS or not reachable:
        raise ValueError(f"is no broker that is known here; {right}")
    return text


def masked(url: str) -> str:
    """A URL fit to be shown: passwords in it, whether before the host or in the query, are asterisks."""
    return _QUERY_PASSWORD.sub(r"\1***", _URL_PASSWORD.sub(r"\1:***@", url))


def header_name(value: str) -> str:
    """Check the name of an HTTP header."""
    if not _TOKEN.fullmatch(value):
        raise ValueError('is no name of an HTTP header; write it as "X-Api-Key"')
    return value


def header_value(value: Any) -> str:
    """Check the value of an HTTP header: one line, possibly empty."""
    if not isinstance(value, str) or _CONTROL.search(value):
        raise ValueError("must be text in quotes, of one line")
    return value


def json_document(value: Any) -> dict[str, Any] | list[Any]:
    """Check a request body that TOML wrote as a table or list: dates and the like have no place in JSON."""
    if not isinstance(value, dict | list):
        raise ValueError("must be a table or a list")  # noqa: TRY004  # pydantic takes no TypeError
    try:
        json.dumps(value, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ValueError("holds a value that JSON does not have; put dates and times in quotes") from error
    return value


def domain(value: Any) -> str:
    """Check the domain of a web site, and give its canonical form: small letters, IDNA."""
    right = 'write the domain only, such as "trustpilot.com"'
    if not isinstance(value, str) or "." not in value.strip("."):
        raise ValueError(f"is no domain; {right}")
    try:
        ascii_form = value.strip().lower().encode("idna").decode()
    except UnicodeError as error:
        raise ValueError(f"is no domain; {right}") from error
    if not _DOMAIN.fullmatch(ascii_form):
        raise ValueError(f"is no domain; {right}")
    return ascii_form


def language(value: str) -> str:
    """Check a language tag (BCP 47) or `default`, and give it in small letters."""
    if value != "default" and not _LANGUAGE.fullmatch(value):
        raise ValueError('is no language; write "default", or a tag such as "da" or "en-gb"')
    return value.lower()


def footer(value: Any) -> str:
    """Check the line that names sender, seller and purchase: all three fields, no others."""
    text = line(value)
    wanted = ", ".join(f"{{{name}}}" for name in FOOTER_FIELDS)
    try:
        parts = list(string.Formatter().parse(text))
    except ValueError as error:
        raise ValueError(
            f"has a brace too many; {wanted} are filled in, and {{{{ is a brace itself"
        ) from error
    names = [name for _, name, form, conversion in parts if name is not None]
    plain = all(not form and not conversion for _, _, form, conversion in parts)
    if not plain or set(names) != set(FOOTER_FIELDS):
        raise ValueError(f"must hold {wanted}, each as it stands here, and nothing else in braces")
    return text


def permission(value: Any) -> Any:
    """Read `"none"` as an empty list; whether a list may be empty is not decided here."""
    if value == "none":
        return []
    if isinstance(value, list):
        return value
    raise ValueError(f'must be "none" or a list such as ["consent", "soft_opt_in"], not {shown(value)}')


def yields(value: Any) -> timedelta | None:
    """Read `"deny"` as None, else a span."""
    if value == "deny":
        return None
    try:
        return span(value)
    except ValueError as error:
        raise ValueError(
            f'must be "deny", or how long to wait, such as "14d"; {shown(value)} is neither'
        ) from error


def footers(value: Mapping[str, str]) -> Mapping[str, str]:
    """Check that messages in any language get a line: one is for `default`."""
    if "default" not in value:
        raise ValueError("needs a line for `default`, for messages in languages that are not named")
    return value
