"""A server that says what it is told to and writes down what it saw, on real sockets."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

Exchange = dict[str, Any]
Headers = dict[str, str]

PATIENCE_SECONDS = 10.0
"""How long a server waits for what a client has begun to say."""


@dataclass
class Request:
    """A request as it came over the wire."""

    method: str
    path: str
    headers: Headers
    body: bytes
    raw: bytes

    @property
    def token(self) -> str:
        """The bearer token, empty for none."""
        return self.headers.get("authorization", "").removeprefix("Bearer ")


Answer = Callable[[Request], tuple[int, Headers, bytes] | None]
"""What a server says to a request; None ends the connection instead."""


@dataclass
class Server:
    """Serves until it is closed. `answer` is called in the order in which requests have arrived."""

    answer: Answer
    seen: list[Request] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._lock = threading.Lock()
        self._connections: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Ends the listener and every connection."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            _cut(connection)

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            connection.settimeout(PATIENCE_SECONDS)
            self._connections.append(connection)
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        reader = _Reader(connection)
        try:
            while (request := reader.request()) is not None:
                with self._lock:
                    self.seen.append(request)
                    answer = self.answer(request)
                if answer is None or not _say(connection, *answer):
                    break
        except OSError:
            pass
        _cut(connection)


class _Reader:
    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._bytes = b""
        self._raw = b""

    def request(self) -> Request | None:
        self._raw = b""
        head = self._until(b"\r\n\r\n")
        if head is None:
            return None
        first, *lines = head.decode("latin-1").split("\r\n")
        method, path, _ = first.split(" ")
        pairs = [line.split(":", 1) for line in lines]
        headers = {name.lower(): value.strip() for name, value in pairs}
        body = self._chunks() if "transfer-encoding" in headers else self._take(int(headers.get("content-length", 0)))
        return Request(method, path, headers, body, self._raw)

    def _chunks(self) -> bytes:
        body = b""
        while True:
            size = int(self._until(b"\r\n") or b"0", 16)
            part = self._take(size + 2)[:-2]
            if not part:
                return body
            body += part

    def _until(self, end: bytes) -> bytes | None:
        while end not in self._bytes:
            if not self._more():
                return None
        part, self._bytes = self._bytes.split(end, 1)
        self._raw += part + end
        return part

    def _take(self, size: int) -> bytes:
        while len(self._bytes) < size and self._more():
            pass
        part, self._bytes = self._bytes[:size], self._bytes[size:]
        self._raw += part
        return part

    def _more(self) -> bool:
        part = self._connection.recv(65536)
        self._bytes += part
        return bool(part)


def nowhere() -> str:
    """The URL of a port where nothing listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return f"http://127.0.0.1:{listener.getsockname()[1]}"


def _say(connection: socket.socket, status: int, headers: Headers, body: bytes) -> bool:
    """Says an answer; a body shorter than its `Content-Length` is a cut one, and the connection's end."""
    headers = headers if status == 204 else {"Content-Length": str(len(body)), **headers}
    head = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    connection.sendall(f"HTTP/1.1 {status} As said\r\n{head}\r\n".encode() + body)
    return int(headers.get("Content-Length", 0)) == len(body)


def _cut(connection: socket.socket) -> None:
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
