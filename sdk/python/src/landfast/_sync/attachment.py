"""Staying attached to a process while connections come and go.

Reading and writing may be done by two threads. Who finds the connection gone makes the next one, under a lock;
what the old one still held is dropped, because the new one begins at the first byte that was not told.
"""

from __future__ import annotations

import json
import time
from collections import deque
from types import TracebackType
from typing import Any
from urllib.parse import urlencode

import httpx
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.typing import Subprotocol

from .. import errors
from .._conversation import (
    FRAME_MAX,
    STDIN,
    SUBPROTOCOL,
    WINDOW,
    Conversation,
    Exited,
    InputUnsure,
    Output,
    ProcessEvent,
    Start,
)
from .._endings import ending_of, may_pass
from .._failure import LandfastError, Misused, Unreachable
from .._gateways import DRAINING
from .._retry import pause_before
from .._routes import Route
from ._io import WebSocket, new_lock, sleep
from .caller import CONNECT_SECONDS, Caller

PATIENCE_SECONDS = 600.0
"""For how long a connection is tried to be made anew: as long as somebody who restarts a cell may take."""


class Attachment:
    """A process that is followed: iterate over it for what it says, until its exit, which is told once and last.

    Disconnects are hidden: the next connection goes on at the very byte; only what the process's log no longer keeps
    is told, as a `Gap`. Input that was under way at a disconnect is never sent twice; that it may not have arrived is
    told as `InputUnsure`. Raises `LandfastError` when it cannot go on: the instance is gone, or nothing was reached for
    `patience` seconds.
    """

    def __init__(
        self, caller: Caller, instance: str, process: str, start: Start, takes_input: bool, patience: float
    ) -> None:
        self._caller = caller
        self._instance = instance
        self.process_id = process
        self._takes_input = takes_input
        self._patience = patience
        self._conversation = Conversation(start)
        self._told: deque[ProcessEvent] = deque()
        self._lock = new_lock()
        self._socket: WebSocket | None = None
        self._place: httpx.URL | None = None
        self._attempt = 0
        self._is_over = False
        self.connections = 0
        """How many connections it has taken so far."""

    @property
    def offset(self) -> int | None:
        """The offset of the next output byte; None until it is known."""
        return self._conversation.offset

    @property
    def exit(self) -> Exited | None:
        """How the process ended, once that was told."""
        return self._conversation.exit

    def send(self, data: bytes) -> None:
        """Types this. Returns once it was handed to the connection; see `InputUnsure`."""
        self._check_input()
        self._say(STDIN + data)

    def resize(self, rows: int, cols: int) -> None:
        """Sets the size of the terminal."""
        self._say(json.dumps({"resize": {"rows": rows, "cols": cols}}))

    def signal(self, name: str) -> None:
        """Sends a signal, by its name without SIG."""
        self._say(json.dumps({"signal": name}))

    def end_input(self) -> None:
        """Ends the input; on a terminal this is the key that means it."""
        self._check_input()
        self._say(json.dumps({"eof": True}))

    def read(self) -> bytes:
        """Everything it says until its exit, both streams in the order of the log. Iterate to be told of gaps."""
        return b"".join([event.data for event in self if isinstance(event, Output)])

    def close(self) -> None:
        """Leaves. The process goes on."""
        self._is_over = True
        socket, self._socket = self._socket, None
        if socket is not None:
            socket.close()

    def __enter__(self) -> Attachment:
        self._connected()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Attachment:
        return self

    def __next__(self) -> ProcessEvent:
        while True:
            if self._told:
                return self._told.popleft()
            if self._is_over:
                raise StopIteration
            socket = self._connected()
            try:
                message = socket.recv()
            except ConnectionClosed as closed:
                self._lost(socket, closed)
                continue
            event = self._take(socket, message)
            if self.offset is not None:
                socket.took(self.offset)
            if isinstance(event, Exited):
                self.close()
            if event is not None:
                return event

    def _take(self, socket: WebSocket, message: str | bytes) -> ProcessEvent | None:
        with self._lock:
            if socket is not self._socket:
                return None
            self._attempt = 0
            return self._conversation.take(message)

    def _say(self, message: str | bytes) -> None:
        socket = self._connected()
        try:
            socket.send(message)
        except ConnectionClosed as closed:
            self._lost(socket, closed)

    def _lost(self, socket: WebSocket, closed: ConnectionClosed) -> None:
        with self._lock:
            if self._is_over:
                return
            if socket.is_sending() and not socket.is_doubt_told:
                socket.is_doubt_told = True
                self._told.append(InputUnsure())
            if socket is not self._socket:
                return
            self._socket = None
            if self._place is not None and closed.rcvd is None and closed.sent is not None:
                # It was we who gave up, because nothing was answered: others come before this one.
                self._caller.gateways.failed(self._place)
            failure = ending_of(closed.rcvd.code if closed.rcvd else None, closed.rcvd.reason if closed.rcvd else "")
            if failure is not None:
                self._is_over = True
                raise failure from closed

    def _connected(self) -> WebSocket:
        with self._lock:
            if self._socket is None:
                self._socket = self._connect()
                self._conversation.connected()
                self.connections += 1
            return self._socket

    def _connect(self) -> WebSocket:
        deadline = time.monotonic() + self._patience
        turned_down: Route | None = None
        while not self._is_over:
            if self._attempt > 0 and turned_down is None:
                sleep(pause_before(self._attempt - 1))
            self._attempt += 1
            try:
                route = self._caller.route(self._instance, turned_down)
                return self._dial(route)
            except (errors.TABLE["auth.expired"], errors.TABLE["auth.invalid"]):
                if turned_down is not None:
                    raise
                turned_down = route
            except LandfastError as failure:
                if not may_pass(failure) or time.monotonic() >= deadline:
                    raise
                turned_down = None
        raise Misused("The attachment has ended.")

    def _dial(self, route: Route) -> WebSocket:
        """Connects through the first gateway that takes it."""
        gateways = self._caller.gateways
        *others, last = gateways.order(httpx.URL(self._address(route)))
        for place in others:
            try:
                return self._dial_at(place, route)
            except (Unreachable, errors.TABLE[DRAINING]):
                continue
        return self._dial_at(last, route)

    def _dial_at(self, place: httpx.URL, route: Route) -> WebSocket:
        gateways = self._caller.gateways
        try:
            socket = WebSocket.open(
                str(place),
                subprotocols=[Subprotocol(SUBPROTOCOL)],
                headers={"Authorization": f"Bearer {route.token}"},
                timeout=CONNECT_SECONDS,
                max_size=FRAME_MAX,
            )
        except InvalidStatus as refused:
            answer = refused.response
            headers = httpx.Headers(list(answer.headers.raw_items()))
            gateways.judge(place, headers.get("landfast-error"))
            raise errors.from_answer(answer.status_code, headers, bytes(answer.body or b"")) from refused
        except (InvalidHandshake, ConnectionClosed, OSError, EOFError, TimeoutError) as failure:
            gateways.failed(place)
            raise Unreachable(str(failure) or type(failure).__name__) from failure
        gateways.answered(place)
        self._place = place
        return socket

    def _address(self, route: Route) -> str:
        base = httpx.URL(route.base_url)
        base = base.copy_with(scheme="wss" if base.scheme == "https" else "ws")
        said: dict[str, Any] = {
            "from": self._conversation.resume_from,
            "input": str(self._takes_input).lower(),
            "window": WINDOW,
        }
        return f"{base}/processes/{self.process_id}/attach?{urlencode(said)}"

    def _check_input(self) -> None:
        if not self._takes_input:
            raise Misused("The attachment was made without input.")
