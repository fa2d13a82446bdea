"""What waits differently in tasks and in threads: the one module that is not generated."""

from __future__ import annotations

import contextlib
import inspect
import json
import selectors
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, Any, TypeVar

from websockets.exceptions import ConnectionClosed
from websockets.protocol import State
from websockets.sync.client import ClientConnection, connect
from websockets.typing import Subprotocol

from .._conversation import (
    GOODBYE_SECONDS,
    SILENCE_SECONDS,
    SILENT,
    UNDERWAY_MAX,
    WAITING_MAX,
    WINDOW,
)

sleep = time.sleep


def run(function: Callable[..., T], *arguments: Any) -> T:
    """Does something that blocks, where it holds nobody up."""
    return function(*arguments)


T = TypeVar("T")

LOOK_SECONDS = 0.1
"""How often who waits for room looks whether there is still a connection."""

ERRORS_MAX = 4096
"""Bytes of a program's errors that are passed on."""

CONNECTS_AT_ONCE: dict[str, Any] = {"legacy": True} if "legacy" in inspect.signature(connect).parameters else {}
"""Newer releases of `websockets` ask whether `connect` is to return a connection, as it always did."""


def new_lock() -> threading.Lock:
    """Makes a lock of threads."""
    return threading.Lock()


class WebSocket:
    """A WebSocket, and how much of what was sent has arrived at its far end.

    It is read whether or not somebody takes what came, so a caller that stands still does not look like one that is
    gone; the agent sends no more than a window beyond what was taken. Nobody can tell by a ping whether the far end is
    there: its answer waits behind input that a process does not read. Whatever byte comes tells it.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._underway: list[tuple[threading.Event, int]] = []
        self._in_doubt = 0
        self._taken = 0
        self._heard = time.monotonic()
        self.is_doubt_told = False
        """Whether the caller was told that input of this connection may be lost."""
        receive = connection.protocol.receive_data

        def hear(data: bytes | bytearray) -> None:
            self._heard = time.monotonic()
            receive(data)

        connection.protocol.receive_data = hear  # type: ignore[method-assign]

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
                close_timeout=GOODBYE_SECONDS,
                ping_interval=None,
                max_size=max_size,
                max_queue=WAITING_MAX,
                compression=None,
                proxy=None,
                **CONNECTS_AT_ONCE,
            )
        )

    def recv(self) -> str | bytes:
        """The next message."""
        since = time.monotonic()
        while True:
            left = max(since, self._heard) + SILENCE_SECONDS - time.monotonic()
            if left <= 0 and not self.is_sending():
                self._connection.close(*SILENT)
            with contextlib.suppress(TimeoutError):
                return self._connection.recv(left if left > 0 else SILENCE_SECONDS)

    def took(self, offset: int) -> None:
        """Everything before this offset was taken."""
        if abs(offset - self._taken) >= WINDOW // 4:
            self._taken = offset
            # Who reads on is told of an end.
            with contextlib.suppress(ConnectionClosed):
                self._connection.send(json.dumps({"taken": offset}))

    def send(self, message: str | bytes) -> None:
        """Sends a message, and a ping behind it: its answer says that the message has arrived.

        Returns once there is room for another one.
        """
        self._in_doubt += 1
        self._connection.send(message)
        answer = self._connection.ping()
        self._underway = [*self._unanswered(), (answer, len(message))]
        self._in_doubt -= 1
        while self._is_full(underway := self._unanswered()):
            # It is not set when the connection ends.
            underway[0][0].wait(LOOK_SECONDS)

    def is_sending(self) -> bool:
        """Whether something was sent of which it is not known that it has arrived."""
        return self._in_doubt > 0 or bool(self._unanswered())

    def close(self) -> None:
        """Closes it, however it is."""
        with contextlib.suppress(Exception):
            self._connection.close()

    def _is_full(self, underway: list[tuple[threading.Event, int]]) -> bool:
        return self._connection.state is State.OPEN and sum(size for _, size in underway) > UNDERWAY_MAX

    def _unanswered(self) -> list[tuple[threading.Event, int]]:
        return [one for one in self._underway if not _has_come(one[0])]


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
