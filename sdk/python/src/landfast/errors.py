"""Every exception that this package raises.

`LandfastError` is all of them. Below it are the rows of the error table (`InstanceGone`, `LimitRate`, …), grouped by
whose side the cause lies on (`CallerError`, `InstanceError`, `PlatformError`), and what no answer tells
(`Unreachable`, `Broken`, `TimedOut`).
"""

from __future__ import annotations

import json

import httpx

from . import _errors
from ._errors import *  # noqa: F403 - the rows are the point
from ._errors import TABLE
from ._failure import (
    Broken,
    CallerError,
    InstanceError,
    LandfastError,
    Misused,
    OrdinaryEnd,
    PlatformError,
    ProtocolFailure,
    Refused,
    Retry,
    TimedOut,
    TransportFailure,
    UnknownRefusal,
    Unreachable,
)

__all__ = [
    "TABLE",
    "Broken",
    "CallerError",
    "InstanceError",
    "LandfastError",
    "Misused",
    "OrdinaryEnd",
    "PlatformError",
    "ProtocolFailure",
    "Refused",
    "Retry",
    "TimedOut",
    "TransportFailure",
    "UnknownRefusal",
    "Unreachable",
]
__all__ += _errors.__all__


def from_answer(status: int, headers: httpx.Headers, body: bytes) -> Refused:
    """Makes the exception of an answer that says no."""
    problem = _problem(body)
    code = headers.get("landfast-error") or _text(problem, "code") or "unknown"
    # An answer of the control plane has passed a gateway, and has an id of each; the first is the one that both know.
    request_id = headers.get("landfast-request-id", "").partition(",")[0] or None
    detail = _text(problem, "detail")
    row = TABLE.get(code)
    if row is None:
        return UnknownRefusal(status, code, detail, request_id=request_id)
    return row("" if detail == row.sentence else detail, request_id=request_id)


def from_close(close_code: int, reason: str) -> Refused:
    """Makes the exception of a close frame: its reason begins with the code, a detail may follow."""
    code, _, detail = reason.partition(" ")
    row = TABLE.get(code)
    if row is None:
        return UnknownRefusal(0, code or "unknown", detail or f"The connection was closed with {close_code}.")
    return row(detail)


def _problem(body: bytes) -> dict[str, object]:
    try:
        problem = json.loads(body)
    except ValueError:
        return {}
    return problem if isinstance(problem, dict) else {}


def _text(problem: dict[str, object], key: str) -> str:
    value = problem.get(key)
    return value if isinstance(value, str) else ""
