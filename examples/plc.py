# SPDX-License-Identifier: GPL-2.0-or-later
"""A field device that speaks Modbus/TCP, simulated by pymodbus.

It is units 1 and 2, each with the registers 0 to 1999 that hold their own number. It prints a line for each request
that reaches it, so that one can see what a gateway has let through:

    python3 plc.py [PORT]
"""

import sys

from pymodbus.pdu import ModbusPDU
from pymodbus.server import StartTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

REGISTERS = 2000


def tell(sending: bool, pdu: ModbusPDU) -> ModbusPDU:
    """Print a request: unit, function, address."""
    if not sending:
        print(f"unit {pdu.dev_id} function {pdu.function_code} address {pdu.address}", flush=True)
    return pdu


def main() -> None:
    """Serve for ever."""
    port = int(sys.argv[1]) if len(sys.argv) > 1 else 502
    registers = SimData(0, values=list(range(REGISTERS)), datatype=DataType.REGISTERS)
    devices = [SimDevice(unit, simdata=[registers]) for unit in (1, 2)]
    print("ready", flush=True)
    StartTcpServer(devices, address=("0.0.0.0", port), trace_pdu=tell)


if __name__ == "__main__":
    main()
