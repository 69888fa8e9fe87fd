# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the kernel lies, the same for every processor and for a scan of memory; control registers; interrupt gates."""

from __future__ import annotations

import numpy as np

from vinci.introspect.attach import anchors, locate
from vinci.introspect.findings import Check, CheckResult
from vinci.introspect.guest import Guest
from vinci.introspect.memory import Unreadable
from vinci.introspect.registers import CR0_WP, CR4_SMAP, CR4_SMEP, EFER_NXE, Processor
from vinci.introspect.sampling import Sample, check_by_samples

_WAITING_KERNELS = {
    "kexec_image": "another kernel is loaded, to be started in place of this one",
    "kexec_crash_image": "another kernel is loaded, to be started when this one fails",
}
"""Pointers to what kexec_load and kexec_file_load made ready (kernel/kexec_core.c), whose text may be compressed."""
_ACCESS_PREVENTION = "access prevention"
_VECTORS = 256
_GATE = np.dtype(
    [("low", "<u2"), ("segment", "<u2"), ("flags", "<u2"), ("middle", "<u2"), ("high", "<u4"), ("_", "<u4")]
)
_EXCEPTIONS = 32
_ENTRY_STRIDE = 8
"""Bytes of each of the entries at irq_entries_start and spurious_entries_start (asm/idtentry.h)."""
_EARLY_STRIDE = 9
"""Bytes of each of early_idt_handler_array (arch/x86/kernel/head_64.S), where unused exceptions lead for ever."""


def check_place(guest: Guest) -> CheckResult:
    """Where every running processor has its kernel, its control registers, and its interrupt descriptor table."""
    return check_by_samples(Check.PLACE, guest, lambda: _sample(guest))


def _sample(guest: Guest) -> Sample:
    sample = Sample()
    found = anchors(guest.memory, guest.profile)
    if found != [guest.physical_base]:
        places = ", ".join(f"{physical:#x}" for physical in found) or "nowhere"
        sample.add("anchor", Check.PLACE, f"the trusted kernel's text lies at {places}", f"{guest.physical_base:#x}")
    for name, what in _WAITING_KERNELS.items():
        if name in guest.profile.symbols and guest.u64(guest.symbol(name)):
            sample.add(name, Check.PLACE, f"{what} (kexec)", name)
    for processor in guest.processors:
        if processor.long_mode:
            sample.examined += 1
            _placed(guest, processor, sample)
            _control_bits(guest, processor, sample)
            _handlers(guest, processor, sample)
        elif not processor.parked:
            what = f"it runs no 64-bit kernel, but something at {processor.instruction:#x}"
            sample.add((processor.number, "mode"), Check.PLACE, what, f"processor {processor.number}")
    if not sample.examined:
        sample.add("none", Check.PLACE, "no processor runs a 64-bit kernel", "processors")
    return sample


def _placed(guest: Guest, processor: Processor, sample: Sample) -> None:
    where = f"processor {processor.number}"
    try:
        slide, physical = locate(guest.memory, guest.profile, processor)
    except Unreadable as problem:
        sample.add((where, "lost"), Check.PLACE, f"leads to no kernel: {problem}", where)
        return
    if (slide, physical) != (guest.slide, guest.physical_base):
        what = f"runs another kernel, at {physical:#x} with slide {slide:#x}"
        sample.add((where, "other"), Check.PLACE, what, where)


def _control_bits(guest: Guest, processor: Processor, sample: Sample) -> None:
    """Write protection and NX always; SMEP and SMAP when the kernel found a processor that has them.

    Its text shows that; what it once showed holds, also when the place there was made another one since.
    """
    wanted = [("CR0.WP", processor.cr0 & CR0_WP), ("EFER.NXE", processor.efer & EFER_NXE)]
    if guest.image(guest.profile.access_prevention, 2).tobytes() == b"\x0f\x01":  # clac, stac: verified with the text
        guest.verified[_ACCESS_PREVENTION] = b"\x01"
    if _ACCESS_PREVENTION in guest.verified:
        wanted += [("CR4.SMEP", processor.cr4 & CR4_SMEP), ("CR4.SMAP", processor.cr4 & CR4_SMAP)]
    for name, value in wanted:
        if not value:
            sample.add((processor.number, name), Check.PLACE, f"{name} is off", f"processor {processor.number}")


def _handlers(guest: Guest, processor: Processor, sample: Sample) -> None:
    """Every gate leads to one of the kernel's entries for exceptions and interrupts."""
    gates = np.frombuffer(guest.read(processor.idt, _VECTORS * _GATE.itemsize), _GATE)
    handlers = gates["low"] | gates["middle"].astype(np.uint64) << 16 | gates["high"].astype(np.uint64) << 32
    links = handlers - np.uint64(guest.slide)
    known = np.isin(links, guest.profile.entries)
    symbols, vectors = guest.profile.symbols, np.arange(_VECTORS, dtype=np.uint64)
    for start in ("irq_entries_start", "spurious_entries_start"):
        into = links - np.uint64(symbols[start])
        known |= (into < np.uint64((_VECTORS - _EXCEPTIONS) * _ENTRY_STRIDE)) & (into % np.uint64(_ENTRY_STRIDE) == 0)
    early = np.uint64(symbols["early_idt_handler_array"]) + vectors * np.uint64(_EARLY_STRIDE)
    known |= (links == early) & (vectors < np.uint64(_EXCEPTIONS))
    for vector in np.flatnonzero(~known).tolist():
        where = f"processor {processor.number}, vector {vector}"
        what = f"an interrupt gate leads to {guest.describe(int(handlers[vector]))}, which is no entry of the kernel"
        sample.add((processor.number, vector), Check.PLACE, what, where)
