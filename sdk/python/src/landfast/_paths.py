"""What a request to the control plane is about, read from its path; decided without sending anything."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, unquote

import httpx

DIRECT = ("browser", "devtools", "exec", "files", "json", "processes", "services", "telemetry")
"""The sub-resources of an instance that its own agent answers."""

DIRECT_VARIABLE = "LANDFAST_DIRECT"
"""The variable that names other ones, with commas between them; empty for none."""

FALLBACKS = frozenset({("telemetry", "events")})
"""What the control plane still knows of an instance that is gone."""

GONE_CODES = frozenset({"browser_gone", "instance.gone"})
"""The codes by which an instance says that it is gone."""

OWN_POSTS = frozenset((verb,) for verb in ("acquire", "move", "release", "sleep", "stop", "tokens", "wake"))
"""What the control plane itself does with an instance."""

DEFAULT_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True)
class Target:
    """A path of the control plane, taken apart."""

    segments: tuple[str, ...]
    """The path below `/v1`, decoded."""
    tail: str = ""
    """What follows the instance's id, as it was written, with the query."""

    @property
    def instance(self) -> str | None:
        """The id of the instance, if the path names one."""
        named = len(self.segments) >= 2 and self.segments[0] == "instances"
        return self.segments[1].strip() or None if named else None

    @property
    def below(self) -> tuple[str, ...]:
        """The sub-resource of the instance and what follows."""
        return self.segments[2:]

    def is_below(self, subresources: Iterable[str]) -> bool:
        """Whether it is one of these sub-resources or in one, segment by segment."""
        lists = (tuple(subresource.split("/")) for subresource in subresources)
        return bool(self.below) and any(self.below[: len(wanted)] == wanted for wanted in lists)

    def has_routes(self, method: str) -> bool:
        """Whether the answer holds instances with their routes: create, list, get, change, acquire."""
        if self.segments[-1:] == ("acquire",):
            return method == "POST"
        if self.segments == ("instances",):
            return method in ("GET", "POST")
        return self.instance is not None and not self.below and method in ("GET", "PATCH")

    def ends_instance(self, method: str) -> bool:
        """Whether its success means that the instance is no longer the caller's."""
        if self.instance is None:
            return False
        return (method == "DELETE" and not self.below) or (method == "POST" and self.below == ("release",))

    def takes_idempotency_key(self, method: str) -> bool:
        """Whether it is a POST of the control plane's own: what agents answer knows no such keys."""
        is_own = self.segments == ("instances",) or self.below in OWN_POSTS
        return method == "POST" and is_own


class ControlPlane:
    """Where the control plane is."""

    def __init__(self, url: str | httpx.URL) -> None:
        self.url = httpx.URL(url)
        self._prefix = self.url.path.rstrip("/") + "/v1/"

    def target(self, url: httpx.URL) -> Target | None:
        """Takes a URL of the control plane apart; None for every other URL."""
        raw = url.raw_path.decode("ascii")
        path, question, query = raw.partition("?")
        if _origin(url) != _origin(self.url) or not path.startswith(self._prefix):
            return None
        parts = path[len(self._prefix) :].split("/")
        segments = tuple(unquote(part) for part in parts)
        if any(segment in (".", "..") for segment in segments):
            # Whoever reads such a path next may read it differently: not for an instance.
            return Target(())
        while segments[-1:] == ("",):
            segments = segments[:-1]
        return Target(segments, "/".join(parts[2:]) + question + query)

    def instance(self, instance: str) -> httpx.URL:
        """The URL of an instance's record."""
        return self.url.copy_with(raw_path=f"{self._prefix}instances/{quote(instance, safe='')}".encode("ascii"))


def direct_url(base_url: str, target: Target) -> httpx.URL:
    """Where an instance answers what the target asks for."""
    return httpx.URL(f"{base_url}/{target.tail}")


def is_below(url: httpx.URL, base_url: str) -> bool:
    """Whether a URL is one of the instance's own."""
    base = httpx.URL(base_url)
    return _origin(url) == _origin(base) and (url.path + "/").startswith(base.path.rstrip("/") + "/")


def is_gone(status: int, problem: object) -> bool:
    """Whether an answer says that the instance is gone: only a code does, a bare 404 may be anything."""
    return status in (404, 410) and isinstance(problem, dict) and problem.get("code") in GONE_CODES


def direct_subresources(said: Iterable[str] | None) -> tuple[str, ...]:
    """The sub-resources to go directly to: as said, else as the variable says, else the usual ones."""
    if said is None:
        variable = os.environ.get(DIRECT_VARIABLE)
        said = DIRECT if variable is None else variable.split(",")
    return tuple(name for name in (subresource.strip().strip("/") for subresource in said) if name)


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or DEFAULT_PORTS.get(url.scheme)
