# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether SELinux in a guest enforces the policy that it was given, without asking the guest (`/sys/fs/selinux`)."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

from vinci.introspect.findings import Check, CheckResult
from vinci.introspect.guest import Guest
from vinci.introspect.hooks.security import hook_name, security_hooks
from vinci.introspect.memory import Implausible
from vinci.introspect.sampling import Sample, check_by_samples
from vinci.introspect.selinux.form import Form, Record, Section, differences
from vinci.introspect.selinux.policy_file import read_policy
from vinci.introspect.selinux.policy_memory import PolicyMemory
from vinci.introspect.selinux.snapshot import Snapshot
from vinci.introspect.structs import struct_reader

_INITIAL = 0
"""OCON_ISID."""
_SHOWN = 3
"""How many records of a difference are named."""


class SelinuxWatch:
    """Watches SELinux in one guest.

    The whole policy is compared at the first look and whenever a word of it has changed; in between a digest of the
    very bytes that were compared tells that nothing has.

    Args:
        policies: the trusted binary policies; several while a VM is told to load another, and either may be in force.

    Raises PolicyFormatError; ValueError without any policy.
    """

    def __init__(self, policies: Sequence[bytes]) -> None:
        if not policies:
            raise ValueError("no trusted policy to compare with")
        self._trusted = [read_policy(policy) for policy in policies]
        self._verified: tuple[int, Form, Snapshot] | None = None

    def check(self, guest: Guest) -> CheckResult:
        """One look."""
        return check_by_samples(Check.SELINUX, guest, lambda: self._sample(guest))

    def _sample(self, guest: Guest) -> Sample:
        sample = Sample()
        policy = _state(guest, sample)
        _hooks(guest, sample)
        if policy:
            in_force = self._policy(guest, policy, sample)
            _initial_contexts(guest, policy, in_force, sample)
        return sample

    def _policy(self, guest: Guest, policy: int, sample: Sample) -> Form:
        """Compare the policy; the trusted one that is in force, or that is most like it."""
        if self._verified is not None:
            address, trusted, snapshot = self._verified
            if address == policy and snapshot.holds(guest):
                sample.examined += sum(map(len, trusted.values()))
                return trusted
            self._verified = None
        memory = PolicyMemory(guest, policy + guest.layout.offset("selinux_policy", "policydb"))
        found = memory.form()
        trusted = min(self._trusted, key=lambda one: sum(len(found[part] ^ one[part]) for part in Section))
        sample.examined += sum(map(len, trusted.values()))
        if trusted == found:
            # what is remembered is a digest of the very copy that is compared: between two reads a guest can change
            with contextlib.suppress(Implausible):
                snapshot, frozen = Snapshot.of(guest, memory.regions)
                if PolicyMemory(frozen, memory.address).form() == found:
                    self._verified = policy, trusted, snapshot
            return trusted
        for section, added, missing in differences(trusted, found):
            what = f"the policy in force is not the trusted one: {_difference(section, added, missing, found)}"
            sample.add(("policy", section), Check.SELINUX, what, section.value)
        return trusted


def _state(guest: Guest, sample: Sample) -> int:
    """Check the switches; the address of the policy, or 0."""
    reader = struct_reader(guest.layout, "selinux_state", "enforcing", "initialized", "checkreqprot", "policy")
    enforcing, initialized, lax, policy = reader.words(guest, guest.symbol("selinux_state"))
    sample.examined += 4
    for wrong, what in (
        (enforcing != 1, "SELinux does not enforce"),
        (initialized != 1 or not policy, "SELinux has no policy"),
        (lax != 0, "SELinux checks the protection that programs ask for, not the one that they get"),
    ):
        if wrong:
            sample.add(("state", what), Check.SELINUX, what, "selinux_state")
    return policy


def _difference(section: Section, added: tuple[Record, ...], missing: tuple[Record, ...], found: Form) -> str:
    parts = []
    for records, word in ((added, "added"), (missing, "missing")):
        if records:
            named = "; ".join(_named(section, record, found) for record in records[:_SHOWN])
            parts.append(f"{len(records)} {word} ({named}{' …' if len(records) > _SHOWN else ''})")
    return f"{section.value}: {', '.join(parts)}"


def _named(section: Section, record: Record, found: Form) -> str:
    """A record for a reader: types and classes of rules by name, others by their first values."""
    if section is not Section.RULES:
        return " ".join(str(value) for value in record[:2])[:80]
    types = {entry[1]: str(entry[0]) for entry in found[Section.TYPES]}
    classes = {entry[1]: str(entry[0]) for entry in found[Section.CLASSES]}
    source, target, class_ = record[:3]
    return f"{types.get(source, source)} {types.get(target, target)}:{classes.get(class_, class_)}"


def _hooks(guest: Guest, sample: Sample) -> None:
    """Every hook that SELinux has in the image is called."""
    symbols, size = guest.profile.symbols, guest.layout.size("security_hook_list")
    start = symbols["selinux_hooks"]
    end = int(symbols.addresses[symbols.addresses.searchsorted(start, "right")])
    attached = {hook.address for hook in security_hooks(guest)}
    for hook in range(start, end - size + 1, size):
        sample.examined += 1
        if hook not in attached:
            head = guest.profile.elf.u64(hook + guest.layout.offset("security_hook_list", "head"))
            what = "the kernel does not ask SELinux: a hook of it was taken away"
            sample.add(("hook", hook), Check.SELINUX, what, hook_name(guest, head))


def _initial_contexts(guest: Guest, policy: int, trusted: Form, sample: Sample) -> None:
    """The contexts of the kernel itself and of what has none of its own (`sidtab.isids`) are the policy's."""
    layout = guest.layout
    table = guest.u64(policy + layout.offset("selinux_policy", "sidtab")) + layout.offset("sidtab", "isids")
    size, context = layout.size("sidtab_isid_entry"), layout.offset("sidtab_isid_entry", "entry.context")
    memory = PolicyMemory(guest, policy)
    for kind, _, sid, *expected in trusted[Section.OBJECTS]:
        if kind != _INITIAL or not isinstance(sid, int) or not _is_used(guest, sid):
            continue
        sample.examined += 1
        entry = table + (sid - 1) * size
        if guest.u32(entry) != 1 or memory.context(entry + context) != expected[0]:
            sample.add(("sid", sid), Check.SELINUX, "an initial context is not the policy's", f"initial SID {sid}")


def _is_used(guest: Guest, sid: int) -> bool:
    """Whether this kernel has a use for an initial SID: the image gives it a name (`initial_sid_to_string`)."""
    symbols = guest.profile.symbols
    names = symbols["initial_sid_to_string"]
    end = int(symbols.addresses[symbols.addresses.searchsorted(names, "right")])
    return names + 8 * sid + 8 <= end and guest.profile.elf.u64(names + 8 * sid) != 0
