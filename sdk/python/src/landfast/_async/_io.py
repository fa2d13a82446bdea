"""What waits differently in tasks and in threads: the one module that is not generated."""

from __future__ import annotations

import asyncio
import contextlib
import json
import tempfile
import time
from collections.abc import Sequence
from typing import IO

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed
from websockets.protocol import State
from websockets.typing import Subprotocol

from .._conversation import (
    GOODBYE_SECONDS,
    SILENCE_SECONDS,
    SILENT,
    UNDERWAY_MAX,
    WAITING_MAX,
    WINDOW,
)

sleep = asyncio.sleep

run = asyncio.to_thread
"""Does something that blocks, where it holds nobody up."""

ERRORS_MAX = 4096
"""Bytes of a program's errors that are passed on."""


def new_lock() -> asyncio.Lock:
    """Makes a lock of tasks."""
    return asyncio.Lock()


class WebSocket:
    """A WebSocket, and how much of what was sent has arrived at its far end.

    It is read whether or not somebody takes what came, so a caller that stands still does not look like one that is
    gone; the agent sends no more than a window beyond what was taken. Nobody can tell by a ping whether the far end is
    there: its answer waits behind input that a process does not read. Whatever byte comes tells it.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._underway: list[tuple[asyncio.Future[float], int]] = []
        self._in_doubt = 0
        self._taken = 0
        self._heard = time.monotonic()
        self._waits_since: float | None = None
        self._watch = asyncio.create_task(self._watches())
        self.is_doubt_told = False
        """Whether the caller was told that input of this connection may be lost."""
        receive = connection.protocol.receive_data

        def hear(data: bytes | bytearray) -> None:
            self._heard = time.monotonic()
            receive(data)

        connection.protocol.receive_data = hear  # type: ignore[method-assign]

    @classmethod
    async def open(
        cls, url: str, *, subprotocols: Sequence[Subprotocol], headers: dict[str, str], timeout: float, max_size: int
    ) -> WebSocket:
        """Connects. Raises what `websockets` raises, and `OSError`."""
        return cls(
            await connect(
                url,
                subprotocols=subprotocols,
                additional_headers=headers,
                open_timeout=timeout,
                close_timeout=GOODBYE_SECONDS,
                ping_interval=None,
                max_size=max_size,
                max_queue=WAITING_MAX,
                compression=None,
                proxy=None,
            )
        )

    async def recv(self) -> str | bytes:
        """The next message."""
        self._waits_since = time.monotonic()
        try:
            return await self._connection.recv()
        finally:
            self._waits_since = None

    async def took(self, offset: int) -> None:
        """Everything before this offset was taken."""
        if abs(offset - self._taken) >= WINDOW // 4:
            self._taken = offset
            # Who reads on is told of an end.
            with contextlib.suppress(ConnectionClosed):
                await self._connection.send(json.dumps({"taken": offset}))

    async def send(self, message: str | bytes) -> None:
        """Sends a message, and a ping behind it: its answer says that the message has arrived.

        Returns once there is room for another one.
        """
        self._in_doubt += 1
        await self._connection.send(message)
        answer = asyncio.ensure_future(await self._connection.ping())
        self._underway = [*self._unanswered(), (answer, len(message))]
        self._in_doubt -= 1
        while self._is_full(underway := self._unanswered()):
            await asyncio.wait([underway[0][0]])

    def is_sending(self) -> bool:
        """Whether something was sent of which it is not known that it has arrived."""
        return self._in_doubt > 0 or bool(self._unanswered())

    async def close(self) -> None:
        """Closes it, however it is."""
        self._watch.cancel()
        with contextlib.suppress(Exception):
            await self._connection.close()

    def _is_full(self, underway: list[tuple[asyncio.Future[float], int]]) -> bool:
        return self._connection.state is State.OPEN and sum(size for _, size in underway) > UNDERWAY_MAX

    def _unanswered(self) -> list[tuple[asyncio.Future[float], int]]:
        return [one for one in self._underway if not _has_come(one[0])]

    async def _watches(self) -> None:
        """Ends a connection that brings nothing, which nobody would tell who only listens."""
        while self._connection.state is State.OPEN:
            await sleep(SILENCE_SECONDS / 4)
            since = self._waits_since
            is_silent = since is not None and time.monotonic() - max(since, self._heard) >= SILENCE_SECONDS
            if is_silent and not self.is_sending():
                await self._connection.close(*SILENT)


def _has_come(answer: asyncio.Future[float]) -> bool:
    return answer.done() and not answer.cancelled() and answer.exception() is None


class Program:
    """A program that runs beside us: its standard output is read, its errors are kept."""

    def __init__(self, process: asyncio.subprocess.Process, errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors

    @classmethod
    async def start(cls, arguments: Sequence[str], environment: dict[str, str]) -> Program:
        """Starts it. Raises `OSError`."""
        # A file, because nobody reads while the program runs, and a full pipe would hold it up.
        errors = tempfile.TemporaryFile()
        pipe = asyncio.subprocess.PIPE
        return cls(
            await asyncio.create_subprocess_exec(*arguments, env=environment, stdout=pipe, stderr=errors), errors
        )

    async def read_line(self, timeout: float) -> str:
        """Its next line; empty at its end, or if none comes within so many seconds."""
        assert self._process.stdout is not None
        try:
            return (await asyncio.wait_for(self._process.stdout.readline(), timeout)).decode(errors="replace")
        except asyncio.TimeoutError:
            return ""

    async def stop(self) -> str:
        """Ends it, and returns what it said of errors."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.communicate()
        with self._errors as errors:
            errors.seek(0)
            return errors.read(ERRORS_MAX).decode(errors="replace")
