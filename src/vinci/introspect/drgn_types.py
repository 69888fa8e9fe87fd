# SPDX-License-Identifier: GPL-2.0-or-later
"""The trusted kernel's types for drgn, which reads DWARF but not BTF (Documentation/bpf/btf.rst)."""

from __future__ import annotations

from functools import cached_property, partial
from typing import Any

from drgn import (
    Object,
    Program,
    Qualifiers,
    Type,
    TypeEnumerator,
    TypeKind,
    TypeKindSet,
    TypeMember,
    TypeParameter,
)

from vinci.introspect.btf import Btf, Kind, Member
from vinci.introspect.btf import Type as Record

_SIGNED, _BOOL = 1, 4
"""Bits of an INT's encoding."""
_KINDS = {
    TypeKind.INT: (Kind.INT,),
    TypeKind.BOOL: (Kind.INT,),
    TypeKind.FLOAT: (Kind.FLOAT,),
    TypeKind.STRUCT: (Kind.STRUCT,),
    TypeKind.UNION: (Kind.UNION,),
    TypeKind.ENUM: (Kind.ENUM, Kind.ENUM64),
    TypeKind.TYPEDEF: (Kind.TYPEDEF,),
}
_QUALIFIERS = {
    Kind.CONST: Qualifiers.CONST,
    Kind.VOLATILE: Qualifiers.VOLATILE,
    Kind.RESTRICT: Qualifiers.RESTRICT,
}


class DrgnTypes:
    """Makes drgn's types from BTF, each once, when they are asked for; members are made when they are looked at."""

    def __init__(self, program: Program, btf: Btf) -> None:
        self._program = program
        self._btf = btf
        self._made: dict[int, Type] = {}

    def find(self, _program: Program, kinds: TypeKindSet, name: str, _filename: str | None) -> Type | None:
        """drgn's type finder."""
        for kind, ours in _KINDS.items():
            if kind in kinds:
                try:
                    found = self.type(self._btf.find(name, *ours))
                except KeyError:
                    continue
                if found.kind is kind:  # a bool is an INT in BTF
                    return found
        return None

    def variable(self, name: str) -> Type | None:
        """The type of a global variable: BTF knows that of per-CPU variables only."""
        try:
            return self.type(self._btf.type(self._btf.find(name, Kind.VAR)).target)
        except KeyError:
            return None

    @cached_property
    def constants(self) -> dict[str, tuple[Type, int]]:
        """The enumerators of all enumerations by name: the type and the value of each."""
        found: dict[str, tuple[Type, int]] = {}
        for number in range(1, len(self._btf) + 1):
            record = self._btf.type(number)
            if record.kind in (Kind.ENUM, Kind.ENUM64) and record.vlen:
                for name, value in self._btf.enumerators(record):
                    found.setdefault(name, (self.type(number), value))
        return found

    def type(self, number: int) -> Type:
        """The type with that BTF id."""
        if number not in self._made:
            self._made[number] = self._make(self._btf.type(number))
        return self._made[number]

    def _make(self, record: Record) -> Type:
        make = self._program
        kind = record.kind
        if kind is Kind.INT:
            return self._integer(record)
        if kind is Kind.FLOAT:
            return make.float_type(record.name, record.size)
        if kind is Kind.PTR:
            return make.pointer_type(self.type(record.target))
        if kind is Kind.ARRAY:
            element, length = self._btf.array(record)
            return make.array_type(self.type(element), length or None)
        if kind in (Kind.STRUCT, Kind.UNION):
            compound = make.struct_type if kind is Kind.STRUCT else make.union_type
            return compound(record.name or None, record.size, [self._member(m) for m in self._btf.members(record)])
        if kind in (Kind.ENUM, Kind.ENUM64):
            return self._enumeration(record)
        if kind is Kind.FWD:
            return make.union_type(record.name) if record.kind_flag else make.struct_type(record.name)
        if kind is Kind.TYPEDEF:
            return make.typedef_type(record.name, self.type(record.target))
        if kind in _QUALIFIERS:
            target = self.type(record.target)
            return target.qualified(target.qualifiers | _QUALIFIERS[kind])
        if kind is Kind.FUNC_PROTO:
            return self._function(record)
        if kind in (Kind.TYPE_TAG, Kind.FUNC, Kind.VAR):
            return self.type(record.target)
        return make.void_type()

    def _integer(self, record: Record) -> Type:
        ((word,),) = self._btf.tail(record, 1)
        encoding = word >> 24
        if encoding & _BOOL:
            return self._program.bool_type(record.name, record.size)
        return self._program.int_type(record.name, record.size, bool(encoding & _SIGNED))

    def _enumeration(self, record: Record) -> Type:
        values = [TypeEnumerator(name, value) for name, value in self._btf.enumerators(record)] if record.vlen else []
        signed = any(enumerator.value < 0 for enumerator in values)
        integer = self._program.int_type(("" if signed else "unsigned ") + "int", record.size, signed)
        return self._program.enum_type(record.name or None, integer, values)

    def _member(self, member: Member) -> TypeMember:
        return TypeMember(partial(self._member_type, member), member.name or None, member.bits)

    def _member_type(self, member: Member) -> Any:
        found = self.type(member.type)
        return Object(self._program, found, bit_field_size=member.bit_size) if member.bit_size else found

    def _function(self, record: Record) -> Type:
        pairs = list(self._btf.tail(record, 2)) if record.vlen else []
        variadic = bool(pairs) and pairs[-1] == (0, 0)
        parameters = [TypeParameter(self.type(number)) for _name, number in pairs[: len(pairs) - variadic]]
        return self._program.function_type(self.type(record.target), parameters, variadic)
