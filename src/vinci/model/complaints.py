# SPDX-License-Identifier: GPL-2.0-or-later
"""Turns the data model's validation errors into sentences for an administrator."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from enum import Enum
from ipaddress import IPv4Network
from itertools import islice
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from vinci.model.infrastructure import MIN_REASON, REASON_PATTERN, Infrastructure
from vinci.model.problems import ModelPath, shown
from vinci.model.source import MAX_PROBLEMS, UNTOLD

_MAX_COMPARED = 50
SECRET_KEYS = frozenset({"password", "password_hash"})
"""Keys whose values are never shown: somebody may have written a password there."""

_Complaint = tuple[ModelPath, str, str]

_PATTERNS = {
    "^[a-z][a-z0-9-]{0,30}$": "lower-case letters, digits and hyphens, a letter first, at most 31",
    "^[a-z_][a-z0-9_-]{0,30}$": "a Unix login name: lower-case letters, digits, _ and -, at most 31",
    "^[a-z][a-z0-9-]{0,30}(:[a-z_][a-z0-9_-]{0,30})?$": "write a community, or `community:user`",
    "^(/[A-Za-z0-9_.-]+)+$": "an absolute path such as /shares/project",
    "^[0-9]{1,5}(-[0-9]{1,5})?$": "a number or a range such as 100-199",
    "^/[A-Za-z0-9._~/-]*\\*?$": "a path such as /api/status or /public/*",
    "^([a-z][a-z0-9-]{0,30}|(tcp|udp)/[0-9]{1,5})$": "a service such as https, one of `services`, or tcp/8080",
    REASON_PATTERN: f"a reason of at least {MIN_REASON} characters",
    "^([01][0-9]|2[0-3]):[0-5][0-9]-([01][0-9]|2[0-3]):[0-5][0-9]$": "from-to in 24 hours: 06:00-14:30",
}
_KINDS = {
    "string_type": "text",
    "int_type": "a whole number, without quotes",
    "float_type": "a number",
    "bool_type": "true or false",
    "dict_type": "a mapping (`key: value` lines or {…})",
    "model_type": "a mapping (`key: value` lines or {…})",
    "model_attributes_type": "a mapping (`key: value` lines or {…})",
    "tuple_type": "a list ([a, b] or `- ` lines)",
    "list_type": "a list ([a, b] or `- ` lines)",
    "frozen_set_type": "a list ([a, b] or `- ` lines)",
}
_BOUNDS = {
    "greater_than_equal": ("ge", "at least"),
    "greater_than": ("gt", "more than"),
    "less_than_equal": ("le", "at most"),
    "less_than": ("lt", "less than"),
}


def complaints(error: ValidationError, untrusted_data: object) -> list[_Complaint]:
    """One (path, what is wrong, what would be right) for each error; of more than MAX_PROBLEMS that there are more."""
    found = error.errors(include_url=False, include_context=True, include_input=True)
    # A list of which an item is refused is also too short for the library: one complaint is enough.
    real = [detail for detail in found if not (detail["type"] == "too_short" and detail["input"])]
    told = [_complaint(detail, untrusted_data) for detail in real[:MAX_PROBLEMS]]
    return [*told, (told[-1][0], *UNTOLD)] if len(real) > MAX_PROBLEMS else told


def nearest(word: str, choices: Iterable[str]) -> str | None:
    """The one of `choices` that was probably meant by `word`; the search is bounded, however many there are."""
    similar = (
        choice
        for choice in choices
        if abs(len(choice) - len(word)) <= 3 and (choice[:1] == word[:1] or choice[-1:] == word[-1:])
    )
    close = difflib.get_close_matches(word, [*islice(similar, _MAX_COMPARED)], n=1, cutoff=0.6)
    return close[0] if close else None


def _complaint(detail: ErrorDetails, data: object) -> _Complaint:
    path = _path(detail["loc"], data)
    kind, value, context = detail["type"], detail["input"], detail.get("ctx", {})
    name = shown(path[-1]) if path and isinstance(path[-1], str) else "this item"
    if kind == "missing":
        key = str(detail["loc"][-1])
        return path, f'{_owner(path)} has no "{key}"', _field_help(path, key)
    if kind == "extra_forbidden":
        return path, f"unknown key {shown(str(path[-1]))}", _known_key(path)
    if SECRET_KEYS.intersection(path):
        return path, f"{name} is no argon2id hash", "`vinci passwd USER` makes one; passwords never stand in the file"
    if kind in _KINDS:
        if value is None:
            return path, f"{name} is empty", f"it has to be {_KINDS[kind]}" + _empty_hint(kind)
        if kind == "int_type" and isinstance(value, str) and not re.fullmatch("[0-9]{1,18}", value):
            return path, f"{name} is {shown(value)}", "a whole number is at most 18 digits, and nothing else"
        return path, f"{name} is {shown(value)}", f"it has to be {_KINDS[kind]}"
    return path, *_wrong_value(kind, name, value, context, detail["msg"], is_key="[key]" in detail["loc"])


def _wrong_value(
    kind: str, name: str, value: object, context: Mapping[str, Any], message: str, *, is_key: bool
) -> tuple[str, str]:
    """What is wrong and right about a value of the right type."""
    subject = f"the name {shown(value)}" if is_key else f"{name} is {shown(value)}, which"
    if kind == "string_pattern_mismatch":
        return f"{subject} is not possible here", _PATTERNS.get(
            context["pattern"], f"it has to match {context['pattern']}"
        )
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        return f"{name} is {shown(value)}", f"{words} {context[key]}"
    if kind in ("enum", "literal_error"):
        return _wrong_choice(name, value, context["expected"])
    if kind == "union_tag_invalid":
        return _wrong_choice('"gateway"', context["tag"], context["expected_tags"])
    if kind == "union_tag_not_found":
        return f'{name} has no "gateway"', "gateway: modbus or gateway: http"
    if kind == "ip_v4_network":
        return f"{name} is {shown(value)}, no IPv4 network", _network_hint(value)
    if kind in ("too_short", "string_too_short"):
        minimum = context["min_length"]
        return (f"{name} is empty" if not value else f"{name} is {shown(value)}"), f"at least {_count(kind, minimum)}"
    if kind in ("too_long", "string_too_long"):
        return f"{name} is too long", f"at most {_count(kind, context['max_length'])}"
    return f"{name} is {shown(value)}", message


def _count(kind: str, number: int) -> str:
    what = "character" if kind.startswith("string") else "item"
    return f"{number} {what}" + ("s" if number != 1 else "")


def _wrong_choice(name: str, value: object, expected: str) -> tuple[str, str]:
    choices = [choice.strip(" '") for choice in expected.replace(" or ", ", ").split(",")]
    close = nearest(value, choices) if isinstance(value, str) else None
    if close == value:
        return f"{name} is the text {shown(value)}", f"write {close}, without quotes"
    return f"{name} is {shown(value)}", f'did you mean "{close}"?' if close else "write " + " or ".join(choices)


def _network_hint(value: object) -> str:
    try:
        return f"write {IPv4Network(value, strict=False)}" if isinstance(value, str) else "write 10.20.1.0/24"
    except ValueError:
        return "write an address and a length: 10.20.1.0/24"


def _empty_hint(kind: str) -> str:
    return "; {} stands for the defaults" if kind in ("model_type", "dict_type", "model_attributes_type") else ""


def _path(location: tuple[int | str, ...], data: object) -> ModelPath:
    """The part of the library's location that exists in the file: it also names union branches and `[key]`."""
    path: list[str | int] = []
    for step in location:
        match data, step:
            case dict(), str() if step in data:
                data = data[step]
            case list(), int() if step < len(data):
                data = data[step]
            case _:
                continue
        path.append(step)
    return tuple(path)


def _owner(path: ModelPath) -> str:
    if not path:
        return "the file"
    return shown(path[-1]) if isinstance(path[-1], str) else f"item {path[-1] + 1} of {shown(path[-2])}"


def _known_key(path: ModelPath) -> str:
    """What to write instead of an unknown key."""
    if str(path[-1]) in SECRET_KEYS:
        return "no password stands in the file; `vinci passwd USER` sets password_hash"
    keys = sorted({key for model in _models_at(path[:-1]) for key in _keys(model)})
    close = nearest(str(path[-1]), keys)
    if close:
        return f'did you mean "{close}"?'
    return "known keys: " + ", ".join(keys) if keys else "remove it"


def _field_help(path: ModelPath, key: str) -> str:
    for model in _models_at(path):
        if key in _keys(model):
            return f"add `{key}: …` ({_keys(model)[key]})"
    return f"add `{key}: …`"


def _keys(model: type[BaseModel]) -> dict[str, str]:
    return {field.alias or name: field.description or "" for name, field in model.model_fields.items()}


def _models_at(path: ModelPath) -> list[type[BaseModel]]:
    """The models that the value at `path` may have, by walking the types."""
    types: list[Any] = [Infrastructure]
    for step in path:
        types = [inner for outer in types for inner in _step_into(outer, step)]
    return [kind for kind in types if isinstance(kind, type) and issubclass(kind, BaseModel)]


def _step_into(kind: Any, step: str | int) -> list[Any]:
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        for name, field in kind.model_fields.items():
            if step == (field.alias or name):
                return _alternatives(field.annotation)
        return []
    arguments = get_args(kind)
    if get_origin(kind) is dict:
        return _alternatives(arguments[1])
    return _alternatives(arguments[0]) if get_origin(kind) in (tuple, list, frozenset) else []


def _alternatives(kind: Any) -> list[Any]:
    """The types that a union, an alias with constraints or an optional type stands for."""
    if get_origin(kind) is Annotated:
        return _alternatives(get_args(kind)[0])
    if get_origin(kind) in (Union, UnionType):
        return [inner for argument in get_args(kind) for inner in _alternatives(argument)]
    if get_origin(kind) is Literal or (isinstance(kind, type) and issubclass(kind, Enum)):
        return []
    return [kind]
