"""What stands between a client and the gateway, and can be told to cut a call that is in flight."""

from __future__ import annotations

import contextlib
import re
import socket
import threading
from urllib.parse import urlsplit

CUT_AFTER_SECONDS = 0.4
"""How long after a request has gone through its connection is cut: it runs by then."""

_HEAD = re.compile(rb"^(GET|HEAD|POST|PUT|PATCH|DELETE) (\S+) HTTP/1\.1\r\n", re.MULTILINE)


class Relay:
    """Passes bytes on, notes the requests among them, and cuts those it was told to."""

    def __init__(self, url: str) -> None:
        self._upstream = (urlsplit(url).hostname or "", urlsplit(url).port or 0)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._cuts: list[str] = []
        self._held: list[str] = []
        self._lock = threading.Lock()
        self.requests: list[str] = []
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        """Accepts nobody any more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def cut(self, path: str, times: int) -> None:
        """Cuts the next requests to this path once they run and before they are answered."""
        with self._lock:
            self._cuts += [path] * times

    def hold(self, path: str) -> None:
        """Keeps the answer to the next request to this path, and cuts its connection instead."""
        with self._lock:
            self._held.append(path)
        self.cut(path, 1)

    def count(self, path: str) -> int:
        """Returns how many requests to this path went through."""
        return sum(request.split("?")[0].endswith(path) for request in self.requests)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                upstream = socket.create_connection(self._upstream)
            except OSError:
                client.close()
                continue
            answers = threading.Event()
            answers.set()
            threading.Thread(target=self._up, args=(client, upstream, answers), daemon=True).start()
            threading.Thread(target=_down, args=(upstream, client, answers), daemon=True).start()

    def _up(self, client: socket.socket, upstream: socket.socket, answers: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                is_cut, is_held = self._note(data)
                if is_held:
                    answers.clear()
                upstream.sendall(data)
                if is_cut:
                    threading.Timer(CUT_AFTER_SECONDS, _end, (client, upstream)).start()
        _end(client, upstream)

    def _note(self, data: bytes) -> tuple[bool, bool]:
        is_cut = is_held = False
        for _, target in _HEAD.findall(data):
            request = target.decode()
            with self._lock:
                self.requests.append(request)
                cut = next((path for path in self._cuts if request.split("?")[0].endswith(path)), None)
                if cut:
                    self._cuts.remove(cut)
                    is_cut, is_held = True, cut in self._held
                    self._held = [path for path in self._held if path != cut]
        return is_cut, is_held


def _down(upstream: socket.socket, client: socket.socket, answers: threading.Event) -> None:
    with contextlib.suppress(OSError):
        while data := upstream.recv(65536):
            if not answers.is_set():
                break
            client.sendall(data)
    if answers.is_set():
        _end(upstream, client)


def _end(*sockets: socket.socket) -> None:
    for each in sockets:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
        each.close()
