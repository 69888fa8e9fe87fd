# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the trusted binary policy, as `secilc` writes it and the kernel loads it.

Format: `policydb_read` in linux/security/selinux/ss/policydb.c, versions 29 to 33. The file is the A-VM's own; it is
checked for its length all the same, and never more is read than there is.
"""

from __future__ import annotations

import struct
from collections import defaultdict

from vinci.introspect.selinux.form import MAX_BITS, Config, Form, Record, Section, unknown

_MAGIC = 0xF97CFF8C
_TARGET = b"SE Linux"
_FIRST_VERSION, _LAST_VERSION = 29, 33
_SYMBOLS, _OBJECTS = 8, 9
_EXTENDED = 0x0700
"""AVTAB_XPERMS: the rule is about ioctl numbers."""
_EXPRESSION_NAMES = 5
"""CEXPR_NAMES."""
_COMPRESSED_NAME_TRANSITIONS = 33


class PolicyFormatError(ValueError):
    """The file is no binary policy of a version that is understood here."""


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def words(self, count: int) -> tuple[int, ...]:
        return self._unpack(f"<{count}I")

    def word(self) -> int:
        return self.words(1)[0]

    def _unpack(self, form: str) -> tuple[int, ...]:
        try:
            values = struct.unpack_from(form, self.data, self.at)
        except struct.error:
            raise PolicyFormatError("the policy file ends too early") from None
        self.at += struct.calcsize(form)
        return values

    def text(self, length: int) -> str:
        if length > len(self.data) - self.at:
            raise PolicyFormatError("the policy file ends too early")
        self.at += length
        return self.data[self.at - length : self.at].decode("utf-8", "backslashreplace")

    def bitmap(self) -> int:
        unit, _, count = self.words(3)
        if unit != 64:
            raise PolicyFormatError(f"a bitmap of {unit}-bit units")
        value = 0
        for _ in range(count):
            start, low, high = self.words(3)
            if start > MAX_BITS - unit:
                raise PolicyFormatError(f"a bitmap of more than {MAX_BITS} bits")
            value |= (low | high << 32) << start
        return value

    def level(self) -> Record:
        sensitivity = self.word()
        return sensitivity, self.bitmap()

    def range(self) -> Record:
        count = self.word()
        if not 1 <= count <= 2:
            raise PolicyFormatError("a range of neither one level nor two")
        sensitivities = self.words(count)
        categories = [self.bitmap() for _ in range(count)]
        return (sensitivities[0], categories[0]), (sensitivities[-1], categories[-1])

    def context(self) -> Record:
        return (*self.words(3), self.range())

    def rule(self) -> Record:
        source, target, class_, kind = self._unpack("<4H")
        if kind & _EXTENDED:
            what, driver, *permissions = self._unpack("<2B8I")
            return source, target, class_, kind, (what, driver, *permissions)
        return source, target, class_, kind, self.word()

    def rules(self) -> tuple[Record, ...]:
        return tuple(self.rule() for _ in range(self.word()))


def read_policy(data: bytes) -> Form:
    """The form of a binary policy. Raises PolicyFormatError."""
    reader = _Reader(data)
    if reader.word() != _MAGIC or reader.text(reader.word()).encode() != _TARGET:
        raise PolicyFormatError("not a binary SELinux policy")
    version, config, symbols, objects = reader.words(4)
    if not _FIRST_VERSION <= version <= _LAST_VERSION or not config & Config.MLS:
        raise PolicyFormatError(f"a policy of version {version}, {'with' if config & Config.MLS else 'without'} MLS")
    if symbols != _SYMBOLS or objects != _OBJECTS:
        raise PolicyFormatError(f"a policy of {symbols} kinds of symbols and {objects} of objects")
    form: dict[Section, set[Record]] = defaultdict(set)
    form[Section.HEADER] |= {("unknown", unknown(config)), ("version", version), ("mls", True)}
    form[Section.HEADER] |= {("capabilities", reader.bitmap()), ("permissive", reader.bitmap())}
    types = _symbols(reader, form)
    form[Section.RULES] |= set(reader.rules())
    _conditional_rules(reader, form)
    _transitions(reader, form, version)
    _objects(reader, form)
    _files(reader, form)
    _ranges(reader, form)
    for number in range(types):
        # the kernel adds each type to its own set when it loads the policy
        form[Section.ATTRIBUTES].add((number, reader.bitmap() | 1 << number))
    if reader.at != len(data):
        raise PolicyFormatError("the policy file goes on behind its end")
    return {section: frozenset(form[section]) for section in Section}


def _symbols(reader: _Reader, form: dict[Section, set[Record]]) -> int:
    """Read all tables of symbols; how many types there are."""
    readers = (
        (Section.COMMONS, _common),
        (Section.CLASSES, _class),
        (Section.ROLES, _role),
        (Section.TYPES, _type),
        (Section.USERS, _user),
        (Section.BOOLEANS, _boolean),
        (Section.LEVELS, _level),
        (Section.CATEGORIES, _category),
    )
    types = 0
    for section, read in readers:
        highest, count = reader.words(2)
        if section is Section.TYPES:
            types = highest
        form[section].update(read(reader) for _ in range(count))
    return types


def _permissions(reader: _Reader, count: int) -> frozenset[Record]:
    found: set[Record] = set()
    for _ in range(count):
        length, value = reader.words(2)
        found.add((reader.text(length), value))
    return frozenset(found)


def _common(reader: _Reader) -> Record:
    length, value, _, count = reader.words(4)
    return reader.text(length), value, _permissions(reader, count)


def _class(reader: _Reader) -> Record:
    length, common_length, value, _, count, constraints = reader.words(6)
    name = reader.text(length)
    common = reader.text(common_length)
    permissions = _permissions(reader, count)
    rules = _constraints(reader, constraints)
    transitions = _constraints(reader, reader.word())
    defaults = reader.words(4)  # user, role, range, type
    return name, value, common, permissions, rules, transitions, defaults


def _constraints(reader: _Reader, count: int) -> tuple[Record, ...]:
    found = []
    for _ in range(count):
        permissions, length = reader.words(2)
        found.append((permissions, tuple(_expression(reader) for _ in range(length))))
    return tuple(found)


def _expression(reader: _Reader) -> Record:
    kind, attribute, operation = reader.words(3)
    if kind != _EXPRESSION_NAMES:
        return kind, attribute, operation, 0, ()
    names = reader.bitmap()
    return kind, attribute, operation, names, (reader.bitmap(), reader.bitmap(), reader.word())


def _role(reader: _Reader) -> Record:
    length, value, bounds = reader.words(3)
    return reader.text(length), value, bounds, reader.bitmap(), reader.bitmap()


def _type(reader: _Reader) -> Record:
    length, value, properties, bounds = reader.words(4)
    return reader.text(length), value, bounds, bool(properties & 1), bool(properties & 2)


def _user(reader: _Reader) -> Record:
    length, value, bounds = reader.words(3)
    return reader.text(length), value, bounds, reader.bitmap(), reader.range(), reader.level()


def _boolean(reader: _Reader) -> Record:
    value, state, length = reader.words(3)
    return reader.text(length), value, state


def _level(reader: _Reader) -> Record:
    length, alias = reader.words(2)
    return reader.text(length), bool(alias), reader.level()


def _category(reader: _Reader) -> Record:
    length, value, alias = reader.words(3)
    return reader.text(length), value, bool(alias)


def _conditional_rules(reader: _Reader, form: dict[Section, set[Record]]) -> None:
    for number in range(reader.word()):
        state, length = reader.words(2)
        expression = tuple(reader.words(2) for _ in range(length))
        form[Section.CONDITIONAL_RULES].add((number, state, expression, reader.rules(), reader.rules()))


def _transitions(reader: _Reader, form: dict[Section, set[Record]], version: int) -> None:
    for _ in range(reader.word()):
        role, type_, new, class_ = reader.words(4)
        form[Section.ROLE_TRANSITIONS].add((role, type_, class_, new))
    for _ in range(reader.word()):
        form[Section.ROLE_ALLOWS].add(reader.words(2))
    names: dict[Record, int] = defaultdict(int)
    for _ in range(reader.word()):
        name = reader.text(reader.word())
        if version < _COMPRESSED_NAME_TRANSITIONS:
            source, target, class_, result = reader.words(4)
            names[target, class_, name, result] |= 1 << (source - 1)
            continue
        target, class_, count = reader.words(3)
        for _ in range(count):
            sources = reader.bitmap()
            names[target, class_, name, reader.word()] |= sources
    form[Section.NAME_TRANSITIONS] |= {(*key, sources) for key, sources in names.items()}


def _objects(reader: _Reader, form: dict[Section, set[Record]]) -> None:
    for kind in range(_OBJECTS):
        for number in range(reader.word()):
            form[Section.OBJECTS].add((kind, number, *_object(reader, kind)))


def _object(reader: _Reader, kind: int) -> Record:
    """One `ocontext`: what it is about, and one context or two (`OCON_ISID` to `OCON_IBENDPORT`)."""
    match kind:
        case 0:
            return reader.word(), reader.context()
        case 1 | 3:  # file system, network interface
            return reader.text(reader.word()), reader.context(), reader.context()
        case 2:  # ports
            return reader.words(3), reader.context()
        case 4:  # IPv4 nodes
            return reader.words(2), reader.context()
        case 5:  # fs_use
            behavior, length = reader.words(2)
            return reader.text(length), behavior, reader.context()
        case 6:  # IPv6 nodes
            return reader.words(8), reader.context()
        case 7:  # InfiniBand partition keys
            return reader.words(4), reader.context()
        case _:  # InfiniBand end ports
            length, port = reader.words(2)
            return reader.text(length), port, reader.context()


def _files(reader: _Reader, form: dict[Section, set[Record]]) -> None:
    for _ in range(reader.word()):
        filesystem = reader.text(reader.word())
        for _ in range(reader.word()):
            path = reader.text(reader.word())
            class_ = reader.word()
            form[Section.FILES].add((filesystem, path, class_, reader.context()))


def _ranges(reader: _Reader, form: dict[Section, set[Record]]) -> None:
    for _ in range(reader.word()):
        source, target, class_ = reader.words(3)
        form[Section.RANGE_TRANSITIONS].add((source, target, class_, reader.range()))
