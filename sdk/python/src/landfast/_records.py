"""What Landfast tells of instances, processes and events, as values. Times are Unix milliseconds unless said otherwise.

Fields that a newer release adds are left out; ones that an older release lacks have the values written here.
"""

from __future__ import annotations

import base64
import dataclasses
import os
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import unquote_to_bytes

from ._failure import ProtocolFailure

T = TypeVar("T", bound="Record")


@dataclass(frozen=True)
class Record:
    """A value that is read from JSON."""

    @classmethod
    def read(cls: type[T], answer: object) -> T:
        """Reads it. Raises `ProtocolFailure` if it is something else."""
        if not isinstance(answer, dict):
            raise ProtocolFailure(f"A {cls.__name__} was expected.")
        known = {one.name for one in dataclasses.fields(cls)}
        try:
            return cls(**{key: value for key, value in answer.items() if key in known and value is not None})
        except TypeError as error:
            raise ProtocolFailure(f"The answer is no {cls.__name__}: {error}.") from error


@dataclass(frozen=True)
class InstanceRecord(Record):
    """An instance as the control plane tells it."""

    id: str
    kind: str
    """`sandbox`, `actor` or `browser`."""
    phase: str
    """What is: `pending`, `starting`, `running`, `moving`, `sleeping`; or `stopped`, `failed`, `lost`, `deleted`."""
    desired: str
    """What should be."""
    generation: int
    """The number of its placements so far."""
    base_url: str
    """Where its data plane is."""
    created_at: int
    spec: dict[str, Any] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    node: str | None = None
    host: str | None = None
    reason: str | None = None
    """Why it ended, why its last move was given up, or why no node takes it."""
    ended_at: int | None = None
    cdp_url: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)
    token_expires_at: int | None = None

    @property
    def has_ended(self) -> bool:
        """Whether it is over for good."""
        return self.phase in ("stopped", "failed", "lost", "deleted")


@dataclass(frozen=True)
class Token(Record):
    """An access token for one instance. It is shown once."""

    id: str
    token: str = field(repr=False)
    scopes: list[str]
    expires_at: int


@dataclass(frozen=True)
class Exit:
    """How a process ended: by a code, or by a signal."""

    code: int | None = None
    signal: int | None = None

    @property
    def status(self) -> int:
        """As a shell says it: the code, or 128 and the signal's number."""
        return self.code if self.code is not None else 128 + (self.signal or 0)

    @classmethod
    def read(cls, answer: object) -> Exit | None:
        """Reads it; None if the process has not exited, or nobody knows how."""
        return cls(answer.get("code"), answer.get("signal")) if isinstance(answer, dict) else None


@dataclass(frozen=True)
class ProcessRecord(Record):
    """A process as its agent tells it."""

    id: str
    argv: list[str]
    started_at: int
    state: str
    """`running`, `exited`, or `unknown` if the agent died with it."""
    log: dict[str, int]
    """The offsets of the output that is kept: `from`, and `to` after the newest byte."""
    pid: int | None = None
    tty: dict[str, int] | None = None
    exit: dict[str, int] | None = None
    killed_by: str | None = None


@dataclass(frozen=True)
class Completed:
    """What came of a command that was run to its end."""

    exit: Exit | None
    """How it ended; None if nobody knows."""
    stdout: bytes
    stderr: bytes
    truncated: bool = False
    """Whether it said more than is kept: then the oldest is missing."""
    killed_by: str | None = None
    """`timeout`, `detach` or `request` if the agent killed it."""

    @property
    def ok(self) -> bool:
        """Whether it exited with code 0."""
        return self.exit == Exit(code=0)

    @property
    def text(self) -> str:
        """Standard output as UTF-8; what is none is replaced."""
        return self.stdout.decode(errors="replace")

    @classmethod
    def read(cls, answer: object) -> Completed:
        """Reads it. Raises `ProtocolFailure` if it is something else."""
        if not isinstance(answer, dict):
            raise ProtocolFailure("The outcome of a command was expected.")
        return cls(
            Exit.read(answer.get("exit")),
            _output(answer, "stdout"),
            _output(answer, "stderr"),
            bool(answer.get("truncated")),
            answer.get("killed_by"),
        )


@dataclass(frozen=True)
class LogPart:
    """A part of a process's output, stdout and stderr in the order in which they were said."""

    offset: int
    """The offset of the first byte; later than was asked for if what is older was let go."""
    data: bytes

    @property
    def end(self) -> int:
        """The offset after the last byte: where to go on."""
        return self.offset + len(self.data)


@dataclass(frozen=True)
class ServiceRecord(Record):
    """A server inside an instance."""

    name: str
    state: str
    """`down`, `starting`, `up`, `backoff`, `failed` or `gave_up`."""
    start: int
    """The number of its starts so far."""
    since: int
    pid: int | None = None
    exit: dict[str, int] | None = None
    error: str | None = None


@dataclass(frozen=True)
class BrowserRecord(Record):
    """The browser of an instance."""

    state: str
    start: int
    """The number of its starts so far."""
    since: int
    flags: list[str] = field(default_factory=list)
    sandbox: dict[str, Any] = field(default_factory=dict)
    """Whether Chromium's own sandbox is on (`enabled`), and if not, why (`reason`)."""
    pid: int | None = None
    version: str | None = None
    exit: dict[str, int] | None = None
    error: str | None = None


@dataclass(frozen=True)
class Event:
    """Something that happened in an instance."""

    id: str | None
    """What a stream goes on after; None for one from a page."""
    seq: int
    """Its number since the agent's start, from 1 without holes."""
    ts: int
    """Microseconds since 1970."""
    type: str
    category: str
    source: dict[str, Any]
    data: Any = None
    truncated: bool = False
    """Whether `data` was dropped because it was too large."""


@dataclass(frozen=True)
class EventGap:
    """Events that are gone: from this id to the first one after it; None where nobody can say what was missed."""

    start: str | None
    end: str | None


@dataclass(frozen=True)
class EventPage:
    """Events that were stored, and where the next page begins."""

    items: list[Event | EventGap]
    next_offset: int
    """What to ask for next; 0 at the end. A page may be empty although more follow."""
    has_more: bool


def read_event(answer: object, identity: str | None = None) -> Event | EventGap:
    """Reads an envelope, or the record of a gap. Raises `ProtocolFailure` if it is something else."""
    if isinstance(answer, dict) and answer.get("type") == "gap":
        return EventGap(str(answer.get("from")), str(answer.get("to")))
    envelope: Any = answer
    try:
        event = envelope["event"]
        return Event(
            identity,
            envelope["seq"],
            event["ts"],
            event["type"],
            event["category"],
            event.get("source", {}),
            event.get("data"),
            bool(event.get("truncated")),
        )
    except (KeyError, TypeError) as error:
        raise ProtocolFailure(f"An event was expected: {error!r}.") from error


def items_of(answer: object, name: str) -> list[Any]:
    """The list of this name in an answer. Raises `ProtocolFailure` if there is none."""
    items = answer.get(name) if isinstance(answer, dict) else None
    if not isinstance(items, list):
        raise ProtocolFailure(f"A list of {name} was expected.")
    return items


def _output(answer: dict[str, Any], name: str) -> bytes:
    text, encoded = answer.get(name), answer.get(f"{name}_base64")
    return base64.b64decode(encoded) if isinstance(encoded, str) else (text or "").encode()


@dataclass(frozen=True)
class FileInfo(Record):
    """A file of an instance, as it is without its content."""

    path: str
    """Its path; bytes that are no UTF-8 are surrogate escapes, as everywhere in Python."""
    name: str
    kind: str
    """`file`, `directory`, `link`, `fifo`, `socket` or `device`."""
    size: int
    mode: int
    """Who may do what, as for `chmod`."""
    modified: int
    """When its content last changed."""
    uid: int
    gid: int
    etag: str
    """Changes whenever its content may have."""
    target: str | None = None
    """Where a link leads, as it says."""

    @classmethod
    def read(cls, answer: object) -> FileInfo:
        """Reads it. Raises `ProtocolFailure` if it is something else."""
        if not isinstance(answer, dict):
            raise ProtocolFailure("A FileInfo was expected.")
        try:
            path = _path(answer)
            name = answer["name"] if "path_encoded" not in answer else path.rpartition("/")[2]
            return super().read({**answer, "path": path, "name": name, "mode": int(answer["mode"], 8)})
        except (KeyError, TypeError, ValueError) as error:
            raise ProtocolFailure(f"The answer is no FileInfo: {error}.") from error


@dataclass(frozen=True)
class FileChange:
    """Something that happened to a file of an instance."""

    type: str
    """`created`, `modified`, `written`, `attributes`, `removed`, `moved`; or `gap`: some was missed, look again."""
    path: str = ""
    source: str | None = None
    """Where it was before it was moved."""
    is_directory: bool = False

    @classmethod
    def read(cls, answer: object) -> FileChange:
        """Reads it. Raises `ProtocolFailure` if it is something else."""
        if not isinstance(answer, dict) or not isinstance(answer.get("type"), str):
            raise ProtocolFailure("A FileChange was expected.")
        source = _path(answer, "from") if "from" in answer else None
        path = _path(answer) if "path" in answer else ""
        return cls(answer["type"], path, source, bool(answer.get("directory", False)))


@dataclass(frozen=True)
class Unpacked(Record):
    """What was put in place of a tree."""

    files: int
    directories: int
    links: int
    bytes: int


def _path(answer: dict[str, Any], name: str = "path") -> str:
    encoded = answer.get(f"{name}_encoded")
    return str(answer[name]) if encoded is None else os.fsdecode(unquote_to_bytes(encoded))
