"""Which of several gateways is asked next.

Any gateway of a cell goes on with what another began. So one that cannot be reached, or that is shutting down, is left
for the next at once: it took nothing. Anything else may have been started, and is left to the rules for repeating.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import httpx

from ._failure import Misused

REST_SECONDS = 1.0
"""For how long one that failed is asked after all others; it doubles with each failure."""

LONGEST_REST_SECONDS = 30.0
"""The longest such rest."""

DRAINING_SECONDS = 30.0
"""For how long one that is shutting down is asked after all others: so long it may take."""

JITTER = 0.2
"""How far a rest is spread in each direction."""

SUSPECTS = frozenset({"node.unreachable", "registry.unavailable"})
"""Refusals that another gateway may not give: this one can be the one that is cut off."""

DRAINING = "gateway.draining"


@dataclass(frozen=True)
class _Rest:
    failures: int
    since: float
    until: float


class Gateways:
    """The gateways of one cell, and how they have fared. Safe across threads and tasks."""

    def __init__(self, urls: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self.urls = tuple(dict.fromkeys(url.rstrip("/") for url in urls))
        self._bases = [httpx.URL(url) for url in self.urls]
        self._clock = clock
        self._last = 0
        self._rests: dict[int, _Rest] = {}
        # Never held over anything that waits, so a thread's lock serves tasks too.
        self._lock = threading.Lock()

    @classmethod
    def read(cls, said: str | httpx.URL | Sequence[str]) -> Gateways:
        """Reads one URL, several with commas between them, or a list. Raises `Misused`."""
        listed = str(said).split(",") if isinstance(said, (str, httpx.URL)) else said
        urls = [url.strip() for url in listed if url.strip()]
        if not urls:
            raise Misused("No gateway is named: give http://HOST:PORT, or several.")
        return cls(urls)

    def order(self, url: httpx.URL) -> list[httpx.URL]:
        """The same URL at each gateway, in the order in which they are asked; itself if it leads to none of them.

        Who answered last comes first, then the others at random, and behind them who failed lately, longest ago first.
        """
        found = self._find(url)
        if found is None or len(self.urls) == 1:
            return [url]
        with self._lock:
            others = [number for number in range(len(self.urls)) if number != self._last]
            random.shuffle(others)
            order = sorted([self._last, *others], key=self._turn)
        return [_moved(url, self._bases[found], self._bases[number]) for number in order]

    def answered(self, url: httpx.URL) -> None:
        """The gateway of this URL has answered."""
        found = self._find(url)
        if found is not None:
            with self._lock:
                self._rests.pop(found, None)
                self._last = found

    def failed(self, url: httpx.URL, *, is_draining: bool = False) -> None:
        """The gateway of this URL may be at fault, or is shutting down."""
        found = self._find(url)
        if found is None:
            return
        with self._lock:
            before = self._rests.get(found)
            failures = 1 if before is None else before.failures + 1
            rest = min(REST_SECONDS * 2.0 ** min(failures - 1, 10), LONGEST_REST_SECONDS)
            rest = (DRAINING_SECONDS if is_draining else rest) * random.uniform(1 - JITTER, 1 + JITTER)
            self._rests[found] = _Rest(failures, self._clock(), self._clock() + rest)

    def judge(self, url: httpx.URL, code: str | None) -> bool:
        """Notes what a gateway has answered; says whether it took nothing, so that the next may be asked at once."""
        if code == DRAINING or code in SUSPECTS:
            self.failed(url, is_draining=code == DRAINING)
        else:
            self.answered(url)
        return code == DRAINING

    def has_fresh(self, url: httpx.URL) -> bool:
        """Whether the URL leads to a gateway, and one of them has not failed lately."""
        with self._lock:
            is_fresh = any(self._turn(number) == (0, 0.0) for number in range(len(self.urls)))
        return is_fresh and self._find(url) is not None

    def like(self, text: str, url: httpx.URL) -> str:
        """The same URL, if both lead to gateways, as if the gateway of the other had said it."""
        try:
            said = httpx.URL(text)
        except httpx.InvalidURL:
            return text
        found, wanted = self._find(said), self._find(url)
        return text if found is None or wanted is None else str(_moved(said, self._bases[found], self._bases[wanted]))

    def _turn(self, number: int) -> tuple[int, float]:
        rest = self._rests.get(number)
        return (0, 0.0) if rest is None or rest.until <= self._clock() else (1, rest.since)

    def _find(self, url: httpx.URL) -> int | None:
        for number, base in enumerate(self._bases):
            if _origin(url) == _origin(base) and (url.path + "/").startswith(base.path.rstrip("/") + "/"):
                return number
        return None


SCHEMES = {"ws": "http", "wss": "https"}
PORTS = {"http": 80, "https": 443}


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    scheme = SCHEMES.get(url.scheme, url.scheme)
    return scheme, url.host, url.port or PORTS.get(scheme)


def _moved(url: httpx.URL, old: httpx.URL, new: httpx.URL) -> httpx.URL:
    if old == new:
        return url
    path = new.raw_path.rstrip(b"/") + url.raw_path[len(old.raw_path.rstrip(b"/")) :]
    is_socket = url.scheme in SCHEMES
    scheme = {"http": "ws", "https": "wss"}[new.scheme] if is_socket else new.scheme
    return url.copy_with(scheme=scheme, host=new.host, port=new.port, raw_path=path)
