"""What waits differently in tasks and in threads: the one module that is not generated."""

from __future__ import annotations

import contextlib
import inspect
import selectors
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, Any, TypeVar

from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

sleep = time.sleep


def run(function: Callable[..., T], *arguments: Any) -> T:
    """Does something that blocks, where it holds nobody up."""
    return function(*arguments)


T = TypeVar("T")

ERRORS_MAX = 4096
"""Bytes of a program's errors that are passed on."""

CONNECTS_AT_ONCE: dict[str, Any] = {"legacy": True} if "legacy" in inspect.signature(connect).parameters else {}
"""Newer releases of `websockets` ask whether `connect` is to return a connection, as it always did."""


def new_lock() -> threading.Lock:
    """Makes a lock of threads."""
    return threading.Lock()


class WebSocket:
    """A WebSocket, and how much of what was sent has arrived at its far end."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._unanswered: list[threading.Event] = []
        self._in_doubt = 0
        self.is_doubt_told = False
        """Whether the caller was told that input of this connection may be lost."""

    @classmethod
    def open(
        cls, url: str, *, subprotocols: Sequence[Subprotocol], headers: dict[str, str], timeout: float, max_size: int
    ) -> WebSocket:
        """Connects. Raises what `websockets` raises, and `OSError`."""
        return cls(
            connect(
                url,
                subprotocols=subprotocols,
                additional_headers=headers,
                open_timeout=timeout,
                max_size=max_size,
                compression=None,
                proxy=None,
                **CONNECTS_AT_ONCE,
            )
        )

    def recv(self) -> str | bytes:
        """The next message."""
        return self._connection.recv()

    def send(self, message: str | bytes) -> None:
        """Sends a message, and a ping behind it: its answer says that the message has arrived."""
        self._in_doubt += 1
        self._connection.send(message)
        answer = self._connection.ping()
        self._unanswered = [*(waiting for waiting in self._unanswered if not _has_come(waiting)), answer]
        self._in_doubt -= 1

    def is_sending(self) -> bool:
        """Whether something was sent of which it is not known that it has arrived."""
        return self._in_doubt > 0 or any(not _has_come(waiting) for waiting in self._unanswered)

    def close(self) -> None:
        """Closes it, however it is."""
        with contextlib.suppress(Exception):
            self._connection.close()


def _has_come(answer: threading.Event) -> bool:
    return answer.is_set()


class Program:
    """A program that runs beside us: its standard output is read, its errors are kept."""

    def __init__(self, process: subprocess.Popen[str], errors: IO[bytes]) -> None:
        self._process = process
        self._errors = errors

    @classmethod
    def start(cls, arguments: Sequence[str], environment: dict[str, str]) -> Program:
        """Starts it. Raises `OSError`."""
        # A file, because nobody reads while the program runs, and a full pipe would hold it up.
        errors = tempfile.TemporaryFile()
        pipe = subprocess.PIPE
        return cls(subprocess.Popen(arguments, env=environment, stdout=pipe, stderr=errors, text=True), errors)

    def read_line(self, timeout: float) -> str:
        """Its next line; empty at its end, or if none comes within so many seconds."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            return self._process.stdout.readline() if selector.select(timeout) else ""

    def stop(self) -> str:
        """Ends it, and returns what it said of errors."""
        self._process.kill()
        self._process.communicate()
        with self._errors as errors:
            errors.seek(0)
            return errors.read(ERRORS_MAX).decode(errors="replace")
