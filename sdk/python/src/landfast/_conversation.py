"""What an attachment knows, without waiting for anything: how far into the output log it is, and what was told already.

Connections come and go; a new one begins where this count stands, so the caller gets every byte once.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from typing import Literal

from ._failure import ProtocolFailure

SUBPROTOCOL = "landfast.process.v1"

STDIN = b"\x00"

FRAME_MAX = 4 * 1024 * 1024
"""Bytes of one message: far more than the agent puts into one."""

WINDOW = 4 * 1024 * 1024
"""Bytes of output that the agent sends beyond what was taken: enough for a long and wide way."""

WAITING_MAX = 65_536
"""Messages that wait for being taken, in many of which a window may come; beyond them nothing is read."""

UNDERWAY_MAX = 1024 * 1024
"""Bytes of input that were sent and may not have arrived; beyond it who sends has to wait."""

SILENCE_SECONDS = 45.0
"""How long a connection may bring nothing while somebody waits: a gateway says something every 20 seconds."""

GOODBYE_SECONDS = 2.0
"""How long the far end may take to say goodbye."""

SILENT = (1011, "nothing came for too long")
"""What is said to a far end that is probably not there."""

Start = Literal["start", "now", "screen"] | int
"""Where an attachment begins: with the oldest output, with what comes next, with a redraw, or at an offset."""


@dataclass(frozen=True)
class Output:
    """What a process said next. A redraw of the screen is output of the terminal too."""

    stream: Literal["stdout", "stderr"]
    """A terminal has one: `stdout`."""
    data: bytes


@dataclass(frozen=True)
class ReplayEnd:
    """Everything before this was said before the attachment began; what follows is live. Told once."""

    offset: int
    """The offset of the next byte in the output log."""


@dataclass(frozen=True)
class Gap:
    """Output that is no longer kept and cannot be had."""

    start: int
    """The offset of the first byte lost."""
    end: int
    """The offset of the first byte after the loss."""


@dataclass(frozen=True)
class InputUnsure:
    """Some input may not have reached the process: it was under way when the connection ended.

    It is not sent again, because that could type it twice.
    """


@dataclass(frozen=True)
class Exited:
    """The process has exited. Told once, and last."""

    status: int
    """As a shell says it: its exit code, or 128 and the signal's number."""


ProcessEvent = Output | ReplayEnd | Gap | InputUnsure | Exited


class Conversation:
    """The bookkeeping of one attachment over any number of connections."""

    def __init__(self, start: Start) -> None:
        self._start = start
        self.offset: int | None = 0 if start == "start" else start if isinstance(start, int) else None
        """The offset of the next output byte; None until the agent tells."""
        self.exit: Exited | None = None
        self._is_redrawing = start == "screen"
        self._has_replayed = False

    @property
    def resume_from(self) -> Start:
        """Where the next connection has to begin."""
        return self._start if self.offset is None else self.offset

    def connected(self) -> None:
        """A new connection begins there."""
        self._is_redrawing = self.resume_from == "screen"

    def take(self, message: str | bytes) -> ProcessEvent | None:
        """Takes the next message. Raises `ProtocolFailure` for what no agent says."""
        if isinstance(message, str):
            self._check_note(message)
            return None
        channel, payload = message[:1], message[1:]
        if channel in (b"\x01", b"\x02"):
            return self._output(channel, payload)
        if channel == b"\x03":
            return self._exited(payload)
        if channel == b"\x04":
            return self._replayed(payload)
        if channel == b"\x05":
            return self._gap(payload)
        raise ProtocolFailure(f"A frame of the unknown channel {channel!r}.")

    def _check_note(self, text: str) -> None:
        try:
            offset = json.loads(text).get("offset")
        except (ValueError, AttributeError) as error:
            raise ProtocolFailure(f"A note that is no JSON object: {error}.") from error
        if offset is not None and self.offset is not None and not self._is_redrawing and offset != self.offset:
            raise ProtocolFailure(f"The agent is at offset {offset} of the output, and we are at {self.offset}.")

    def _output(self, channel: bytes, payload: bytes) -> Output:
        if self.offset is not None and not self._is_redrawing:
            self.offset += len(payload)
        return Output("stdout" if channel == b"\x01" else "stderr", payload)

    def _exited(self, payload: bytes) -> Exited:
        (status,) = _numbers(">i", payload)
        if self.exit is not None:
            raise ProtocolFailure("A second exit.")
        self.exit = Exited(status)
        return self.exit

    def _replayed(self, payload: bytes) -> ReplayEnd | None:
        (offset,) = _numbers(">Q", payload)
        self.offset = offset
        self._is_redrawing = False
        is_first, self._has_replayed = not self._has_replayed, True
        return ReplayEnd(offset) if is_first else None

    def _gap(self, payload: bytes) -> Gap:
        start, end = _numbers(">QQ", payload)
        self.offset = end
        return Gap(start, end)


def _numbers(form: str, payload: bytes) -> tuple[int, ...]:
    try:
        return struct.unpack(form, payload)
    except struct.error as error:
        raise ProtocolFailure(f"A frame of {len(payload)} bytes: {error}.") from error
