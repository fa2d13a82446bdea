"""What waits differently in tasks and in threads: the one module that is not generated."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Sequence
from typing import IO, Any

from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

sleep = asyncio.sleep

run = asyncio.to_thread
"""Does something that blocks, where it holds nobody up."""

ERRORS_MAX = 4096
"""Bytes of a program's errors that are passed on."""


def new_lock() -> asyncio.Lock:
    """Makes a lock of tasks."""
    return asyncio.Lock()


class WebSocket:
    """A WebSocket, and how much of what was sent has arrived at its far end."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._unanswered: list[asyncio.Future[float]] = []
        self._in_doubt = 0
        self.is_doubt_told = False
        """Whether the caller was told that input of this connection may be lost."""

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
                max_size=max_size,
                compression=None,
                proxy=None,
            )
        )

    async def recv(self) -> str | bytes:
        """The next message."""
        return await self._connection.recv()

    async def send(self, message: str | bytes) -> None:
        """Sends a message, and a ping behind it: its answer says that the message has arrived."""
        self._in_doubt += 1
        await self._connection.send(message)
        answer: Any = await self._connection.ping()
        self._unanswered = [*(waiting for waiting in self._unanswered if not _has_come(waiting)), answer]
        self._in_doubt -= 1

    def is_sending(self) -> bool:
        """Whether something was sent of which it is not known that it has arrived."""
        return self._in_doubt > 0 or any(not _has_come(waiting) for waiting in self._unanswered)

    async def close(self) -> None:
        """Closes it, however it is."""
        with contextlib.suppress(Exception):
            await self._connection.close()


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
