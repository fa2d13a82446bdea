"""Why a call failed: what every exception of this package has in common.

A caller needs three things of a failure: what went wrong (`code`), whether the same call may be made again
(`retryable`), and what to tell us (`request_id`). The rows of the error table are in `_errors`, one class each;
what no answer tells (no connection, a broken one) is here.
"""

from __future__ import annotations

import enum

import httpx


class Retry(enum.Enum):
    """When the same request may be sent again."""

    NEVER = "never"
    SAFE = "safe"
    """Nothing was started: any request may be sent again."""
    IF_IDEMPOTENT = "if idempotent"
    """It may have run: only a request that is safe to repeat may be sent again."""


class LandfastError(Exception):
    """Something failed. Every failure of this package is one of these."""

    code: str = "unknown"
    """The row of the error table, such as `instance.gone`; `unknown` where Landfast said none."""
    status: int | None = None
    """The HTTP status; of a failure without an answer, the one that the table has for its cause."""
    close_code: int | None = None
    """The close code of a WebSocket that ends with this cause."""
    retry: Retry = Retry.NEVER
    """When the same request may be sent again."""
    sentence: str = ""
    """What happened, the same for every failure of this row."""
    advice: str = ""
    """What to do about it."""

    def __init__(self, detail: str = "", *, request_id: str | None = None) -> None:
        self.detail = detail
        """What exactly was wrong this time."""
        self.request_id = request_id
        """The id of the request, for a report; None if no answer came."""
        super().__init__(" ".join(part for part in (self.sentence, detail, self.advice) if part))

    @property
    def retryable(self) -> bool:
        """Whether the very same call may be made again without looking first: nothing was started by this one."""
        return self.retry is Retry.SAFE


class Refused(LandfastError):
    """Landfast, or a program in the instance, answered no."""


class CallerError(Refused):
    """The caller asked for what cannot be."""


class InstanceError(Refused):
    """The cause lies with the instance's own program."""


class PlatformError(Refused):
    """The cause lies with Landfast, or with the machines it runs on."""


class OrdinaryEnd(Refused):
    """Nobody's fault: a conversation that is over."""


class UnknownRefusal(Refused):
    """An answer that says no and is no row of the error table: a program's own, a proxy's, or a newer release's."""

    def __init__(self, status: int, code: str, detail: str = "", *, request_id: str | None = None) -> None:
        self.status = status
        self.code = code
        super().__init__(detail or f"The answer was {status}.", request_id=request_id)


class TransportFailure(LandfastError, httpx.TransportError):
    """The way to Landfast failed. It is a `httpx.TransportError` too, for who handles those already."""

    _request: httpx.Request | None = None


class Unreachable(TransportFailure):
    """No connection could be made. Nothing was started."""

    code = "unreachable"
    retry = Retry.SAFE
    sentence = "Landfast could not be reached; nothing was started."
    advice = "Try again, or check the URL."


class Broken(TransportFailure):
    """The connection broke before the whole answer had come. The call may have run."""

    code = "broken"
    retry = Retry.IF_IDEMPOTENT
    sentence = "The connection broke before the whole answer had come; the call may have run."
    advice = "Repeat it if that is safe; else look first."


class TimedOut(Broken):
    """No whole answer came in time. The call may have run."""

    code = "timed_out"
    sentence = "No whole answer came in time; the call may have run."


class ProtocolFailure(LandfastError):
    """What answered does not speak our protocol."""

    code = "protocol"
    sentence = "The answer is none that Landfast gives."
    advice = "Check that the URL leads to Landfast, and that this package is not too old."


class Misused(LandfastError, ValueError):
    """The caller's own mistake, found before anything was sent."""

    code = "misused"
