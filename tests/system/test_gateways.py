# SPDX-License-Identifier: GPL-2.0-or-later
"""The utility company of the examples, running: inspected flows, a diode, and root in VMs that tries to get past."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import gateway_attacks as attack
import pytest
from installation import ROOT, Installation, installed
from modbus_rig import ANSWER, SHAPES, WRITE, Plant, frame, read

GATEWAY = 20_000
FIREWALL = "scada-fw"


@pytest.fixture(scope="module")
def utility() -> Iterator[Installation]:
    with installed(ROOT / "examples" / "utility.yaml") as made:
        made.up()
        yield made


@pytest.fixture(scope="module")
def plant(utility: Installation) -> Plant:
    made = Plant(utility, "scada-2", "database-1")
    made.set_up()
    wait_for_gateway(utility)
    return made


def wait_for_gateway(installation: Installation, firewall: str = FIREWALL, number: int = GATEWAY) -> None:
    """A gateway needs some seconds to start; init keeps it running."""
    listens = f"grep -q ':{number:04X} 00000000:0000 0A' /proc/net/tcp"  # 0A: it listens, no old connection's end
    done = installation.root(firewall, f"for i in $(seq 240); do {listens} && exit; sleep 0.25; done; exit 1")
    assert done.status == 0, done


def test_verify_measures_what_is_declared(utility: Installation) -> None:
    done = utility.vinci("verify", seconds=600)
    told = [record["message"] for record in utility.audit() if record["event"] == "vm-compromised"]
    assert done.status == 0, "\n".join([done.out, *told])


def test_declared_reads_pass(plant: Plant) -> None:
    calls = ["read_holding_registers(5, count=3, device_id=1)", "read_input_registers(1000, count=2, device_id=2)"]
    assert plant.ask(calls) == [[5, 6, 7], [1000, 1001]]
    assert plant.reached()[-2:] == ["unit 1 function 3 address 5", "unit 2 function 4 address 1000"]


def test_no_other_request_reaches_the_device(plant: Plant) -> None:
    before = plant.reached()
    since = plant.installation.next_audit()
    refused = {
        "write_register(5, 99, device_id=1)": 1,
        "write_coil(5, True, device_id=1)": 1,
        "write_registers(5, [1, 2], device_id=1)": 1,
        "write_coils(5, [True] * 9, device_id=1)": 1,
        "mask_write_register(address=5, and_mask=0, or_mask=1, device_id=1)": 1,
        "readwrite_registers(read_address=5, read_count=1, write_address=5, values=[1], device_id=1)": 1,
        "read_coils(5, count=1, device_id=1)": 1,
        "diag_query_data(b'ab', device_id=1)": 1,
        "diag_restart_communication(True, device_id=1)": 1,
        "report_device_id(device_id=1)": 1,
        "read_device_information(device_id=1)": 1,
        "read_holding_registers(100, count=1, device_id=1)": 2,
        "read_holding_registers(99, count=2, device_id=1)": 2,
        "read_holding_registers(5, count=1, device_id=3)": 10,
    }
    assert plant.ask(list(refused)) == [{"exception": code} for code in refused.values()]
    assert plant.reached() == before
    record = plant.installation.wait_for_audit(since, lambda r: r["event"] == "request-denied")
    assert (record["vm"], record["firewall"], record["reason"]) == ("database-1", FIREWALL, "operation-not-declared")
    assert (record["flow"], record["request"]) == ("database -> scada", "unit 1 function 6 address 5 quantity 99")
    assert "gateway: modbus" in "".join(plant.installation.file.read_text().splitlines()[record["line"] - 2 :][:3])
    told = plant.installation.check("explain", "--event", str(record["id"]))
    assert "read-holding-registers" in told


def test_root_with_a_socket_gets_nothing_else_through(plant: Plant) -> None:
    before = plant.reached()
    since = plant.installation.next_audit()
    found = plant.send([pieces for pieces, _answer, _reason in SHAPES.values()])
    assert dict(zip(SHAPES, found, strict=True)) == {name: answer for name, (_, answer, _) in SHAPES.items()}
    assert plant.reached()[len(before) :] == ["unit 1 function 3 address 5"] * 3
    for reason in {reason for _, _, reason in SHAPES.values() if reason}:
        record = plant.installation.wait_for_audit(since, lambda r, why=reason: r.get("reason") == why)
        assert record["event"] == "request-denied"


def test_fragments_of_ip_hide_nothing(plant: Plant) -> None:
    before = plant.reached()
    assert plant.run(attack.FRAGMENTS, plant.address, read().hex()).strip() == ANSWER
    assert plant.run(attack.FRAGMENTS, plant.address, WRITE.hex()).strip() == frame(b"\x86\x01").hex()
    assert plant.reached()[len(before) :] == ["unit 1 function 3 address 5"]


def test_errors_of_icmp_about_a_connection_do_not_reach_the_device(plant: Plant) -> None:
    """About the client's connection with the gateway, and about the gateway's with the device."""
    utility = plant.installation
    plant.hold(read())
    ends = [plant.ends_at(vm) for vm in (plant.client, FIREWALL)]
    assert all(ends)
    before, since = plant.messages_of_icmp(), utility.next_audit()
    assert plant.run(attack.ICMP_ERRORS, plant.address, *ends[0], *ends[1]).strip() == "sent"
    for expected in ((FIREWALL, "to-firewall", "ICMP", "database-1"), ("database-fw", "invalid", "ICMP", "database-1")):
        utility.wait_for_audit(
            since, lambda r, e=expected: tuple(r.get(k) for k in ("firewall", "reason", "protocol", "vm")) == e
        )
    assert plant.messages_of_icmp() == before
    assert plant.held() == [ANSWER, ANSWER]
    assert utility.root("scada-1", f"ping -c 1 {plant.address}").status == 0
    assert plant.messages_of_icmp() == before + 1


def test_connections_are_not_mixed_up(plant: Plant) -> None:
    before = plant.reached()
    found = plant.run(attack.INTERLEAVED, plant.address, read(5).hex(), read(6).hex(), WRITE.hex()).split()
    assert found == [frame(b"\x03\x02\x00\x06").hex(), ANSWER, "closed", "closed"]
    assert sorted(plant.reached()[len(before) :]) == [f"unit 1 function 3 address {address}" for address in (5, 6)]


def test_no_way_leads_around_the_gateway(plant: Plant) -> None:
    before = plant.reached()
    inner, outer = (plant.installation.address(FIREWALL, index) for index in (0, 1))
    refused = frame(b"\x86\x01").hex()
    ways = {
        f"{plant.address}:502:502": refused,  # from the service's own port
        f"{plant.address}:502:{GATEWAY}": refused,
        f"{plant.address}:503:0": "nothing",
        f"{plant.address}:{GATEWAY}:0": "nothing",
        f"{outer}:{GATEWAY}:0": "nothing",
        f"{outer}:502:0": "nothing",
        f"{inner}:{GATEWAY}:0": "nothing",
        f"{inner}:502:0": "nothing",
    }
    found = plant.run(attack.DIRECT, *ways).split()
    assert dict(zip(ways, found, strict=True)) == ways
    assert plant.reached() == before


def test_the_field_devices_are_the_plants_own(plant: Plant) -> None:
    utility, before = plant.installation, plant.reached()
    since = utility.next_audit()
    ways = [f"{plant.address}:502:0", f"{plant.address}:22:0", f"{utility.address('scada-1')}:502:0"]
    asked = utility.vinci("exec", "software-1", "--", "python3", "-", *ways, stdin=attack.DIRECT)
    assert asked.out.split() == ["nothing"] * 3, asked
    assert plant.reached() == before
    record = utility.wait_for_audit(since, lambda r: r["event"] == "packet-dropped" and r["vm"] == "software-1")
    told = utility.check("explain", "--event", str(record["id"]))
    assert "software has the label office {tools}" in told
    assert "scada has the label control {tools, process}" in told
    # The operators' desk may write.
    desk = Plant(utility, plant.device, "scada-1")
    assert desk.send([[WRITE], [frame(struct.pack(">BHH", 6, 5, 5))]])[0] == WRITE.hex()


def test_ten_thousand_connections_cost_the_gateway_little(plant: Plant) -> None:
    def gateway() -> dict[str, str]:
        status = plant.installation.root(FIREWALL, f"cat /proc/$(cat /run/vinci/gateways/{GATEWAY}.pid)/status").out
        return dict(line.split(":\t", 1) for line in status.splitlines())

    since = plant.installation.next_audit()
    before = gateway()
    plant.run(attack.MANY, plant.address, "10000")
    after = gateway()
    assert after["Pid"] == before["Pid"]
    assert int(after["Threads"]) <= 33
    assert int(after["VmRSS"].split()[0]) < 32_768
    plant.installation.wait_for_audit(since, lambda r: r.get("reason") == "too-many-connections")
    again = f"{read().hex()}"
    for _attempt in range(60):  # until the last half-open connection has timed out
        if plant.send([[bytes.fromhex(again)]]) == [ANSWER]:
            return
    raise AssertionError("nobody is served any more")


def test_a_gateway_that_ends_closes_its_flow_until_init_starts_it_again(plant: Plant) -> None:
    settings = f"/run/vinci/gateways/{GATEWAY}"
    before = plant.reached()
    # Without its settings a gateway ends as soon as it starts.
    plant.installation.root(FIREWALL, f"mv {settings} /run/aside; kill -KILL $(cat {settings}.pid)")
    assert plant.send([[read()]]) == ["closed"]
    assert plant.reached() == before
    plant.installation.root(FIREWALL, f"mv /run/aside {settings}")
    wait_for_gateway(plant.installation)
    assert plant.send([[read()]]) == [ANSWER]


def test_a_gateway_has_no_rights(plant: Plant) -> None:
    script = f"cat /proc/$(cat /run/vinci/gateways/{GATEWAY}.pid)/status"
    status = dict(line.split(":\t", 1) for line in plant.installation.root(FIREWALL, script).out.splitlines())
    assert status["Uid"].split() == [str(GATEWAY)] * 4
    assert {status[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")} == {"0" * 16}
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")


def test_whoever_has_taken_a_gateway_reaches_its_targets_and_nobody_else(plant: Plant) -> None:
    files, client = plant.installation.address("files", 1), plant.installation.address("database-1")
    targets = [f"{plant.address}:502", f"{plant.address}:22", f"{files}:2049", f"{client}:502", f"{client}:5140"]
    for user, reached in ((GATEWAY, ["yes", *["no"] * 4]), (0, ["no"] * 5), (GATEWAY + 1, ["no"] * 5)):
        words = ("setpriv", f"--reuid={user}", "--clear-groups", "/usr/bin/python3", "-I", "-S", "-", *targets)
        found = plant.installation.vinci("exec", FIREWALL, "--", *words, stdin=attack.CONNECTS)
        assert found.out.split() == reached, (user, found)


AS_GATEWAY = (
    *("setpriv", f"--reuid={GATEWAY}", f"--regid={GATEWAY}", "--clear-groups", "--no-new-privs"),
    *("--bounding-set=-all", "--inh-caps=-all"),
)


def test_a_captive_gateway_can_call_nothing(plant: Plant) -> None:
    command = (*AS_GATEWAY, "/usr/bin/python3", "-I", "-S", "-")
    done = plant.installation.vinci("exec", FIREWALL, "--", *command, stdin=attack.CAPTIVE)
    lines = [line.split(":") for line in done.out.splitlines()]
    assert {verdict for place, verdict, _ in lines if place == "free"} == {"done"}, done
    assert {verdict for place, verdict, _ in lines if place == "confined"} == {"killed"}, done
    assert len(lines) == 22


def test_a_shell_as_a_gateways_user_can_do_nothing(plant: Plant) -> None:
    done = plant.installation.vinci("exec", FIREWALL, "--", *AS_GATEWAY, "sh", "-s", stdin=attack.SHELL)
    assert done.out.split() == ["end"], done
    assert plant.send([[read()]]) == [ANSWER]


# -- a change of the file ----------------------------------------------------------------------------------------------

ANOTHER = """
  - from: software
    to: scada
    service: http
    inspection: {gateway: http, methods: [GET], paths: [/state], rate: 5, max_body_bytes: 0}
    upward: true
    trusted: true
    reason: another gateway before the one there was, which gets another number
"""


def test_a_gateway_that_changes_lets_nothing_old_through(plant: Plant, tmp_path: Path) -> None:
    utility = plant.installation
    fifty = frame(b"\x03\x02\x00\x32").hex()
    assert plant.send([[read(50)]]) == [fifty]
    plant.hold(read())
    text = utility.file.read_text().partition("\nexpect:")[0].replace("[0-99, 1000-1049]", "[0-9]")
    changed = tmp_path / "changed.yaml"
    changed.write_text(text.replace("\nflows:", f"\nflows:{ANOTHER}", 1) + "\n")
    try:
        utility.check("up", "--yes", str(changed))
        wait_for_gateway(utility, number=GATEWAY + 1)
        since = utility.next_audit()
        assert plant.send([[read(5)], [read(50)]]) == [ANSWER, frame(b"\x83\x02").hex()]
        record = utility.wait_for_audit(since, lambda r: r.get("reason") == "place-not-declared")
        assert "gateway: modbus" in "".join(changed.read_text().splitlines()[record["line"] - 2 :][:3])
        assert plant.held() == [ANSWER, "closed"]
        changed.write_text(changed.read_text().replace("rate: 20", "rate: 1"))
        utility.check("up", "--yes", str(changed))
        wait_for_gateway(utility, number=GATEWAY + 1)
        busy = frame(b"\x83\x06").hex()
        assert busy in plant.send([[read(5), b""] * 10])[0], "more than declared a second"
    finally:
        utility.check("up", "--yes", str(utility.file))
        wait_for_gateway(utility)
    assert plant.send([[read(50)]]) == [fifty]


# -- the diode ---------------------------------------------------------------------------------------------------------


def test_nothing_comes_back_through_the_diode(utility: Installation) -> None:
    """Root on both sides; with a listener, whose answers come back nowhere, and without, whose kernel would object."""
    address = utility.address("database-1")
    for listening in (True, False):
        since = utility.next_audit()
        if listening:
            listens = "for i in $(seq 240); do ss -uln | grep -q ':5140 ' && exit; sleep 0.25; done; exit 1"
            start = f"cat >/run/listen.py; (nohup python3 /run/listen.py >/run/listened 2>&1 </dev/null &); {listens}"
            script = attack.LISTEN.replace("OWN", repr(address))
            assert utility.vinci("exec", "database-1", "--", "sh", "-c", start, stdin=script).status == 0
        done = utility.vinci("exec", "scada-1", "--", "python3", "-", address, "4", stdin=attack.ALARM)
        assert done.out.strip() == "silence", done
        if listening:
            heard = utility.root("database-1", "cat /run/listened").out.split()
            assert heard == ["alarm", utility.address("scada-1"), "tried"]
        for protocol in ("UDP", "ICMP", "TCP") if listening else ("ICMP",):
            utility.wait_for_audit(
                since, lambda r, p=protocol: (r.get("firewall"), r.get("protocol")) == ("database-fw", p)
            )


def test_a_flood_from_one_vm_hides_no_record_of_another(utility: Installation) -> None:
    address, since = utility.address("database-1"), utility.next_audit()
    flood = (
        f"cat >/run/flood.py; (nohup timeout 300 python3 /run/flood.py {address} 9 1000000 >/dev/null 2>&1 </dev/null"
        " & echo $! >/run/flood.pid); sleep 3"
    )
    assert utility.vinci("exec", "scada-2", "--", "sh", "-c", flood, stdin=attack.FLOOD).status == 0
    assert (
        utility.vinci("exec", "scada-1", "--", "python3", "-", address, "10", "1", stdin=attack.FLOOD).out == "sent\n"
    )
    assert utility.root("scada-2", "kill $(cat /run/flood.pid)").status == 0, "the flood was over too early"
    for vm, port in (("scada-2", 9), ("scada-1", 10)):
        expected = ("scada-fw", "not-declared", vm, str(port))
        utility.wait_for_audit(
            since, lambda r, e=expected: tuple(str(r.get(k)) for k in ("firewall", "reason", "vm", "target_port")) == e
        )


# -- the second gateway ------------------------------------------------------------------------------------------------

SITE = "mkdir -p /run/site/tools && cd /run/site && echo new >news && echo bits >tools/drill && echo no >secret"


def test_http_passes_by_method_and_path(utility: Installation) -> None:
    listens = "for i in $(seq 240); do ss -tln | grep -q ':80 ' && exit; sleep 0.25; done; exit 1"
    serve = f"{SITE} && (nohup python3 -m http.server 80 >/run/http.log 2>&1 </dev/null &); {listens}"
    assert utility.root("software-1", serve).status == 0
    wait_for_gateway(utility, "software-fw")
    server = utility.address("software-1")
    since = utility.next_audit()
    cases = {
        f"http://{server}/news": "200 new",
        f"http://{server}/tools/drill": "200 bits",
        f"-I http://{server}/news": "200",
        f"http://{server}/secret": "403",
        f"http://{server}/": "403",
        f"--path-as-is http://{server}/tools/../secret": "400",
        f"--path-as-is http://{server}/tools/%2e%2e/secret": "400",
        f"--path-as-is http://{server}//news": "400",
        f"http://{server}/news?leak=1": "400",
        f"-X PUT -d x http://{server}/news": "405",
        f"-H 'Transfer-Encoding: chunked' -d x http://{server}/news": "400",
        f"-X GET -d x http://{server}/news": "400",
    }
    ask = "rm -f /run/body; curl -s --max-time 20 -o /run/body -w '%{http_code} '"
    tell = "head -c 20 /run/body 2>/dev/null | tr '\\r\\n' '  '; echo"
    found = utility.root("scada-1", "; ".join(f"{ask} {words}; {tell}" for words in cases)).out.splitlines()
    for (words, expected), answer in zip(cases.items(), found, strict=True):
        assert answer.startswith(expected), (words, answer)
    log = utility.root("software-1", "cat /run/http.log").out
    assert "secret" not in log
    assert "PUT" not in log
    record = utility.wait_for_audit(since, lambda r: r["event"] == "request-denied")
    assert (record["firewall"], record["flow"]) == ("software-fw", "scada -> software")


# -- Sally -------------------------------------------------------------------------------------------------------------


def declare_hours(utility: Installation, file: Path, scada: str, software: str) -> None:
    file.write_text(utility.file.read_text().replace("06:00-14:00", scada).replace("14:00-18:00", software))
    utility.check("up", "--yes", str(file))


def test_where_and_when_sally_logs_in_decides_who_she_is(utility: Installation, tmp_path: Path) -> None:
    now = datetime.now().astimezone()
    here, elsewhere = (
        # Each has an hour to go at least, or to come: the test may begin a second before the hour is full.
        f"{now + timedelta(hours=start):%H}:00-{now + timedelta(hours=start + 3):%H}:00"
        for start in (-1, 3)
    )
    script = 'id -u; stat -f -c %T ~; cat ~/note 2>/dev/null || echo empty; echo "$(id -u)" >~/note'
    seen = []
    for number, (scada, software) in enumerate(((here, elsewhere), (elsewhere, here)), 1):
        declare_hours(utility, tmp_path / "hours.yaml", scada, software)
        since = utility.next_audit()
        seen.append(utility.login("sally", script).out.split())
        record = utility.wait_for_audit(since, lambda r: r["event"] == "login")
        assert f"rule {number} of `login`" in utility.check("explain", "--event", str(record["id"]))
    declare_hours(utility, tmp_path / "hours.yaml", elsewhere, elsewhere)
    neither = utility.login("sally", script)
    assert (neither.out, "no login rule fits" in neither.err) == ("", True), neither
    utility.check("up", "--yes", str(utility.file))
    # Her UID is the one that she has there, and each community's home is on the file server.
    assert seen == [["21001", "nfs", "empty"], ["1001", "nfs", "empty"]]


# -- the share of tools ------------------------------------------------------------------------------------------------


def test_the_plant_runs_the_tools_and_cannot_change_them(utility: Installation) -> None:
    tool = "/shares/tools/measure"
    made = utility.login("sven", f"printf '#!/bin/sh\\necho measured\\n' >{tool} && chmod 755 {tool}")
    assert made.status == 0, made
    used = utility.login("oskar", f"{tool}; echo more >>{tool} || echo refused; rm -f {tool} || echo kept; {tool}")
    assert used.out.split() == ["measured", "refused", "kept", "measured"], used
