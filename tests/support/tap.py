"""A TCP proxy on loopback, in the test's own event loop, that can be cut and slowed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class Tap:
    """Leads from `port` to the port `there`. What is sent there arrives `delay_s` later."""

    def __init__(self, there: int) -> None:
        self.there = there
        self.port = 0
        self.delay_s = 0.0
        self._passes = asyncio.Event()
        self._passes.set()
        self._writers: list[asyncio.StreamWriter] = []
        self._handlers: list[asyncio.Task[None]] = []

    def cut(self) -> None:
        """Nothing comes through any more, and no connection ends: so it is when a network is gone."""
        self._passes.clear()

    def mend(self) -> None:
        """What was sent meanwhile arrives."""
        self._passes.set()

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        server = await asyncio.start_server(self._connected, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield
        finally:
            server.close()
            self.mend()
            for each in self._writers:
                each.close()
            await asyncio.gather(*self._handlers, return_exceptions=True)
            for each in self._writers:
                with suppress(OSError):
                    await each.wait_closed()
            await server.wait_closed()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        handler = asyncio.current_task()
        assert handler is not None
        self._handlers.append(handler)
        self._writers.append(writer)
        await self._passes.wait()
        try:
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.there)
        except OSError:
            writer.close()
            return
        self._writers.append(there_writer)
        async with asyncio.TaskGroup() as group:
            group.create_task(self._copy(reader, there_writer, slowly=True))
            group.create_task(self._copy(there_reader, writer, slowly=False))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slowly: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(65536):
                await asyncio.sleep(self.delay_s if slowly else 0.0)
                await self._passes.wait()
                writer.write(data)
                await writer.drain()
        writer.close()
