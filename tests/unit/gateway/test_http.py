# SPDX-License-Identifier: GPL-2.0-or-later
"""The HTTP gateway's judgement: what two parsers could read differently does not pass."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from verdicts import passes

from vinci.guest.gateway.http import HttpGateway
from vinci.guest.gateway.protocol import BadAnswerError, Forward, Reason, Refuse

GATEWAY = HttpGateway(frozenset(("GET", "HEAD", "POST")), ("/news", "/tools/*"), 10)


def ask(line: str = "GET /news HTTP/1.1", fields: str = "Host: x\r\n", body: str = "") -> Forward | Refuse | None:
    return GATEWAY.request(f"{line}\r\n{fields}\r\n{body}".encode("latin-1"))


@pytest.mark.parametrize("path", ["/news", "/tools/", "/tools/drill-2.1.tar", "/tools/a/b/c"])
def test_a_declared_request_is_written_anew(path: str) -> None:
    verdict = ask(f"GET {path} HTTP/1.1", "Host: evil\r\nX-Secret: 42\r\nAccept: text/html\r\nCookie: a=b\r\n")
    assert passes(verdict)
    assert verdict[0] == f"GET {path} HTTP/1.0\r\nHost: target\r\nAccept: */*\r\n\r\n".encode()


def test_a_body_up_to_its_bound_passes() -> None:
    verdict = ask("POST /news HTTP/1.1", "Host: x\r\nContent-Length: 10\r\n", "0123456789")
    assert passes(verdict)
    assert verdict[0].endswith(b"Content-Length: 10\r\n\r\n0123456789")


def passed_on(fields: str, body: str = "") -> str:
    """What the target gets of a request's fields, after those that every request has."""
    method = "POST" if body else "GET"
    verdict = ask(f"{method} /news HTTP/1.1", f"Host: x\r\n{fields}Content-Length: {len(body)}\r\n", body)
    assert passes(verdict)
    head, _, rest = verdict[0].decode().partition("\r\n\r\n")
    always = f"{method} /news HTTP/1.0\r\nHost: target\r\nAccept: */*"
    assert head.startswith(always)
    assert rest == body
    return head.removeprefix(always).removesuffix(f"\r\nContent-Length: {len(body)}").removeprefix("\r\n")


@pytest.mark.parametrize("name", ["Accept", "If-None-Match", "If-Match", "Range", "User-Agent", "Cookie", "X-Any"])
def test_no_field_of_free_text_reaches_the_target(name: str) -> None:
    assert passed_on(f"{name}: the plant is down\r\n") == ""
    assert passed_on(f'{name}: "the plant is down"\r\n', "body") == ""


@pytest.mark.parametrize(
    ("date", "passes"),
    [
        ("Sun, 06 Nov 1994 08:49:37 GMT", True),
        ("Sunday, 06-Nov-94 08:49:37 GMT", False),
        ("Sun Nov  6 08:49:37 1994", False),
        ("Sun, 6 Nov 1994 08:49:37 GMT", False),
        ("Sun, 36 Nov 1994 08:49:37 GMT", False),
        ("Sun, 06 Nov 1994 28:49:37 GMT", False),
        ("Sun, 06 Nov 1994 08:49:37 +0100", False),
        ("Sun, 06 Nov 1994 08:49:37 GMT; the plant is down", False),
        ("the plant is down", False),
        ("", False),
    ],
)
def test_a_condition_is_a_date_in_one_form(date: str, passes: bool) -> None:
    assert passed_on(f"If-Modified-Since: {date}\r\n") == (f"If-Modified-Since: {date}" if passes else "")


@pytest.mark.parametrize(
    ("given", "passed"),
    [
        ("application/json", "application/json"),
        ("image/svg+xml", "image/svg+xml"),
        ("text/plain; charset=utf-8", "text/plain"),
        ("text/plain ;charset=the-plant-is-down", "text/plain"),
        ("text/" + "x" * 59, "text/" + "x" * 59),
        ("text/" + "x" * 60, None),
        ("text", None),
        ("text/", None),
        ("/plain", None),
        ("text/plain/x", None),
        ("the plant/is down", None),
        ("", None),
    ],
)
def test_a_body_has_a_media_type_and_no_parameters(given: str, passed: str | None) -> None:
    assert passed_on(f"Content-Type: {given}\r\n", "body") == (f"Content-Type: {passed}" if passed else "")
    assert passed_on(f"Content-Type: {given}\r\n") == ""


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("PUT /news HTTP/1.1", Reason.OPERATION),
        ("get /news HTTP/1.1", Reason.MALFORMED),
        ("GET /other HTTP/1.1", Reason.PLACE),
        ("GET /newspaper HTTP/1.1", Reason.PLACE),
        ("GET /tools HTTP/1.1", Reason.PLACE),
        ("GET /tools/%2e%2e/secret HTTP/1.1", Reason.MALFORMED),
        ("GET /tools/../secret HTTP/1.1", Reason.MALFORMED),
        ("GET /tools/./x HTTP/1.1", Reason.MALFORMED),
        ("GET /tools/.. HTTP/1.1", Reason.MALFORMED),
        ("GET //tools/x HTTP/1.1", Reason.MALFORMED),
        ("GET /tools//x HTTP/1.1", Reason.MALFORMED),
        ("GET /news?x=1 HTTP/1.1", Reason.MALFORMED),
        ("GET /news#x HTTP/1.1", Reason.MALFORMED),
        ("GET /tools/\\..\\x HTTP/1.1", Reason.MALFORMED),
        ("GET /tools/;x HTTP/1.1", Reason.MALFORMED),
        ("GET http://other/news HTTP/1.1", Reason.MALFORMED),
        ("CONNECT other:80 HTTP/1.1", Reason.MALFORMED),
        ("GET  /news HTTP/1.1", Reason.MALFORMED),
        ("GET /news  HTTP/1.1", Reason.MALFORMED),
        ("GET /news HTTP/2.0", Reason.MALFORMED),
        ("GET /news", Reason.MALFORMED),
        ("GET\t/news HTTP/1.1", Reason.MALFORMED),
        (" GET /news HTTP/1.1", Reason.MALFORMED),
    ],
)
def test_another_method_path_or_form_is_refused(line: str, reason: Reason) -> None:
    verdict = ask(line)
    assert isinstance(verdict, Refuse)
    assert verdict.reason is reason
    assert verdict.close


@pytest.mark.parametrize(
    "fields",
    [
        "Host: x\r\nTransfer-Encoding: chunked\r\n",
        "Host: x\r\nTransfer-Encoding: identity\r\n",
        "Host: x\r\nContent-Length: 3\r\nContent-Length: 3\r\n",
        "Host: x\r\nContent-Length: 3\r\ncontent-length: 4\r\n",
        "Host: x\r\nContent-Length: +3\r\n",
        "Host: x\r\nContent-Length: 3, 3\r\n",
        "Host: x\r\nContent-Length: 0x3\r\n",
        "Host: x\r\nContent-Length : 3\r\n",
        "Host: x\r\n Content-Length: 3\r\n",
        "Host: x\r\nX: a\r\n b\r\n",
        "Host: x\r\nX: a\n\r\n",
        "Host: x\nContent-Length: 3\r\n",
        "Host: x\r\nX: a\rContent-Length: 3\r\n",
        "Host: x\r\nX: \x00\r\n",
        "Host: x\r\nX: ä\r\n",
        "Host: x\r\nHost: y\r\n",
        "Host: x\r\nExpect: 100-continue\r\n",
        "Host: x\r\nUpgrade: h2c\r\n",
        "Host: x\r\nno colon\r\n",
        "Accept: a\r\n",
        "Host: x\r\n" + "X: y\r\n" * 70,
    ],
)
def test_fields_that_others_may_read_otherwise_are_refused(fields: str) -> None:
    verdict = ask("POST /news HTTP/1.1", fields, "abc")
    assert isinstance(verdict, Refuse)
    assert verdict.reason is Reason.MALFORMED
    assert verdict.answer.startswith(b"HTTP/1.1 400 ")


@pytest.mark.parametrize(
    ("fields", "body", "reason"),
    [
        ("Host: x\r\nContent-Length: 3\r\n", "abcGET /secret HTTP/1.1\r\n\r\n", Reason.PIPELINED),
        ("Host: x\r\n", "x", Reason.PIPELINED),
        ("Host: x\r\nContent-Length: 11\r\n", "", Reason.OVERSIZED),
        ("Host: " + "x" * 9000 + "\r\n", "", Reason.OVERSIZED),
    ],
)
def test_more_than_one_request_or_a_long_one_is_refused(fields: str, body: str, reason: Reason) -> None:
    verdict = ask("POST /news HTTP/1.1", fields, body)
    assert isinstance(verdict, Refuse)
    assert verdict.reason is reason


def test_a_request_may_come_in_parts() -> None:
    whole = b"POST /news HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc"
    verdicts = [GATEWAY.request(whole[:cut]) for cut in range(1, len(whole))]
    assert verdicts == [None] * len(verdicts)
    assert passes(GATEWAY.request(whole))


def test_without_an_end_of_head_it_is_too_long_at_last() -> None:
    assert GATEWAY.request(b"GET /news HTTP/1.1\r\nX: " + b"a" * 100) is None
    assert isinstance(GATEWAY.request(b"GET /news HTTP/1.1\r\nX: " + b"a" * 9000), Refuse)


@given(
    st.one_of(st.binary(max_size=400), st.text(alphabet="GET /news.%\\HTP1:\r\n xthos", max_size=80).map(str.encode))
)
def test_whatever_passes_names_a_declared_method_and_path(untrusted: bytes) -> None:
    verdict = GATEWAY.request(untrusted)
    if passes(verdict):
        method, path, _version = verdict[0].split(b"\r\n", 1)[0].split(b" ")
        assert method in (b"GET", b"HEAD", b"POST")
        assert path == b"/news" or path.startswith(b"/tools/")
        assert verdict[0].count(b"\r\n\r\n") == 1


def deliver(parts: list[bytes], line: str = "GET /news HTTP/1.1") -> bytes:
    """What a client gets of an answer that comes in parts and ends with the connection."""
    verdict = ask(line)
    assert passes(verdict)
    got, rest = b"", b""
    for part in [*parts, b""]:
        assert not GATEWAY.is_whole(verdict[1], part), "it would pass as it came"
        delivery = GATEWAY.answer(verdict[1], rest + part, not part)
        got, rest = got + delivery.deliver, delivery.rest
        if delivery.done:
            return got
    raise AssertionError("it has no end")


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_an_answer_is_written_anew_however_it_is_cut(size: int) -> None:
    answer = b"HTTP/1.0 200 Fine\r\nServer: secret\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello rest"
    got = deliver([answer[start : start + size] for start in range(0, len(answer), size)])
    expected = b"HTTP/1.1 200 \r\nContent-Type: text/plain\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
    assert got == expected


def test_an_answer_without_length_ends_with_the_connection() -> None:
    assert deliver([b"HTTP/1.0 200 OK\r\n\r\nhel", b"lo"]).endswith(b"\r\n\r\nhello")


def test_an_answer_to_head_has_no_body() -> None:
    got = deliver([b"HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nhello"], "HEAD /news HTTP/1.1")
    assert got.endswith(b"Content-Length: 5\r\nConnection: close\r\n\r\n")


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
        b"HTTP/1.1 200 OK\nContent-Length: 5\r\n\r\nhello",
        b"ICY 200 OK\r\n\r\n",
        b"garbage",
        b"",
        b"x" * 9000,
    ],
)
def test_an_odd_answer_is_none(answer: bytes) -> None:
    with pytest.raises(BadAnswerError):
        deliver([answer])


def test_what_is_recorded_is_printable() -> None:
    verdict = GATEWAY.request(b"GET /\x1b[31m\r\n\xff \r\n\r\n")
    assert isinstance(verdict, Refuse)
    assert verdict.what.isprintable()
    assert verdict.what.isascii()
