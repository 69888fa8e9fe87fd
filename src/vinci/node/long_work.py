# SPDX-License-Identifier: GPL-2.0-or-later
"""Long work that a request asks for: the answer is JSON lines, progress as it goes on and one result last.

With `records=1` in the query the answer also holds each record that the audit takes meanwhile, whoever caused it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Awaitable, Callable

from aiohttp import web

from vinci.images.run import ImageError
from vinci.model.problems import DeclarationError
from vinci.node.audit import Audit
from vinci.node.authenticate import DeniedError
from vinci.node.channel import ChannelError
from vinci.node.reconcile import Progress, Report
from vinci.vmm.host import VmmError

_LOG = logging.getLogger(__name__)
Work = Callable[[Report], Awaitable[dict[str, object]]]


class LongWork:
    """The answer to one request."""

    def __init__(self, request: web.Request, audit: Audit) -> None:
        self._request = request
        self._audit = audit
        self._next_record = audit.next_id if request.query.get("records") == "1" else None
        self._response = web.StreamResponse(headers={"Content-Type": "application/x-ndjson"})
        self._queue: asyncio.Queue[dict[str, object] | None] = asyncio.Queue()

    def _put(self, message: dict[str, object]) -> None:
        self._queue.put_nowait(message)

    def _progress(self, progress: Progress) -> None:
        self._put({"progress": progress.step, "done": progress.done, "total": progress.total})

    async def run(self, work: Work) -> web.StreamResponse:
        """Send progress while `work` runs, its result last. The work goes on when the client goes away."""
        await self._response.prepare(self._request)
        task = asyncio.ensure_future(self._work(work))
        try:
            while (message := await self._queue.get()) is not None:
                await self._response.write(json.dumps(message).encode() + b"\n")
        except ConnectionError:
            await task
        with contextlib.suppress(ConnectionError):
            await self._response.write_eof()
        return self._response

    async def _work(self, work: Work) -> None:
        try:
            if self._next_record is None:
                self._put(await self._result(work))
            else:
                self._put(await self._with_records(work, self._next_record))
        finally:
            self._queue.put_nowait(None)

    async def _result(self, work: Work) -> dict[str, object]:
        try:
            return await work(self._progress)
        except DeclarationError as error:
            return {"refused": str(error)}
        except (ChannelError, OSError, DeniedError, ImageError, VmmError) as error:
            return {"failed": [str(error)], "changes": []}
        except Exception as error:
            _LOG.exception("a request to %s failed", self._request.path)
            return {"failed": [f"the agent failed at this request, see its log: {error!r}"], "changes": []}

    async def _with_records(self, work: Work, since: int) -> dict[str, object]:
        """The result, after all the records that the audit took before it."""

        def tell(line: str) -> None:
            nonlocal since
            record = json.loads(line)
            since = record["id"] + 1
            self._put({"record": record})

        async def follow() -> None:
            async for line in self._audit.follow(since):
                tell(line)

        following = asyncio.create_task(follow())
        try:
            result = await self._result(work)
        finally:
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
        with contextlib.suppress(OSError):  # the work is done, whether or not its last records can be read
            for line in self._audit.past(since):
                tell(line)
        return result
