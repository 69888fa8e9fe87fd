# SPDX-License-Identifier: GPL-2.0-or-later
"""Coverage-guided fuzzing of the Modbus gateway's judgement: no crash, and no write let through.

    .venv/bin/python bench/fuzz_modbus.py [MESSAGES]        a million, unless told otherwise

Each message is judged as a request, and as the answer to a request that passed. Whatever passes as a request is read
by pymodbus a second time (tests/unit/gateway/oracle.py): it has to be one reading request within what is declared.
"""

from __future__ import annotations

import os
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path

import atheris

sys.path.insert(0, str(Path(__file__).parents[1] / "tests/unit/gateway"))
with atheris.instrument_imports(include=["vinci.guest.gateway"]):
    from vinci.guest.gateway.modbus import FUNCTIONS, MOST_BYTES, ModbusGateway
    from vinci.guest.gateway.protocol import BadAnswerError, Refuse
from oracle import Declared, fault
from verdicts import passes

MESSAGES = 1_000_000
DECLARED = Declared(frozenset((3, 4)), frozenset((1, 2)), frozenset((*range(100), *range(1000, 1050))))
GATEWAY = ModbusGateway(DECLARED.functions, ((1, 2),), ((0, 99), (1000, 1049)))
ASKED = GATEWAY.request(bytes.fromhex("000700000006010300050003"))
ANSWER = bytes.fromhex("000700000009010306000500060007")
HEAD_BYTES = 6
LIMIT = MOST_BYTES + 40


class WrongError(Exception):
    """The gateway let something through that it should not have."""


class Tally:
    """How many messages were judged, and how."""

    def __init__(self, messages: int) -> None:
        self.messages, self.judged = messages, 0
        self.verdicts: Counter[str] = Counter()

    def judge(self, untrusted: bytes) -> None:
        """One message, both ways."""
        untrusted = bytes(untrusted)
        verdict = GATEWAY.request(untrusted)
        if untrusted[GATEWAY.varies :] in GATEWAY.known and not (passes(verdict) and verdict[0] == untrusted):
            raise WrongError(f"{untrusted.hex()} would pass as it came: {verdict}")
        if passes(verdict):
            self.verdicts["passed"] += 1
            if why := fault(verdict[0], DECLARED):
                raise WrongError(f"{untrusted.hex()} passed: {why}")
        elif isinstance(verdict, Refuse):
            self.verdicts[verdict.reason] += 1
            if verdict.close == bool(verdict.answer) or not verdict.what.isprintable():
                raise WrongError(f"{untrusted.hex()} refused oddly: {verdict}")
        else:
            raise WrongError(f"{untrusted.hex()}: the gateway waits for more")
        self._answer(untrusted)
        self.judged += 1
        if self.judged == self.messages:
            self.tell()

    def _answer(self, untrusted: bytes) -> None:
        assert passes(ASKED)
        try:
            delivery = GATEWAY.answer(ASKED[1], untrusted, False)
        except BadAnswerError:
            return
        if delivery.deliver:
            self.verdicts["passed as answers"] += 1
            exception = untrusted.startswith(ANSWER[:4] + b"\x00\x03\x01\x83") and len(untrusted) == 9
            if not exception and (len(untrusted), untrusted[:9]) != (len(ANSWER), ANSWER[:9]):
                raise WrongError(f"{untrusted.hex()} passed as an answer")

    def tell(self) -> None:
        """Print the figures."""
        print(f"{self.judged} messages, no crash, no write let through", flush=True)
        for verdict, number in self.verdicts.most_common():
            print(f"  {number:>9}  {verdict}", flush=True)


def mutate(data: bytes, max_size: int, seed: int) -> bytes:
    """libFuzzer's own mutation; the header of two thirds of the messages is made to fit them, so that more is read."""
    mutated = bytes(atheris.Mutate(data, max_size))
    if len(mutated) < HEAD_BYTES or random.Random(seed).random() < 1 / 3:
        return mutated
    return mutated[:2] + b"\x00\x00" + (len(mutated) - HEAD_BYTES).to_bytes(2, "big") + mutated[HEAD_BYTES:]


def seeds(folder: Path) -> None:
    """A message of each function, for the mutations to begin with."""
    pdus = [bytes((function, 0, 5, 0, 1)) for function in FUNCTIONS]
    pdus += [bytes.fromhex(each) for each in ("1000050001020063", "170005000100050001020063", "0800006162")]
    for number, pdu in enumerate(pdus):
        message = b"\x00\x07\x00\x00" + (len(pdu) + 1).to_bytes(2, "big") + b"\x01" + pdu
        (folder / str(number)).write_bytes(message)
    (folder / "answer").write_bytes(ANSWER)


def fuzz(messages: int, folder: Path) -> None:
    """Fuzz from this process on, which libFuzzer ends: with an error at the first fault."""
    seeds(folder)
    tally = Tally(messages)
    options = [f"-runs={messages}", f"-max_len={LIMIT}", "-verbosity=0", f"-artifact_prefix={folder}/", "-seed=1"]
    atheris.Setup([sys.argv[0], *options, str(folder)], tally.judge, custom_mutator=mutate)
    atheris.Fuzz()


def main() -> int:
    """Fuzz in a process of its own, and leave nothing; its exit status."""
    messages = int(sys.argv[1]) if len(sys.argv) > 1 else MESSAGES
    with tempfile.TemporaryDirectory(prefix="vinci-fuzz-") as folder:
        if not (child := os.fork()):
            fuzz(messages, Path(folder))
            os._exit(0)
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


if __name__ == "__main__":
    sys.exit(main())
