# SPDX-License-Identifier: GPL-2.0-or-later
"""What the VMM's side takes from outside: directories in /dev/shm, an answer remembered in a file, a guest's reboot."""

import os
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from vinci.model.load import parse
from vinci.plan.compile import compile_plan
from vinci.vmm.accelerator import known_tsc_khz, remembered
from vinci.vmm.domain import Accelerator, BootFiles, domain_xml
from vinci.vmm.host import VmmError, own_directory

EXAMPLE = Path(__file__).parents[3] / "examples" / "hospital.yaml"
OWN = {os.getuid()}


def test_an_own_directory_is_made_and_taken_again(tmp_path: Path) -> None:
    own_directory(tmp_path / "ram", OWN)
    own_directory(tmp_path / "ram", OWN)
    assert (tmp_path / "ram").is_dir()


def test_a_link_in_its_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "ram").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(VmmError):
        own_directory(tmp_path / "ram", OWN)


def test_a_directory_of_another_or_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "open").mkdir()
    (tmp_path / "open").chmod(0o777)
    with pytest.raises(VmmError):
        own_directory(tmp_path / "open", OWN)
    (tmp_path / "theirs").mkdir(mode=0o755)
    with pytest.raises(VmmError):
        own_directory(tmp_path / "theirs", {os.getuid() + 1})


@pytest.mark.parametrize("left", ["", "kv", "x" * 100])
def test_what_a_crash_left_of_an_answer_is_none(tmp_path: Path, left: str) -> None:
    (tmp_path / "accelerator").write_text(left)
    assert remembered(tmp_path / "accelerator") is None
    assert remembered(tmp_path / "nothing") is None


def test_an_answer_is_remembered(tmp_path: Path) -> None:
    (tmp_path / "accelerator").write_text(Accelerator.TCG.value)
    assert remembered(tmp_path / "accelerator") is Accelerator.TCG


def test_a_guest_that_restarts_itself_never_boots_with_the_rules_of_its_first_start(tmp_path: Path) -> None:
    plan = compile_plan(parse(EXAMPLE.read_bytes(), str(EXAMPLE)).infrastructure)
    files = BootFiles(tmp_path, tmp_path, tmp_path, "digest", None, (), tmp_path, tmp_path, 20001)
    for vm in plan.nodes[0].vms:
        domain = ET.fromstring(domain_xml("hospital", vm, files, Accelerator.TCG))
        assert domain.findtext("on_reboot") == "destroy"
        assert domain.findtext("on_crash") == "destroy"


CPUINFO = """processor	: 0
cpu MHz		: {megahertz}
flags		: fpu tsc {flags}

processor	: 1
cpu MHz		: 9999.999
flags		: fpu
"""


@pytest.mark.parametrize(
    ("megahertz", "flags", "khz"),
    [
        ("2596.122", "hypervisor constant_tsc tsc_known_freq", 2_596_122),
        ("800.000", "hypervisor constant_tsc tsc_known_freq", 800_000),
        ("2596.122", "constant_tsc tsc_known_freq", None),  # it may be the frequency of now
        ("2596.122", "hypervisor constant_tsc tsc_known_freq aperfmperf", None),
        ("314.080", "hypervisor constant_tsc", None),  # found out by the kernel itself
        ("2596.122", "hypervisor tsc_known_freq", None),
        ("unknown", "hypervisor constant_tsc tsc_known_freq", None),
    ],
)
def test_the_counters_frequency_is_known_where_a_hypervisor_tells_it(
    megahertz: str, flags: str, khz: int | None
) -> None:
    assert known_tsc_khz(CPUINFO.format(megahertz=megahertz, flags=flags)) == khz
    assert known_tsc_khz("") is None


def test_an_emulated_kernel_is_told_the_counters_frequency(tmp_path: Path) -> None:
    vm = compile_plan(parse(EXAMPLE.read_bytes(), str(EXAMPLE)).infrastructure).nodes[0].vms[0]
    files = BootFiles(tmp_path, tmp_path, tmp_path, "digest", None, (), tmp_path, tmp_path, 20001, tsc_khz=2_596_122)
    told = {}
    for accelerator in Accelerator:
        words = ET.fromstring(domain_xml("hospital", vm, files, accelerator)).findtext("os/cmdline")
        assert words is not None
        told[accelerator] = {word for word in words.split() if word.startswith("tsc")}
    assert told == {Accelerator.KVM: set(), Accelerator.TCG: {"tsc=reliable", "tsc_early_khz=2596122"}}


def test_qemu_runs_as_its_vms_own_user(tmp_path: Path) -> None:
    vm = compile_plan(parse(EXAMPLE.read_bytes(), str(EXAMPLE)).infrastructure).nodes[0].vms[0]
    for kvm_group, group in ((None, 20001), (107, 107)):
        files = BootFiles(tmp_path, tmp_path, tmp_path, "digest", None, (), tmp_path, tmp_path, 20001, kvm_group)
        labels = {
            accelerator: ET.fromstring(domain_xml("hospital", vm, files, accelerator)).findtext("seclabel/label")
            for accelerator in Accelerator
        }
        assert labels == {Accelerator.TCG: "+20001:+20001", Accelerator.KVM: f"+20001:+{group}"}
