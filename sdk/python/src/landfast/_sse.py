"""Server-sent events out of bytes, without waiting for anything.

Lines end with LF or CRLF, as Landfast writes them; a frame that no blank line ends is not one.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ._failure import ProtocolFailure

FRAME_MAX = 2 * 1024 * 1024
"""Bytes of one frame: an event has at most one million, and JSON may double them."""


@dataclass(frozen=True)
class Frame:
    """What stands between two blank lines."""

    event: str
    data: str | None
    id: str | None


class Decoder:
    """Takes bytes as they come, gives frames as they are whole."""

    def __init__(self) -> None:
        self._bytes = b""
        self._lines: list[str] = []

    def feed(self, part: bytes) -> Iterator[Frame]:
        """Takes more bytes. Raises `ProtocolFailure` if a frame is larger than any of ours."""
        self._bytes += part
        lines = self._bytes.replace(b"\r\n", b"\n").split(b"\n")
        self._bytes = lines.pop()
        if len(self._bytes) > FRAME_MAX:
            raise ProtocolFailure("A server-sent event is larger than any of Landfast's.")
        for line in lines:
            if line:
                self._lines.append(line.decode(errors="replace"))
            elif self._lines:
                frame = _frame(self._lines)
                self._lines = []
                if frame is not None:
                    yield frame


def _frame(lines: list[str]) -> Frame | None:
    fields: dict[str, list[str]] = {}
    for line in lines:
        name, _, value = line.partition(":")
        if name:
            fields.setdefault(name, []).append(value.removeprefix(" "))
    if not fields:
        return None
    data = "\n".join(fields["data"]) if "data" in fields else None
    return Frame(fields.get("event", ["message"])[-1], data, fields["id"][-1] if "id" in fields else None)
