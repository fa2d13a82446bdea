"""Whether and when a failed request is sent again.

Only the error table allows it. A status alone says nothing: a 503 that a program wrote may have done its work first.
"""

from __future__ import annotations

import email.utils
import random
import time
from dataclasses import dataclass, field

import httpx

from ._errors import TABLE
from ._failure import Retry

RETRIES = 2
"""Further attempts: enough for a restarted gateway, few enough that a person still waits for the answer."""

FIRST_SECONDS = 0.5
"""The first pause; it doubles."""

LONGEST_SECONDS = 8.0
"""The longest pause of our own choosing."""

LONGEST_ASKED_SECONDS = 60.0
"""The longest pause a server may ask for; beyond it the caller hears the refusal instead."""

IDEMPOTENT_METHODS = frozenset({"GET", "HEAD", "PUT", "DELETE"})


@dataclass
class Retries:
    """How often one call was made again."""

    most: int = RETRIES
    made: int = field(default=0, init=False)

    def after(self, retry: Retry, *, is_idempotent: bool, asked: float | None = None) -> float | None:
        """The seconds to wait before the call is made again, or None to give up."""
        allowed = retry is Retry.SAFE or (retry is Retry.IF_IDEMPOTENT and is_idempotent)
        if not allowed or self.made >= self.most:
            return None
        if asked is not None and asked > LONGEST_ASKED_SECONDS:
            return None
        pause = pause_before(self.made) if asked is None else asked
        self.made += 1
        return pause


def pause_before(attempt: int) -> float:
    """The seconds before the retry of this number, from 0: doubling, less up to a quarter so that callers spread."""
    return min(FIRST_SECONDS * 2.0 ** min(attempt, 10), LONGEST_SECONDS) * (1 - random.random() / 4)


def is_idempotent(request: httpx.Request) -> bool:
    """Whether the request may run twice."""
    return request.method in IDEMPOTENT_METHODS or "idempotency-key" in request.headers


def said_by(headers: httpx.Headers) -> Retry:
    """What the error table says of an answer; nothing is sent again on any other word."""
    row = TABLE.get(headers.get("landfast-error", ""))
    return Retry.NEVER if row is None else row.retry


def asked_by(headers: httpx.Headers) -> float | None:
    """The seconds for which the server asks to wait."""
    millis = _number(headers.get("retry-after-ms"))
    if millis is not None:
        return millis / 1000
    text = headers.get("retry-after")
    seconds = _number(text)
    if seconds is not None or text is None:
        return seconds
    try:
        return max(email.utils.parsedate_to_datetime(text).timestamp() - time.time(), 0.0)
    except ValueError:
        return None


def _number(text: str | None) -> float | None:
    try:
        number = float(text) if text is not None else -1.0
    except ValueError:
        return None
    return number if 0 <= number < float("inf") else None
