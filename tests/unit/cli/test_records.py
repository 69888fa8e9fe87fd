# SPDX-License-Identifier: GPL-2.0-or-later
"""Why a record of the audit was a denial, on records as the agent writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from vinci.cli.decision import UnexplainedError
from vinci.cli.node_records import explained_so
from vinci.cli.records import explain_record, operation_of
from vinci.model.infrastructure import Operation
from vinci.model.load import Declaration, load
from vinci.node.audit import Event
from vinci.plan.bridge_filter import DropReason
from vinci.plan.compile import compile_plan

HOSPITAL = Path(__file__).parents[3] / "examples" / "hospital.yaml"


@pytest.fixture(scope="module")
def hospital() -> Declaration:
    return load(HOSPITAL)


def line_of(text: str) -> int:
    return next(number for number, line in enumerate(HOSPITAL.read_text().splitlines(), 1) if text in line)


def denied(share: str, permissions: str, subject: str, target: str, **more: object) -> dict[str, object]:
    return {
        **{"id": 7, "event": "file-denied", "server": "files", "vm": "nurses-1", "uid": 20003, "reason": "denied"},
        **{"share": share, "class": "file", "permissions": permissions, "subject": subject, "target": target},
        **more,
    }


SALLY = "sally_u:nurses_r:nurses_t:s1:c0,c1"
PRESCRIPTIONS = "vinci_u:object_r:prescriptions_share_t:s1:c0"


def lines(denial: Any) -> set[int]:
    return {ground.position.line for ground in denial.explanation.grounds if ground.position and ground.decides}


def test_a_denied_write_names_both_rules_and_the_line(hospital: Declaration) -> None:
    denial = explain_record(hospital, denied("prescriptions", "write", SALLY, PRESCRIPTIONS))
    assert denial.place == "SELinux on FS-VM files"
    assert "no `allow nurses_t prescriptions_share_t : file { write }`" in denial.rule
    assert "mlsconstrain file { write }`: s1:c0,c1 against s1:c0" in denial.rule
    assert not denial.explanation.allowed
    assert lines(denial) == {line_of("access: {doctors: [read, write], nurses: [read]}")}


def test_a_right_withheld_by_the_label_only(hospital: Declaration) -> None:
    subject, target = "anna_u:doctors_r:doctors_t:s1:c0", "vinci_u:object_r:billing_share_t:s2:c0,c2"
    denial = explain_record(hospital, denied("billing", "read", subject, target))
    assert denial.explanation.question == "doctors:anna read billing"
    assert "mlsconstrain" in denial.rule


def test_what_is_permitted_now_is_said_so(hospital: Declaration) -> None:
    denial = explain_record(hospital, denied("prescriptions", "read", SALLY, PRESCRIPTIONS))
    assert denial.explanation.allowed
    assert "in force then" in denial.rule


def test_file_modes_and_append_only(hospital: Declaration) -> None:
    homes = denied("homes-nurses", "", SALLY, "vinci_u:object_r:homes-nurses_share_t:s1:c0,c1", reason="file mode")
    denial = explain_record(hospital, homes)
    assert "Unix" in denial.rule
    assert not denial.explanation.allowed
    log = denied("log", "", SALLY, "vinci_u:object_r:log_share_t:s2:c0,c1,c2")
    denial = explain_record(hospital, {**log, "reason": "append-only: would change stored bytes"})
    assert "append-only" in denial.rule
    assert denial.explanation.change == "grant write on share log"


@pytest.mark.parametrize("reason", ["a session or client ID of another client", "share reservations are not served"])
def test_what_is_refused_to_everybody_is_no_question_of_who_is_logged_in(hospital: Declaration, reason: str) -> None:
    source = (HOSPITAL.parents[1] / "src/vinci/guest/kernel/event_lines.c").read_text()
    assert f'"{reason}"' in source, "as the FS-VM's module writes it"
    denial = explain_record(hospital, denied("", "", "", "", reason=reason))
    assert denial.place == "FS-VM files, nfsd (vinci_nfsd)"
    assert "logged in" not in str(denial.explanation)


def test_root_of_an_app_vm(hospital: Declaration) -> None:
    subject = "vinci_u:nurses_r:nurses_mount_t:s1:c0,c1"
    denial = explain_record(hospital, denied("prescriptions", "read", subject, PRESCRIPTIONS, uid=0))
    assert "nurses_mount_t" in denial.rule


@pytest.mark.parametrize(
    ("uid", "text"), [(20003, "sally there, who was not logged in"), (20001, "no user of nurses"), (0, "UID 0")]
)
def test_a_request_without_a_subject(hospital: Declaration, uid: int, text: str) -> None:
    plan = compile_plan(hospital.infrastructure)
    address = next(str(vm.nics[0].address) for vm in plan.nodes[0].vms if vm.name == "nurses-1")
    reason = "no grant for this address and UID"
    record = {"event": "file-denied", "server": "files", "address": address, "uid": uid, "reason": reason}
    denial = explain_record(hospital, record)
    assert "table of subjects" in denial.place
    assert text in denial.explanation.grounds[0].text
    stranger = explain_record(
        hospital, {**record, "address": "10.9.9.9", "reason": "no grant for this address and UID"}
    )
    assert "no APP-VM" in stranger.explanation.grounds[0].text


@pytest.mark.parametrize("reason", list(DropReason))
def test_every_reason_of_a_dropped_packet_is_explained(hospital: Declaration, reason: DropReason) -> None:
    plan = compile_plan(hospital.infrastructure)
    nic = next(vm.nics[0] for vm in plan.nodes[0].vms if vm.name == "doctors-1")
    record = {"event": "packet-dropped", "port": nic.tap, "reason": reason.value, "claimed_source": "10.1.1.1"}
    for target in (None, "10.20.2.10", "10.20.3.10", "10.20.1.77", "not an address", "8.8.8.8"):
        denial = explain_record(hospital, {**record, "claimed_target": target})
        assert denial.rule.startswith(reason.value)
        assert nic.tap in denial.place
        assert str(nic.address) in denial.explanation.grounds[0].text
        if reason is DropReason.NOT_A_PEER:
            assert any(ground.decides for ground in denial.explanation.grounds)


def test_a_flow_that_exists_is_named_where_a_packet_was_dropped_beside_it(hospital: Declaration) -> None:
    plan = compile_plan(hospital.infrastructure)
    vms = {vm.name: vm for vm in plan.nodes[0].vms}
    record = {
        **{"event": "packet-dropped", "port": vms["nurses-1"].nics[0].tap, "reason": "not-a-peer"},
        **{"claimed_target": str(vms["administration-1"].nics[0].address)},
    }
    denial = explain_record(hospital, record)
    assert "administration sends requests to https (tcp/443) of nurses" in denial.explanation.grounds[-1].text
    assert lines(denial) == {line_of("- from: administration")}


@pytest.mark.parametrize(
    ("user", "reason", "line"),
    [
        ("sally", "sally is not in community doctors", "communities: {nurses: {}}"),
        ("nobody", "no such user", "users:"),
        ("anna", "wrong password", "$lThGyg9zkkhLgYitJlW4gQ$"),
    ],
)
def test_denied_logins(hospital: Declaration, user: str, reason: str, line: str) -> None:
    denial = explain_record(hospital, {"event": "login-denied", "user": user, "reason": reason})
    assert denial.rule == reason
    assert lines(denial) == {line_of(line)}


def test_other_records(hospital: Declaration) -> None:
    with pytest.raises(UnexplainedError, match="no kind"):
        explain_record(hospital, {"id": 3, "event": "invented"})


@pytest.mark.parametrize(
    ("share", "subject", "what"),
    [
        ("gone", SALLY, 'unknown share "gone"'),
        ("log", SALLY.replace("nurses", "gone"), 'unknown community "gone"'),
        ("log", SALLY.replace("sally", "gone"), 'unknown user "gone"'),
    ],
)
def test_names_that_are_gone_are_told_without_a_line(
    hospital: Declaration, share: str, subject: str, what: str
) -> None:
    denial = explain_record(hospital, denied(share, "read", subject, f"vinci_u:object_r:{share}_share_t:s0"))
    assert not denial.explanation.allowed
    (only,) = denial.explanation.grounds
    assert (what in only.text, only.position) == (True, None)


@pytest.mark.parametrize(
    ("subject", "who"), [(SALLY, "nurses:sally"), ("vinci_u:nurses_r:nurses_mount_t:s1:c0,c1", "UID 0 of nurses")]
)
def test_srv_itself_is_no_share(hospital: Declaration, subject: str, who: str) -> None:
    record = denied("", "read", subject, "vinci_u:object_r:vinci_root_t:s0", **{"class": "dir"})
    del record["share"]
    denial = explain_record(hospital, record)
    assert denial.explanation.question == f"{who} uses what is no share of files (vinci_root_t)"
    assert "on nothing else of a file server" in denial.explanation.grounds[0].text
    assert "`vinci_root_t`" in denial.rule


@pytest.mark.parametrize(
    ("class_", "permissions", "operation"),
    [
        ("file", "read open", Operation.READ),
        ("file", "getattr", Operation.READ),
        ("file", "append", Operation.APPEND),
        ("file", "write append", Operation.WRITE),
        ("dir", "write add_name", Operation.APPEND),
        ("dir", "write remove_name", Operation.WRITE),
        ("dir", "write", Operation.APPEND),
        ("file", "read execute", Operation.EXECUTE),
    ],
)
def test_permissions_to_operations(class_: str, permissions: str, operation: Operation) -> None:
    assert operation_of({"class": class_, "permissions": permissions}) is operation


def test_logins_by_rules_name_the_rule_and_its_line() -> None:
    utility = load(HOSPITAL.with_name("utility.yaml"))
    lines_of = [utility.source.at(("login", number)).line for number in (0, 1)]
    record = {"event": "login", "user": "sally", "community": "software", "vm": "software-1", "login_rule": 2}
    entered = explain_record(utility, record)
    assert entered.allowed
    assert entered.explanation.allowed
    assert "rule 2 of `login`" in entered.rule
    assert lines_of[1] in lines(entered)
    assert "was asked for" in explain_record(utility, {**record, "login_rule": None}).rule


@pytest.mark.parametrize(("number", "told"), [(1, "another rule than then"), (9, "no rule 9 of `login` any more")])
def test_a_login_rule_that_is_another_now_is_told_so(number: int, told: str) -> None:
    utility = load(HOSPITAL.with_name("utility.yaml"))
    record = {"event": "login", "user": "sally", "community": "software", "vm": "software-1", "login_rule": number}
    assert told in explain_record(utility, record).explanation.grounds[-1].text


@pytest.mark.parametrize("event", sorted(explained_so()))
def test_what_the_node_did_is_explained_by_place_rule_and_line(hospital: Declaration, event: Event) -> None:
    record = {"id": 9, "event": event.value, "message": "it happened", "vm": "nurses-1", "user": "sally", "uid": 1001}
    decision = explain_record(hospital, record)
    assert decision.place.startswith("the A-VM")
    assert decision.rule.startswith(f"{event}: ")
    assert decision.explanation.grounds[0].text == "it happened"
    assert any(ground.decides for ground in decision.explanation.grounds)
    assert line_of("  nurses:") in {each.position.line for each in decision.explanation.grounds if each.position}


def test_every_event_of_the_audit_is_explained() -> None:
    requests = {Event.FILE_DENIED, Event.PACKET_DROPPED, Event.FLOW_DENIED, Event.REQUEST_DENIED}
    assert explained_so() | requests | {Event.LOGIN, Event.LOGIN_DENIED} == set(Event)


def test_a_finding_of_the_sweep_names_the_declared_response() -> None:
    utility = load(HOSPITAL.with_name("utility.yaml"))
    record = {
        **{"id": 5, "event": "vm-compromised", "vm": "scada-2", "response": "quarantine"},
        **{"message": "VM scada-2 is compromised: kernel text was changed (__x64_sys_kill); response: quarantine"},
    }
    decision = explain_record(utility, record)
    assert not decision.allowed
    assert "introspection" in decision.place
    assert "the declared response is quarantine" in decision.rule
    assert "__x64_sys_kill" in decision.explanation.grounds[0].text
    (deciding,) = lines(decision)
    assert deciding == utility.source.at(("communities", "scada", "response")).line
    assert "vinci release scada-2" in decision.explanation.change


@pytest.mark.parametrize("vm", ["files", "nurses-fw", "gone-1"])
def test_machines_of_all_kinds_are_found_in_the_file(hospital: Declaration, vm: str) -> None:
    decision = explain_record(hospital, {"id": 5, "event": "vm-quarantined", "vm": vm, "message": "m"})
    text = decision.explanation.grounds[1].text
    assert text in {"files is a file server", "nurses-fw is a VM of nurses", "gone-1 is not declared any more"}
