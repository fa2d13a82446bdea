"""Names that go into paths: a name that climbs out of its place would send a request, and an API key, elsewhere."""

from __future__ import annotations

import re

from ._failure import Misused

PLAIN = re.compile(r"[A-Za-z0-9_-]{1,128}")


def plain(name: str | int) -> str:
    """The name of an instance, a process, a token or a service. Raises `Misused` if it is none."""
    text = str(name).strip()
    if not PLAIN.fullmatch(text):
        raise Misused(f"{text[:50]!r} is no name: names have letters, digits, - and _.")
    return text


def inner_path(path: str) -> str:
    """A path below a service, without the slash before it. Raises `Misused` if it climbs out."""
    before = path.partition("?")[0].replace("\\", "/").lower().replace("%2e", ".")
    if any(segment in (".", "..") for segment in before.split("/")):
        raise Misused("The path has a segment of dots; write it without.")
    return path.removeprefix("/")
