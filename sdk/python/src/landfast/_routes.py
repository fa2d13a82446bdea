"""Where instances are reached directly: a bounded memory that threads and tasks share.

A route is knowledge that may be out of date at any time, so nobody is hurt by losing it, and it is only ever forgotten
by who can say which one turned out wrong.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field

import httpx

ROUTES_MAX = 10_000
"""Instances of which one client remembers the route: a few megabytes."""


@dataclass(frozen=True)
class Route:
    """Where an instance is, and the access token for it."""

    base_url: str
    token: str = field(repr=False)


class RouteCache:
    """The routes that are known, the least recently used one being forgotten first. Safe across threads and tasks."""

    def __init__(self, most: int = ROUTES_MAX) -> None:
        self._most = most
        self._routes: OrderedDict[str, Route] = OrderedDict()
        # Never held over anything that waits, so a thread's lock serves tasks too.
        self._lock = threading.Lock()

    def get(self, instance: str) -> Route | None:
        """The route of an instance, if it is known."""
        key = instance.strip()
        with self._lock:
            route = self._routes.get(key)
            if route is not None:
                self._routes.move_to_end(key)
            return route

    def put(self, instance: str, route: Route) -> None:
        """Remembers a route, and forgets the oldest one if there are too many."""
        key = instance.strip()
        with self._lock:
            self._routes[key] = route
            self._routes.move_to_end(key)
            while len(self._routes) > self._most:
                self._routes.popitem(last=False)

    def forget(self, instance: str, used: Route | None = None) -> None:
        """Forgets the route of an instance; with `used`, only if it is still that one."""
        key = instance.strip()
        with self._lock:
            if used is None or self._routes.get(key) == used:
                self._routes.pop(key, None)

    def learn(self, answer: object) -> None:
        """Takes the routes out of an instance, or out of a page of them."""
        for instance in _instances(answer):
            identity, base_url, token = (instance.get(key) for key in ("id", "base_url", "token"))
            is_over = instance.get("deleted_at") or instance.get("ended_at") or instance.get("desired") == "deleted"
            if is_over or not isinstance(identity, str) or not isinstance(base_url, str) or not isinstance(token, str):
                continue
            base_url, token = base_url.strip().rstrip("/"), token.strip()
            if identity.strip() and token and _is_url(base_url):
                self.put(identity, Route(base_url, token))

    def __len__(self) -> int:
        return len(self._routes)

    def __contains__(self, instance: str) -> bool:
        return instance.strip() in self._routes


def _is_url(text: str) -> bool:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL:
        return False
    return url.scheme in ("http", "https") and bool(url.host)


def _instances(answer: object) -> Iterator[dict[str, object]]:
    if isinstance(answer, dict) and isinstance(answer.get("items"), list):
        answer = answer["items"]
    for item in answer if isinstance(answer, list) else [answer]:
        if isinstance(item, dict):
            yield item
