"""SMS gateways that take a message as one HTTP request, made from templates.

The sorting of answers is here for every driver that speaks HTTP. Status codes are those of RFC 9110, 429
that of RFC 6585. What it rests on: a request that was never written, or that the server refused with a 4xx,
was not accepted; whatever else is not a clear yes may have been.
"""

from __future__ import annotations

import json as jsonlib
import logging
import os
import re
import socket
import ssl
import string
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any, Final
from urllib.parse import quote, urlencode, urlsplit

import httpx
import phonenumbers

from notifygate.channels import HandOff, HandOffOutcome, Inquiry, Result
from notifygate.channels.patience import Patience, Trouble
from notifygate.errors import ChannelError

# Refusals that the operator can mend: a wrong password, URL or content type, an empty account. The message is
# good, so it is kept for a later attempt. 408, 421, 423 and 425 say "not now" (RFC 9110, 4918 and 8470).
_FAILED_STATUSES: Final = frozenset(
    {401, 402, 403, 404, 405, 406, 407, 408, 410, 411, 415, 421, 423, 425, 426, 429}
)
# RFC 9110 section 15.5.14: this refusal is temporary where the answer says when to try again.
_CONTENT_TOO_LARGE: Final = 413
# With these, Retry-After says when the provider wants to hear of the message again (RFC 9110 section 10.2.3,
# RFC 6585 section 4).
_WAIT_STATUSES: Final = frozenset({_CONTENT_TOO_LARGE, 429, 503})
# The answers to a look-up that say: there is no such message, and there was none.
_UNKNOWN_STATUSES: Final = frozenset({404, 410})
# 303 points at the result of a request that was carried out; the other redirects ask to make it elsewhere.
_SEE_OTHER: Final = 303
# A longer wait than this is a mistake of the provider's, and the message must not be lost in it.
_LONGEST_RETRY_AFTER: Final = timedelta(days=1)
_LONGEST_ANSWER: Final = 64 * 1024
_LONGEST_PROVIDER_ID: Final = 200
# Many servers drop an idle connection after 5 seconds. A request that crosses with that is in doubt, so
# ours are given up well before.
_KEEPALIVE_S: Final = 2.0

_E164: Final = re.compile(r"\+[0-9]{7,15}")
_HEADER_VALUE: Final = re.compile(r"[\x20-\x7e\t]*")
_BODILESS_METHODS: Final = frozenset({"GET", "HEAD", "DELETE", "OPTIONS"})
_NAMES: Final = ("to", "to_digits", "sender", "text", "subject", "message_id", "attempt_id")
_LOOKUP_NAMES: Final = ("message_id", "attempt_id", "provider_id")
_DEFAULT_JSON: Final = {name: f"{{{name}}}" for name in ("to", "sender", "text", "message_id", "attempt_id")}


class _Sending(threading.local):
    active = False


_sending = _Sending()


def _not_ours(record: logging.LogRecord) -> bool:
    return not _sending.active


# INVARIANT(no-address-in-logs): httpx logs every URL, and httpcore every answer's headers; both can hold a
# phone number, a text and a password. A filter stays whatever levels are configured later, and it leaves
# the records of an application that uses httpx for its own ends alone.
for _name in ("httpx", *(f"httpcore.{part}" for part in ("connection", "http11", "http2", "proxy", "socks"))):
    logging.getLogger(_name).addFilter(_not_ours)


@contextmanager
def _unlogged() -> Iterator[None]:
    _sending.active = True
    try:
        yield
    finally:
        _sending.active = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came back. `body` is None if it could not be read.

    `cut` is true where the end of the answer never came, `timed_out` where that was because it took too long.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes | None
    cut: bool = False
    timed_out: bool = False

    @property
    def trouble(self) -> Trouble:
        """What the answer says about the provider."""
        return Trouble.TIMEOUT if self.timed_out else Trouble.NONE


@dataclass(frozen=True, slots=True, kw_only=True)
class NoAnswer:
    """Nothing came back: what that means for the message, and what for the provider."""

    outcome: HandOffOutcome
    trouble: Trouble = Trouble.NONE


class HttpExchange:
    """One provider's connections: makes a request, and sorts what can happen to it.

    Shared by threads, and safe to be inherited by a forked process. Proxies in the environment are not
    followed: a message goes to the server that the config names, and to no other. `timeout_s` bounds
    connecting, each write, each wait for the answer, and reading its content. `ca_file` (PEM) replaces the
    default certificate authorities.
    """

    def __init__(self, *, timeout_s: float, ca_file: str | None, auth: httpx.BasicAuth | None = None) -> None:
        if not timeout_s > 0:
            raise ChannelError(f"timeout_s: {timeout_s} is not a time to wait; give seconds above 0")
        self.timeout_s = timeout_s
        self._auth = auth
        try:
            self.tls = ssl.create_default_context(cafile=ca_file) if ca_file else httpx.create_ssl_context()
        except OSError as error:
            raise ChannelError(
                f"ca_file: {ca_file!r} cannot be read; give a PEM file of certificates"
            ) from error
        self._lock = threading.Lock()
        self._client: httpx.Client | None = None
        self._pid = os.getpid()

    def request(
        self, method: str, url: str, *, headers: Mapping[str, str] | None = None, content: bytes | None = None
    ) -> Answer | NoAnswer:
        """Make one request. Nothing is retried and no redirect is followed."""
        with _unlogged():
            try:
                client = self._shared_client()
                request = client.build_request(method, url, headers=headers, content=content)
                response = client.send(request, auth=self._auth, stream=True, follow_redirects=False)
            except (httpx.InvalidURL, httpx.UnsupportedProtocol, httpx.LocalProtocolError):
                # It was refused on this side, before a byte of it was written; it would be again.
                return NoAnswer(outcome=_outcome(Result.REJECTED, "request cannot be made"))
            except (httpx.ConnectError, httpx.ConnectTimeout, httpx.ProxyError) as error:
                return NoAnswer(outcome=_outcome(Result.FAILED, why(error)), trouble=Trouble.UNREACHABLE)
            except httpx.PoolTimeout:
                return NoAnswer(
                    outcome=_outcome(Result.FAILED, "no connection free"), trouble=Trouble.TIMEOUT
                )
            except httpx.TimeoutException:
                # INVARIANT(http-sent-is-in-doubt): once a request may have been written, no error is a
                # refusal.
                return NoAnswer(outcome=_outcome(Result.IN_DOUBT, "timeout"), trouble=Trouble.TIMEOUT)
            except httpx.HTTPError:
                return NoAnswer(outcome=_outcome(Result.IN_DOUBT, "connection lost"))
            with closing(response):
                return _read(response, self.timeout_s)

    def connect(self, url: str) -> str:
        """Connect to the server of `url`, as far as TLS, and send nothing. Raises `ChannelError`."""
        parts = urlsplit(url)
        secure = parts.scheme == "https"
        host = parts.hostname or ""
        port = parts.port or (443 if secure else 80)
        try:
            with socket.create_connection((host, port), timeout=self.timeout_s) as plain:
                if secure:
                    with self.tls.wrap_socket(plain, server_hostname=host):
                        pass
        except OSError as error:
            wanted = "start the server, or correct the url"
            if isinstance(error, ssl.SSLError):
                wanted = "check that the url is https and that the server's certificate is trusted (ca_file)"
            raise ChannelError(f"{parts.scheme} {host}:{port}: {why(error)}; {wanted}") from error
        return f"{parts.scheme} {host}:{port} answers" + (", TLS ok" if secure else "")

    def close(self) -> None:
        """Close all connections. A later request opens new ones."""
        with self._lock:
            client, self._client = self._client, None
        if client is not None:
            client.close()

    def _shared_client(self) -> httpx.Client:
        with self._lock:
            if self._pid != os.getpid():
                # Connections inherited over a fork belong to the parent: two processes would read each
                # other's answers.
                self._client, self._pid = None, os.getpid()
            if self._client is None:
                self._client = httpx.Client(
                    timeout=self.timeout_s,
                    verify=self.tls,
                    trust_env=False,
                    limits=httpx.Limits(max_connections=None, keepalive_expiry=_KEEPALIVE_S),
                    headers={"User-Agent": "notifygate", "Accept": "*/*"},
                    event_hooks={"response": [_forget_location]},
                )
            return self._client


def _forget_location(response: httpx.Response) -> None:
    """Redirects are not followed, so that a Location which is no URL is no reason to lose the answer."""
    response.headers.pop("location", None)


def _read(response: httpx.Response, timeout_s: float) -> Answer:
    """Read the body, but no more of it than an honest answer has, and for no longer than `timeout_s`."""
    body: bytes | None = b""
    cut = timed_out = False
    give_up_at = time.monotonic() + timeout_s
    try:
        parts: list[bytes] = []
        length = 0
        for part in response.iter_bytes():
            parts.append(part)
            length += len(part)
            if length > _LONGEST_ANSWER:
                break
            if time.monotonic() > give_up_at:
                raise httpx.ReadTimeout("the answer comes too slowly")
        body = b"".join(parts) if length <= _LONGEST_ANSWER else None
    except httpx.DecodingError:
        body = None
    except httpx.HTTPError as error:
        body, cut, timed_out = None, True, isinstance(error, httpx.TimeoutException)
    return Answer(
        status=response.status_code, headers=response.headers, body=body, cut=cut, timed_out=timed_out
    )


def sort_answer(answer: Answer, accepted: Collection[int] = range(200, 300)) -> HandOffOutcome:
    """What an answer means for the message, by its status code. `accepted` are the codes of a clear yes."""
    status = answer.status
    detail = f"http {status}"
    if status in accepted:
        if answer.cut:
            return _outcome(Result.IN_DOUBT, f"{detail}, answer cut off")
        return _outcome(Result.ACCEPTED, detail)
    wait = _retry_after(answer.headers.get("retry-after")) if status in _WAIT_STATUSES else None
    if 400 <= status < 500:
        is_passing = status in _FAILED_STATUSES or wait is not None
        result = Result.FAILED if is_passing else Result.REJECTED
    elif 300 <= status < 400 and status != _SEE_OTHER:
        result = Result.FAILED
    else:
        # DESIGN 7.3: 5xx may come from a proxy, or after the message was queued. So may a 2xx that was not
        # expected.
        result = Result.IN_DOUBT
    return HandOffOutcome(result=result, detail=detail, retry_after=wait)


def _retry_after(value: str | None) -> timedelta | None:
    """RFC 9110 section 10.2.3: a number of seconds, or a date."""
    if value is None:
        return None
    if value.strip().isdecimal():
        seconds = float(value)
    else:
        try:
            when = parsedate_to_datetime(value)
        except (ValueError, OverflowError):
            return None
        seconds = (when.replace(tzinfo=when.tzinfo or UTC) - datetime.now(UTC)).total_seconds()
    return timedelta(seconds=min(max(seconds, 0.0), _LONGEST_RETRY_AFTER.total_seconds()))


def why(error: BaseException) -> str:
    """A short code for a failure to connect, without the host or anything that the other side said."""
    chain: list[BaseException] = []
    cause: BaseException | None = error
    while cause is not None and cause not in chain:
        chain.append(cause)
        cause = cause.__cause__ or cause.__context__
    for kind, code in _REASONS:
        if any(isinstance(link, kind) for link in chain):
            return code
    return "connection failed"


_REASONS: Final[Sequence[tuple[type[BaseException], str]]] = (
    (ssl.SSLCertVerificationError, "certificate not trusted"),
    (ssl.SSLError, "tls failure"),
    (socket.gaierror, "dns failure"),
    (ConnectionRefusedError, "connection refused"),
    (TimeoutError, "timeout at connect"),
    (httpx.TimeoutException, "timeout at connect"),
)


def send_each(
    batch: Iterable[HandOff], hand_over: Callable[[HandOff], tuple[HandOffOutcome, Trouble]]
) -> Iterator[HandOffOutcome]:
    """Hand over a batch one by one, giving the rest up when the provider cannot be reached."""
    patience = Patience()
    for hand_off in batch:
        yield patience.refusal or patience.saw(*hand_over(hand_off))


def e164(to: str) -> str | None:
    """`to` as `+` and digits, or None. Spaces do harm: Kannel, for one, takes them to part two numbers."""
    if _E164.fullmatch(to):
        return to
    try:
        number = phonenumbers.parse(to, None)
    except phonenumbers.NumberParseException:
        return None
    return phonenumbers.format_number(number, phonenumbers.PhoneNumberFormat.E164)


NOT_E164: Final = HandOffOutcome(result=Result.REJECTED, detail="no international number")


class Template(string.Formatter):
    """Text with `{name}` placeholders; `{{` and `}}` stand for braces.

    Only the names given are known, and each stands for one text: no attributes, no indexes, no conversions,
    no format specifications. All is checked as the template is made; raises `ChannelError`, which names
    `key`.
    """

    def __init__(self, key: str, source: str, names: Collection[str]) -> None:
        self._source = source
        self.names: frozenset[str] = frozenset()
        try:
            fields = [(name, spec, conversion) for _, name, spec, conversion in self.parse(source)]
        except ValueError as error:
            raise ChannelError(
                f"{key}: a brace without its partner; write {{{{ or }}}} for a brace"
            ) from error
        for name, spec, conversion in fields:
            if name is None:
                continue
            if spec or conversion:
                raise ChannelError(f"{key}: {{{name}}} takes no conversion and no format")
            if name not in names:
                known = ", ".join(f"{{{known}}}" for known in names)
                raise ChannelError(f"{key}: {{{name}}} is not known; use one of {known}")
            self.names |= {name}

    def get_field(self, field_name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[Any, str]:
        """The value by that whole name: `secret.KEY` is a name, not an attribute of `secret`."""
        return kwargs[field_name], field_name

    def render(self, values: Mapping[str, str]) -> str:
        """Fill in the values as they are; encoding is the caller's business."""
        return self.vformat(self._source, (), values)


JsonTemplate = dict[str, Any] | list[Any] | str | int | float | bool | None


class HttpChannel:
    """Makes one HTTP request a message, from templates. It fits most SMS gateways.

    `url`, and every value of `query`, `headers`, `form` and `json` (its texts, at any depth), and `body`
    are templates. They may use `{to}` (E.164, as +4520123456), `{to_digits}` (the same without +),
    `{sender}`, `{text}`, `{subject}` (empty for SMS), `{message_id}`, `{attempt_id}` and `{secret.NAME}`
    for each of `secrets`. Values are encoded as their place wants it; in `body` they are put in as they
    are. The host cannot be a placeholder.

    At most one of `form` (urlencoded), `json` and `body` (UTF-8) makes the content. With none of them, and
    no template that uses the recipient, `to`, `sender`, `text`, `message_id` and `attempt_id` are sent as
    one JSON object. `username` and `password` make basic authentication (RFC 7617).

    `accepted_statuses` are the status codes that mean yes (default: every 2xx); any other 2xx is in doubt.
    `provider_id_path` finds the provider's id in a JSON answer, as `messages.0.id`. An answer that has none
    is still a yes. `timeout_s` is in seconds, for connecting, for each write and each wait for the answer,
    and for reading its content. `ca_file` (PEM) replaces the default certificate authorities.

    `lookup_url` is where the provider is asked what became of a message in doubt: a template with
    `{message_id}`, `{attempt_id}`, `{provider_id}` and `{secret.NAME}`. Set it only for a provider that
    answers 404 or 410 for nothing but what it certainly never accepted: see `look_up`.

    Raises `ChannelError` that names the setting at fault.
    """

    def __init__(
        self,
        *,
        url: str,
        method: str = "POST",
        query: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
        form: Mapping[str, str] | None = None,
        json: JsonTemplate = None,
        body: str | None = None,
        username: str | None = None,
        password: str | None = None,
        secrets: Mapping[str, str] | None = None,
        accepted_statuses: Collection[int] | None = None,
        provider_id_path: str | None = None,
        lookup_url: str | None = None,
        timeout_s: float = 30,
        ca_file: str | None = None,
    ) -> None:
        self._secrets = {f"secret.{name}": value for name, value in (secrets or {}).items()}
        self._names = (*_NAMES, *self._secrets)
        self._method = method.upper()
        check_url(url)
        self._origin = url.partition("?")[0]
        self._url = self._template("url", url)
        self._query = self._templates("query", query or {})
        self._headers = self._templates("headers", headers or {})
        for name in self._headers:
            if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
                raise ChannelError(f"headers: {name!r} is no header name")

        contents = [
            name for name, value in (("form", form), ("json", json), ("body", body)) if value is not None
        ]
        if len(contents) > 1:
            raise ChannelError(f"{contents[1]}: give only one of form, json and body")
        if contents and self._method in _BODILESS_METHODS:
            raise ChannelError(f"{contents[0]}: a {self._method} request has no content; use query")
        used = [self._url, *self._query.values(), *self._headers.values()]
        if not contents and self._method not in _BODILESS_METHODS and not _uses(used, "to", "to_digits"):
            json = dict(_DEFAULT_JSON)
        self._form = None if form is None else self._templates("form", form)
        self._json = None if json is None else self._json_templates("json", json, used)
        self._body = None if body is None else self._template("body", body)
        used += [*(self._form or {}).values(), *([self._body] if self._body else [])]
        for wanted in (("to", "to_digits"), ("text",)):
            if not _uses(used, *wanted):
                raise ChannelError(
                    f"url: no template uses {{{wanted[0]}}}; put it in url, query, form, json or body"
                )

        if (username is None) != (password is None):
            raise ChannelError("password: username and password go together; give both or neither")
        auth = None if username is None or password is None else httpx.BasicAuth(username, password)
        self._accepted = range(200, 300) if accepted_statuses is None else frozenset(accepted_statuses)
        if not all(200 <= status < 300 for status in self._accepted):
            raise ChannelError("accepted_statuses: only 200 to 299 can mean that a message was accepted")
        self._provider_id_path = provider_id_path.split(".") if provider_id_path else None
        self._lookup_url = None if lookup_url is None else self._lookup_template(lookup_url)
        self._exchange = HttpExchange(timeout_s=timeout_s, ca_file=ca_file, auth=auth)

    def send(self, batch: Iterable[HandOff]) -> Iterator[HandOffOutcome]:
        """Make one request a message and yield its outcome.

        No connection: `failed`, as is the rest of the batch. Sent but not answered, 5xx, 303: `in_doubt`.
        429, 413 with Retry-After, redirects, and 4xx that an operator can mend (401, 404 ...): `failed`. Other
        4xx: `rejected`.
        """
        yield from send_each(batch, self._hand_over)

    @property
    def looks_up(self) -> bool:
        """Whether a `lookup_url` is set."""
        return self._lookup_url is not None

    def look_up(self, inquiry: Inquiry) -> HandOffOutcome | None:
        """Ask the provider whether it has a message: one GET, with this driver's authentication and headers.

        2xx: `accepted`. 404 or 410: `failed`, for it was never accepted; this holds only where the provider
        knows a message under that reference from the moment it accepts it, and for as long as it is asked.
        All else is None, and so is an answer that is cut off. Headers that tell of a message's content
        (`{to}`, `{text}` ...) are left out.
        """
        if self._lookup_url is None:
            return None
        values = {
            "message_id": inquiry.message_id,
            "attempt_id": inquiry.attempt_id,
            "provider_id": inquiry.provider_id or "",
            **self._secrets,
        }
        # A segment of nothing or of dots would change the path, and so ask about something else.
        if any(not values[name].strip(".") for name in self._lookup_url.names):
            return None
        headers = {
            name: template.render(values)
            for name, template in self._headers.items()
            if template.names <= values.keys() and name.lower() != "content-type"
        }
        if not all(_HEADER_VALUE.fullmatch(value) for value in headers.values()):
            return None
        url = self._lookup_url.render({name: quote(value, safe="") for name, value in values.items()})
        answer = self._exchange.request("GET", url, headers=headers)
        if isinstance(answer, NoAnswer) or answer.cut:
            return None
        detail = f"look-up http {answer.status}"
        if 200 <= answer.status < 300:
            return self._with_provider_id(_outcome(Result.ACCEPTED, detail), answer)
        # INVARIANT(only-unknown-is-never-accepted): what follows a `failed` is a second send.
        return _outcome(Result.FAILED, detail) if answer.status in _UNKNOWN_STATUSES else None

    def check(self) -> str:
        """Connect to the server, as far as TLS, and send nothing."""
        return self._exchange.connect(self._origin)

    def close(self) -> None:
        """Close all connections."""
        self._exchange.close()

    def _hand_over(self, hand_off: HandOff) -> tuple[HandOffOutcome, Trouble]:
        to = e164(hand_off.to)
        if to is None:
            return NOT_E164, Trouble.NONE
        values = {
            "to": to,
            "to_digits": to.removeprefix("+"),
            "sender": hand_off.sender,
            "text": hand_off.text,
            "subject": hand_off.subject or "",
            "message_id": hand_off.message_id,
            "attempt_id": hand_off.attempt_id,
            **self._secrets,
        }
        content, content_type = self._content(values)
        headers = {"Content-Type": content_type} if content_type else {}
        given = {name: template.render(values) for name, template in self._headers.items()}
        if not all(_HEADER_VALUE.fullmatch(value) for value in given.values()):
            return _outcome(Result.REJECTED, "header cannot hold this value"), Trouble.NONE
        if any(name.lower() == "content-type" for name in given):
            headers = {}
        url = self._url.render({name: quote(value, safe="") for name, value in values.items()})
        query = {name: template.render(values) for name, template in self._query.items()}

        answer = self._exchange.request(
            self._method, with_query(url, query), headers=headers | given, content=content
        )
        if isinstance(answer, NoAnswer):
            return answer.outcome, answer.trouble
        outcome = sort_answer(answer, self._accepted)
        if outcome.result is Result.ACCEPTED:
            outcome = self._with_provider_id(outcome, answer)
        return outcome, answer.trouble

    def _with_provider_id(self, outcome: HandOffOutcome, answer: Answer) -> HandOffOutcome:
        if self._provider_id_path is None:
            return outcome
        return replace(outcome, provider_id=_find(answer.body, self._provider_id_path))

    def _content(self, values: Mapping[str, str]) -> tuple[bytes | None, str | None]:
        if self._form is not None:
            form = {name: template.render(values) for name, template in self._form.items()}
            return urlencode(form).encode("ascii"), "application/x-www-form-urlencoded"
        if self._json is not None:
            return jsonlib.dumps(_filled(self._json, values), ensure_ascii=False).encode(), "application/json"
        if self._body is not None:
            return self._body.render(values).encode(), "text/plain; charset=utf-8"
        return None, None

    def _lookup_template(self, source: str) -> Template:
        check_url(source, key="lookup_url")
        template = Template("lookup_url", source, (*_LOOKUP_NAMES, *self._secrets))
        if template.names.isdisjoint(_LOOKUP_NAMES):
            raise ChannelError(
                "lookup_url: it names no message; use {message_id}, {attempt_id} or {provider_id}"
            )
        return template

    def _template(self, key: str, source: object) -> Template:
        if not isinstance(source, str):
            raise ChannelError(f"{key}: text is wanted, not {type(source).__name__}")
        return Template(key, source, self._names)

    def _templates(self, key: str, sources: Mapping[str, str]) -> dict[str, Template]:
        return {name: self._template(f"{key}.{name}", source) for name, source in sources.items()}

    def _json_templates(self, key: str, value: object, used: list[Template]) -> object:
        if isinstance(value, str):
            template = self._template(key, value)
            used.append(template)
            return template
        if isinstance(value, Mapping):
            return {
                str(name): self._json_templates(f"{key}.{name}", leaf, used) for name, leaf in value.items()
            }
        if isinstance(value, list | tuple):
            return [self._json_templates(f"{key}.{index}", leaf, used) for index, leaf in enumerate(value)]
        if value is None or isinstance(value, bool | int | float):
            return value
        raise ChannelError(f"{key}: {type(value).__name__} has no place in JSON")


def check_url(url: str, key: str = "url") -> None:
    """Raise `ChannelError`, which names `key`, if `url` is not http(s) with a host that is written out."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ChannelError(f"{key}: not a URL; write it as https://gateway.example/send") from error
    if parts.scheme not in ("http", "https") or not host:
        raise ChannelError(f"{key}: not an http or https URL; write it as https://gateway.example/send")
    if "{" in parts.netloc:
        raise ChannelError(f"{key}: the host and port cannot be placeholders; write them out")
    if "@" in parts.netloc:
        raise ChannelError(f"{key}: credentials in a URL end up in logs; use username and password")
    if parts.fragment:
        raise ChannelError(f"{key}: the part after # never leaves this machine; remove it, or write %23")


def with_query(url: str, query: Mapping[str, str]) -> str:
    """Add `query` to what the URL may hold already, in percent-encoding (RFC 3986)."""
    if not query:
        return url
    joint = "" if url.endswith(("?", "&")) else "&" if "?" in url else "?"
    return f"{url}{joint}{urlencode(query, quote_via=quote, safe='')}"


def _uses(templates: Iterable[Template], *names: str) -> bool:
    return any(not template.names.isdisjoint(names) for template in templates)


def _filled(value: object, values: Mapping[str, str]) -> object:
    if isinstance(value, Template):
        return value.render(values)
    if isinstance(value, dict):
        return {name: _filled(leaf, values) for name, leaf in value.items()}
    if isinstance(value, list):
        return [_filled(leaf, values) for leaf in value]
    return value


def _find(body: bytes | None, path: Sequence[str]) -> str | None:
    """The text or number at `path` in a JSON answer. An answer that has none is no reason to doubt a yes."""
    try:
        found: Any = jsonlib.loads(body or b"")
    except (ValueError, RecursionError):
        return None
    for step in path:
        if isinstance(found, dict):
            found = found.get(step)
        elif isinstance(found, list) and step.isdecimal() and int(step) < len(found):
            found = found[int(step)]
        else:
            return None
    if isinstance(found, bool) or not isinstance(found, str | int):
        return None
    return str(found)[:_LONGEST_PROVIDER_ID] or None


def _outcome(result: Result, detail: str) -> HandOffOutcome:
    return HandOffOutcome(result=result, detail=detail)
