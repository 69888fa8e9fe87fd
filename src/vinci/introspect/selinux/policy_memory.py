# SPDX-License-Identifier: GPL-2.0-or-later
"""Reads the policy that is in force out of a guest's kernel memory (`selinux_state.policy->policydb`).

Structs: linux/security/selinux/ss/policydb.h, avtab.h, ebitmap.h, constraint.h, conditional.h, mls_types.h. Every walk
is bounded, by the guest's budget and by `_LIMIT`, and what the kernel reaches by index has to be what its tables hold.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Iterator

from vinci.introspect.btf import Layout
from vinci.introspect.guest import Guest
from vinci.introspect.lists import Broken, chain
from vinci.introspect.selinux.form import MAX_BITS, Form, Record, Section, unknown
from vinci.introspect.structs import StructReader

_LIMIT = 1 << 20
_BITMAP_WORDS = 6
_MAX_BITMAP_NODES = MAX_BITS // 64
_EXTENDED = 0x0700
_EXPRESSION_NAMES = 5
_SYMBOLS = (
    Section.COMMONS,
    Section.CLASSES,
    Section.ROLES,
    Section.TYPES,
    Section.USERS,
    Section.BOOLEANS,
    Section.LEVELS,
    Section.CATEGORIES,
)
_BY_VALUE = {
    Section.CLASSES: "class_val_to_struct",
    Section.ROLES: "role_val_to_struct",
    Section.USERS: "user_val_to_struct",
    Section.TYPES: "type_val_to_struct",
}
"""Arrays in which the kernel looks symbols up by their number."""
_OBJECTS = 9


class PolicyMemory:
    """The policy database at one address. `regions` gathers what was read, as (address, size)."""

    def __init__(self, guest: Guest, address: int) -> None:
        self.guest, self.address = guest, address
        self.layout: Layout = guest.layout
        self.regions: dict[int, int] = {}
        self._readers: dict[tuple[str, ...], StructReader] = {}

    def form(self) -> Form:
        """All of the policy. Raises Unreadable, Broken, OverBudget."""
        form: dict[Section, set[Record]] = defaultdict(set)
        form[Section.HEADER] |= set(self._header())
        for number, section in enumerate(_SYMBOLS):
            form[section] |= set(self._symbols(number, section))
        form[Section.RULES] |= set(self._rules(self._at("te_avtab")))
        form[Section.CONDITIONAL_RULES] |= set(self._conditional_rules())
        form[Section.ROLE_TRANSITIONS] |= set(self._role_transitions())
        form[Section.ROLE_ALLOWS] |= set(self._role_allows())
        form[Section.NAME_TRANSITIONS] |= self._name_transitions()
        form[Section.RANGE_TRANSITIONS] |= set(self._range_transitions())
        form[Section.OBJECTS] |= set(self._objects())
        form[Section.FILES] |= set(self._files())
        form[Section.ATTRIBUTES] |= set(self._attributes())
        return {section: frozenset(form[section]) for section in Section}

    # reading

    def _read(self, address: int, size: int) -> bytes:
        self.regions[address] = max(size, self.regions.get(address, 0))
        return self.guest.read(address, size)

    def _word(self, address: int) -> int:
        return int.from_bytes(self._read(address, 8), "little")

    def _half(self, address: int) -> int:
        return int.from_bytes(self._read(address, 4), "little")

    def _fields(self, kind: str, address: int, *names: str) -> tuple[int, ...]:
        key = (kind, *names)
        if key not in self._readers:
            self._readers[key] = StructReader(self.layout, kind, *names)
        self.regions[address] = max(self.layout.size(kind), self.regions.get(address, 0))
        return self._readers[key].words(self.guest, address)

    def _at(self, path: str) -> int:
        return self.address + self.layout.offset("policydb", path)

    def _text(self, address: int) -> str:
        text = self.guest.cstring(address, 4096)
        self.regions[address] = max(len(text), self.regions.get(address, 0))
        return text

    def _array(self, address: int, count: int) -> tuple[int, ...]:
        if count > _LIMIT:
            raise Broken(f"the policy says that it has {count} entries in a table")
        return struct.unpack(f"<{count}Q", self._read(address, 8 * count)) if count else ()

    def _bitmap(self, address: int) -> int:
        """An `ebitmap`, as an integer."""
        value, count = 0, 0
        at = self._word(address)
        while at:
            words = struct.unpack(f"<Q{_BITMAP_WORDS}QI", self._read(at, 8 + 8 * _BITMAP_WORDS + 4))
            start = words[-1]
            count += 1
            if count > _MAX_BITMAP_NODES or start > MAX_BITS:
                raise Broken("a set of the policy does not end")
            for number, word in enumerate(words[1:-1]):
                value |= word << (start + 64 * number)
            at = words[0]
        return value

    def _hash(self, address: int) -> Iterator[tuple[int, int]]:
        """Key and datum of each entry of a `hashtab`."""
        table, size, count = self._fields("hashtab", address, "htable", "size", "nel")
        found = 0
        for first in self._array(table, size):
            for node in chain(self.guest, first, self.layout.offset("hashtab_node", "next"), _LIMIT):
                key, datum, _ = self._fields("hashtab_node", node, "key", "datum", "next")
                found += 1
                yield key, datum
        if found != count:
            raise Broken(f"a table of the policy holds {found} entries and says {count}")

    def _level(self, address: int) -> Record:
        offset = self.layout.offset("mls_level", "cat")
        return self._half(address), self._bitmap(address + offset)

    def _range(self, address: int) -> Record:
        return self._level(address), self._level(address + self.layout.size("mls_level"))

    def context(self, address: int) -> Record:
        """User, role, type and range of a `context`. Raises Unreadable, Broken."""
        user, role, type_ = self._fields("context", address, "user", "role", "type")
        return user, role, type_, self._range(address + self.layout.offset("context", "range"))

    # sections

    def _header(self) -> Iterator[Record]:
        mls, version = self._half(self._at("mls_enabled")), self._half(self._at("policyvers"))
        config = self._flags()
        yield from (("unknown", unknown(config)), ("version", version), ("mls", bool(mls)))
        yield "capabilities", self._bitmap(self._at("policycaps"))
        yield "permissive", self._bitmap(self._at("permissive_map"))

    def _flags(self) -> int:
        """`reject_unknown` and `allow_unknown` as the bits of the file's header."""
        config = 0
        for name, bit in (("reject_unknown", 2), ("allow_unknown", 4)):
            field = self.layout.field("policydb", name)
            if self._read(self.address + field.offset, 1)[0] >> field.bit & 1:
                config |= bit
        return config

    def _symbols(self, number: int, section: Section) -> Iterator[Record]:
        table = self._at("symtab") + number * self.layout.size("symtab")
        highest = self._half(table + self.layout.offset("symtab", "nprim"))
        names = self._array(self._word(self._at("sym_val_to_name") + 8 * number), highest)
        data = self._array(self._word(self._at(_BY_VALUE[section])), highest) if section in _BY_VALUE else ()
        read = {
            Section.COMMONS: self._common,
            Section.CLASSES: self._class,
            Section.ROLES: self._role,
            Section.TYPES: self._type,
            Section.USERS: self._user,
            Section.BOOLEANS: self._boolean,
            Section.LEVELS: self._sensitivity,
            Section.CATEGORIES: self._category,
        }[section]
        for key, datum in self._hash(table):
            name = self._text(key)
            record = read(name, datum)
            value = record[1]
            if data and isinstance(value, int) and 0 < value <= highest and record[-1] is not True:
                alias = section is Section.TYPES and not record[3]
                if not alias and (data[value - 1] != datum or names[value - 1] != key):
                    raise Broken(f"the number {value} leads to other {section} than its name {name}")
            yield record

    def _permissions(self, address: int) -> frozenset[Record]:
        return frozenset((self._text(key), self._half(datum)) for key, datum in self._hash(address))

    def _common(self, name: str, at: int) -> Record:
        permissions = self.layout.offset("common_datum", "permissions.table")
        return name, self._half(at), self._permissions(at + permissions)

    def _class(self, name: str, at: int) -> Record:
        names = ("value", "comkey", "comdatum", "constraints", "validatetrans")
        defaults = ("default_user", "default_role", "default_range", "default_type")
        value, key, common, constraints, transitions, *default = self._fields("class_datum", at, *names, *defaults)
        return (
            name,
            value,
            self._text(key) if common else "",
            self._permissions(at + self.layout.offset("class_datum", "permissions.table")),
            self._constraints(constraints),
            self._constraints(transitions),
            tuple(default),
        )

    def _constraints(self, first: int) -> tuple[Record, ...]:
        found = []
        for node in chain(self.guest, first, self.layout.offset("constraint_node", "next"), _LIMIT):
            permissions, expression, _ = self._fields("constraint_node", node, "permissions", "expr", "next")
            steps = chain(self.guest, expression, self.layout.offset("constraint_expr", "next"), _LIMIT)
            found.append((permissions, tuple(self._expression(step) for step in steps)))
        return tuple(found)

    def _expression(self, at: int) -> Record:
        kind, attribute, operation, types = self._fields("constraint_expr", at, "expr_type", "attr", "op", "type_names")
        if kind != _EXPRESSION_NAMES:
            return kind, attribute, operation, 0, ()
        names = self._bitmap(at + self.layout.offset("constraint_expr", "names"))
        sets = tuple(self._bitmap(types + self.layout.offset("type_set", name)) for name in ("types", "negset"))
        return kind, attribute, operation, names, (*sets, self._half(types + self.layout.offset("type_set", "flags")))

    def _role(self, name: str, at: int) -> Record:
        value, bounds = self._fields("role_datum", at, "value", "bounds")
        sets = [self._bitmap(at + self.layout.offset("role_datum", part)) for part in ("dominates", "types")]
        return name, value, bounds, *sets

    def _type(self, name: str, at: int) -> Record:
        value, bounds, primary, attribute = self._fields("type_datum", at, "value", "bounds", "primary", "attribute")
        return name, value, bounds, bool(primary), bool(attribute)

    def _user(self, name: str, at: int) -> Record:
        value, bounds = self._fields("user_datum", at, "value", "bounds")
        roles, range_, level = (self.layout.offset("user_datum", part) for part in ("roles", "range", "dfltlevel"))
        return name, value, bounds, self._bitmap(at + roles), self._range(at + range_), self._level(at + level)

    def _boolean(self, name: str, at: int) -> Record:
        return name, *self._fields("cond_bool_datum", at, "value", "state")

    def _sensitivity(self, name: str, at: int) -> Record:
        level, alias = self._fields("level_datum", at, "level", "isalias")
        return name, bool(alias), self._level(level)

    def _category(self, name: str, at: int) -> Record:
        value, alias = self._fields("cat_datum", at, "value", "isalias")
        return name, value, bool(alias)

    def _rules(self, table: int) -> Iterator[Record]:
        buckets, count, size = self._fields("avtab", table, "htable", "nel", "nslot")
        found = 0
        for first in self._array(buckets, size):
            for node in chain(self.guest, first, self.layout.offset("avtab_node", "next"), _LIMIT):
                found += 1
                yield self._rule(node)
        if found != count:
            raise Broken(f"the policy holds {found} rules and says {count}")

    def _rule(self, node: int) -> Record:
        source, target, class_, kind, data = struct.unpack("<4HQ", self._read(node, 16))
        self.regions[node] = self.layout.size("avtab_node")
        if kind & _EXTENDED:
            what, driver = self._fields("avtab_extended_perms", data, "specified", "driver")
            permissions = self._read(data + self.layout.offset("avtab_extended_perms", "perms"), 32)
            return source, target, class_, kind, (what, driver, *struct.unpack("<8I", permissions))
        return source, target, class_, kind, data & 0xFFFF_FFFF

    def _conditional_rules(self) -> Iterator[Record]:
        first, count = self._word(self._at("cond_list")), self._half(self._at("cond_list_len"))
        size = self.layout.size("cond_node")
        for number in range(min(count, _LIMIT)):
            at = first + number * size
            names = ("cur_state", "expr.nodes", "expr.len")
            state, nodes, length = self._fields("cond_node", at, *names)
            raw = self._read(nodes, 8 * min(length, _LIMIT))
            expression = tuple(struct.iter_unpack("<2I", raw))
            lists = []
            for name in ("true_list", "false_list"):
                rules, rule_count = self._fields("cond_node", at, f"{name}.nodes", f"{name}.len")
                lists.append(tuple(self._rule(node) for node in self._array(rules, rule_count)))
            yield number, state, expression, *lists

    def _role_transitions(self) -> Iterator[Record]:
        for key, datum in self._hash(self._at("role_tr")):
            role, type_, class_ = self._fields("role_trans_key", key, "role", "type", "tclass")
            yield role, type_, class_, self._half(datum)

    def _role_allows(self) -> Iterator[Record]:
        next_at = self.layout.offset("role_allow", "next")
        for node in chain(self.guest, self._word(self._at("role_allow")), next_at, _LIMIT):
            yield self._fields("role_allow", node, "role", "new_role", "next")[:2]

    def _name_transitions(self) -> set[Record]:
        found: set[Record] = set()
        for key, first in self._hash(self._at("filename_trans")):
            target, class_, name = self._fields("filename_trans_key", key, "ttype", "tclass", "name")
            for datum in chain(self.guest, first, self.layout.offset("filename_trans_datum", "next"), _LIMIT):
                result, _ = self._fields("filename_trans_datum", datum, "otype", "next")
                found.add((target, class_, self._text(name), result, self._bitmap(datum)))
        return found

    def _range_transitions(self) -> Iterator[Record]:
        for key, datum in self._hash(self._at("range_tr")):
            source, target, class_ = self._fields("range_trans", key, "source_type", "target_type", "target_class")
            yield source, target, class_, self._range(datum)

    def _contexts(self, first: int) -> Iterator[tuple[int, Record, Record]]:
        """Address and both contexts of each `ocontext` of a list."""
        contexts, size = self.layout.offset("ocontext", "context"), self.layout.size("context")
        for node in chain(self.guest, first, self.layout.offset("ocontext", "next"), _LIMIT):
            yield node, self.context(node + contexts), self.context(node + contexts + size)

    def _objects(self) -> Iterator[Record]:
        for kind, first in enumerate(self._array(self._at("ocontexts"), _OBJECTS)):
            for number, (node, context, second) in enumerate(self._contexts(first)):
                yield (kind, number, *self._object(kind, node, context, second))

    def _object(self, kind: int, node: int, context: Record, second: Record) -> Record:
        """What an `ocontext` is about; numbers as in `policy_file._object`."""
        union = self._read(node, 32)
        name = int.from_bytes(union[:8], "little")
        match kind:
            case 0:
                return self._half(node + self.layout.offset("ocontext", "sid")), context
            case 1 | 3:
                return self._text(name), context, second
            case 2:
                protocol, low, high = struct.unpack_from("<B1xHH", union)
                return (protocol, low, high), context
            case 4:
                return struct.unpack_from("<2I", union), context
            case 5:
                return self._text(name), self._half(node + self.layout.offset("ocontext", "v")), context
            case 6:
                return struct.unpack_from("<8I", union), context
            case 7:
                prefix_low, prefix_high, low, high = struct.unpack_from("<2I2H", union)
                return (prefix_low, prefix_high, low, high), context
            case _:
                return self._text(name), union[8], context

    def _files(self) -> Iterator[Record]:
        next_at = self.layout.offset("genfs", "next")
        for system in chain(self.guest, self._word(self._at("genfs")), next_at, _LIMIT):
            name, first, _ = self._fields("genfs", system, "fstype", "head", "next")
            for node, context, _ in self._contexts(first):
                path = self._word(node)
                class_ = self._half(node + self.layout.offset("ocontext", "v"))
                yield self._text(name), self._text(path), class_, context

    def _attributes(self) -> Iterator[Record]:
        first = self._word(self._at("type_attr_map_array"))
        types = _SYMBOLS.index(Section.TYPES)
        table = self._at("symtab") + types * self.layout.size("symtab")
        count = self._half(table + self.layout.offset("symtab", "nprim"))
        if count > _LIMIT:
            raise Broken(f"the policy says that it has {count} types")
        for number in range(count):
            yield number, self._bitmap(first + number * self.layout.size("ebitmap"))
