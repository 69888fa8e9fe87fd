# SPDX-License-Identifier: GPL-2.0-or-later
"""HTTP limited to methods and paths: one request a connection, read by one strict parser and written anew.

Sources: RFC 9110 (semantics), RFC 9112 (HTTP/1.1 messages; section 11 on request smuggling and response splitting).

What two parsers might read differently is refused, never repaired: bare line feeds, folded lines, blanks around a
field name, Transfer-Encoding, repeated or odd Content-Length, escapes and dots in a path, bytes after the request.
The target is asked in HTTP/1.0: its answer is then never chunked and ends with the connection (RFC 9112, 6.3).

Of a request's fields the target gets none as it came: only a date and a media type, each in one strict form. What a
client may choose freely are the rest of a path declared with `*`, the body, and those two.
"""

from __future__ import annotations

import re

from .protocol import BadAnswerError, Delivery, Forward, Known, Reason, Refuse

HEAD_BYTES = 8192
MOST_FIELDS = 64
_TEXT = frozenset(b"\t\r\n") | frozenset(range(0x20, 0x7F))
_REQUEST_LINE = re.compile(r"([A-Z]{3,7}) (/[A-Za-z0-9._~/-]{0,1023}) HTTP/1\.[01]", re.ASCII)
_FIELD = re.compile(r"([A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}):[ \t]*([ -~\t]{0,2048}?)[ \t]*", re.ASCII)
_STATUS_LINE = re.compile(r"HTTP/1\.[01] ([2-5][0-9]{2})(?: [ -~]{0,200})?", re.ASCII)
_NUMBER = re.compile(r"[0-9]{1,12}", re.ASCII)
_DATE = re.compile(
    r"(?:Mon|Tue|Wed|Thu|Fri|Sat|Sun), (?:0[1-9]|[12][0-9]|3[01])"
    r" (?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec) (?:19|20)[0-9]{2}"
    r" (?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60) GMT",
    re.ASCII,
)
"""IMF-fixdate of RFC 9110, 5.6.7: the one form of a date that senders may use."""
_MEDIA_TYPE = re.compile(r"(?=.{3,64}\Z)[A-Za-z0-9!#$%&'*+.^_`|~-]+/[A-Za-z0-9!#$%&'*+.^_`|~-]+", re.ASCII)
_TO_CLIENT = ("cache-control", "content-type", "date", "etag", "last-modified", "retry-after")
"""The fields of an answer that pass; none of them names a connection or a length."""
_BODILESS = frozenset(("GET", "HEAD", "OPTIONS"))
_REASONS = {400: "Bad Request", 403: "Forbidden", 405: "Method Not Allowed", 413: "Content Too Large",
            429: "Too Many Requests", 502: "Bad Gateway"}  # fmt: skip

Fields = dict[str, str]


class _MalformedError(Exception):
    """Two readers might not read it alike."""


class HttpGateway:
    """Passes these methods on these paths, with a body of at most so many bytes."""

    keeps_connection = False
    varies = 0
    answer_bytes = 65_536

    def __init__(self, methods: frozenset[str], paths: tuple[str, ...], max_body_bytes: int) -> None:
        """`paths` as declared: with `*` at the end they stand for all that begins so."""
        self.most_bytes = HEAD_BYTES + max_body_bytes
        self.known: dict[bytes, Known] = {}  # none: each request has a connection of its own
        self._methods = methods
        self._exact = frozenset(path for path in paths if not path.endswith("*"))
        self._beginnings = tuple(path[:-1] for path in paths if path.endswith("*"))
        self._max_body = max_body_bytes

    def request(self, untrusted: bytes) -> Forward | Refuse | None:
        """Judge what has come so far; None until head and body are there."""
        head, separator, body = untrusted.partition(b"\r\n\r\n")
        if len(head) > HEAD_BYTES:
            return _refuse(Reason.OVERSIZED, 400, untrusted)
        if not _TEXT.issuperset(head):
            return _refuse(Reason.MALFORMED, 400, untrusted)
        if not separator:
            return None
        try:
            first, fields = _read_head(head)
            line = _REQUEST_LINE.fullmatch(first)
            if line is None or "//" in line[2] or not {".", ".."}.isdisjoint(line[2].split("/")):
                raise _MalformedError
            method, path, length = line[1], line[2], _length(fields) or 0
            if "host" not in fields or (method in _BODILESS and length) or "expect" in fields or "upgrade" in fields:
                raise _MalformedError
        except _MalformedError:
            return _refuse(Reason.MALFORMED, 400, untrusted)
        if method not in self._methods:
            return _refuse(Reason.OPERATION, 405, untrusted)
        if path not in self._exact and not path.startswith(self._beginnings):
            return _refuse(Reason.PLACE, 403, untrusted)
        if length > self._max_body:
            return _refuse(Reason.OVERSIZED, 413, untrusted)
        if len(body) > length:
            return _refuse(Reason.PIPELINED, 400, untrusted)
        if len(body) < length:
            return None
        lines = [f"{method} {path} HTTP/1.0", "Host: target", "Accept: */*", *_about_request(fields, length)]
        if method not in _BODILESS:
            lines.append(f"Content-Length: {length}")
        return _message(lines) + body, _Answer(method), False

    def is_whole(self, expected: _Answer, untrusted: bytes) -> bool:
        """Never: the head of each answer is written anew."""
        return False

    def answer(self, expected: _Answer, untrusted: bytes, ended: bool) -> Delivery:
        """Judge what the target has sent so far: head, then as much body as it said."""
        return expected.take(untrusted, ended)

    def failure(self, expected: _Answer, reason: Reason) -> bytes:
        """429 where the rate is used up, 502 where the target failed; nothing once an answer has begun."""
        return b"" if expected.has_begun else _status(429 if reason is Reason.RATE else 502)


class _Answer:
    """The answer to one request, as it comes in."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._left: int | None = None
        self.has_begun = False

    def take(self, untrusted: bytes, ended: bool) -> Delivery:
        head = b""
        if not self.has_begun:
            untrusted_head, separator, untrusted = untrusted.partition(b"\r\n\r\n")
            if len(untrusted_head) > HEAD_BYTES or (ended and not separator):
                raise BadAnswerError("no end of its head")
            if not separator:
                return Delivery(b"", untrusted_head, False)
            head = self._head(untrusted_head)
            self.has_begun = True
        if self._left is None:
            return Delivery(head + untrusted, b"", ended)
        body = untrusted[: self._left]
        self._left -= len(body)
        if ended and self._left:
            raise BadAnswerError("its body is shorter than it said")
        return Delivery(head + body, b"", self._left == 0)

    def _head(self, untrusted: bytes) -> bytes:
        try:
            if not _TEXT.issuperset(untrusted):
                raise _MalformedError
            first, fields = _read_head(untrusted)
            line = _STATUS_LINE.fullmatch(first)
            if line is None:
                raise _MalformedError
            self._left = _length(fields)
        except _MalformedError:
            raise BadAnswerError("its head is malformed") from None
        lines = [f"HTTP/1.1 {line[1]} {_REASONS.get(int(line[1]), '')}", *_passing(fields, _TO_CLIENT)]
        if self._left is not None:
            lines.append(f"Content-Length: {self._left}")
        if self._method == "HEAD" or line[1] in ("204", "304"):
            self._left = 0
        return _message([*lines, "Connection: close"])


def _read_head(untrusted: bytes) -> tuple[str, Fields]:
    """The first line and the fields by lower-case name. Raises _MalformedError."""
    first, *others = untrusted.decode("ascii").split("\r\n")
    fields: Fields = {}
    for line in (first, *others):
        if "\r" in line or "\n" in line:
            raise _MalformedError
    if len(others) > MOST_FIELDS:
        raise _MalformedError
    for line in others:
        field = _FIELD.fullmatch(line)  # a folded line begins with a blank, and is none
        if field is None:
            raise _MalformedError
        name = field[1].lower()
        if name in fields and name in ("host", "content-length", "transfer-encoding"):
            raise _MalformedError
        fields[name] = field[2]
    if "transfer-encoding" in fields:
        raise _MalformedError
    return first, fields


def _length(fields: Fields) -> int | None:
    text = fields.get("content-length")
    if text is None:
        return None
    if not _NUMBER.fullmatch(text):
        raise _MalformedError
    return int(text)


def _about_request(fields: Fields, length: int) -> list[str]:
    """The fields that the target gets of a request. One in another form is left out, as RFC 9110 has it for dates."""
    lines = []
    since, media_type = fields.get("if-modified-since", ""), fields.get("content-type", "").partition(";")[0].rstrip()
    if _DATE.fullmatch(since):
        lines.append(f"If-Modified-Since: {since}")
    if length and _MEDIA_TYPE.fullmatch(media_type):
        lines.append(f"Content-Type: {media_type}")
    return lines


def _passing(fields: Fields, names: tuple[str, ...]) -> list[str]:
    return [f"{name.title()}: {fields[name]}" for name in names if name in fields]


def _message(lines: list[str]) -> bytes:
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def _status(code: int) -> bytes:
    return _message([f"HTTP/1.1 {code} {_REASONS[code]}", "Content-Length: 0", "Connection: close"])


def _refuse(reason: Reason, code: int, untrusted: bytes) -> Refuse:
    line = untrusted.split(b"\n", 1)[0][:80]
    what = "".join(chr(byte) if 0x21 <= byte < 0x7F and byte != 0x5C else f"\\x{byte:02x}" for byte in line)
    return Refuse(reason, what, _status(code), True)
