# SPDX-License-Identifier: GPL-2.0-or-later
"""What a client may say of its terminal's size, however broken."""

import asyncio
import json
import socket

from hypothesis import given
from hypothesis import strategies as st

from vinci.node.relay import MAX_COLUMNS, MAX_ROWS, _hung_up, _untrusted_size

_JSON = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=4))


def test_a_size_is_taken() -> None:
    assert _untrusted_size('{"resize": [80, 24]}') == (80, 24)


def test_a_deep_message_is_no_size() -> None:
    assert _untrusted_size("[" * 200_000) is None
    assert _untrusted_size('{"resize":' * 50_000) is None


@given(st.text() | _JSON.map(lambda value: json.dumps({"resize": value})))
def test_whatever_a_client_says_is_a_size_within_bounds_or_none(untrusted: str) -> None:
    size = _untrusted_size(untrusted)
    assert size is None or (0 < size[0] <= MAX_COLUMNS and 0 < size[1] <= MAX_ROWS)


def test_a_client_that_went_away_is_noticed_though_nobody_reads_from_it() -> None:
    async def notice() -> None:
        ours, client = socket.socketpair()
        with ours:
            with client:
                client.sendall(b"input that the guest does not take")
                waiting = asyncio.ensure_future(_hung_up(ours))
                await asyncio.sleep(0)
                assert not waiting.done()
            await asyncio.wait_for(waiting, 10)

    asyncio.run(notice())
