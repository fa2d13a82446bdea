"""After which ends a conversation goes on by itself: a cut does not end it, somebody with authority does."""

from __future__ import annotations

from . import errors
from ._failure import LandfastError, Retry, UnknownRefusal

PASSING_CLOSES = frozenset({1001, 1006, 1012, 1013, 1014})
"""Closes without a code of ours, by something in between: going away, cut, restarting, busy, bad gateway."""

PASSING_CODES = frozenset({"client.lost", "session.slow_client", "session.unknown", "upstream.lost"})
"""Ends of a connection, not of what is behind it: what follows begins where this one stopped."""

PASSING_STATUSES = frozenset({502, 503, 504})
"""What a proxy says when it does not reach us."""


def ending_of(close_code: int | None, reason: str) -> LandfastError | None:
    """Why a conversation is over after such a close; None if it goes on. No close frame means a cut."""
    if close_code is None:
        return None
    failure = errors.from_close(close_code, reason)
    if isinstance(failure, UnknownRefusal):
        return None if close_code in PASSING_CLOSES else failure
    return None if may_pass(failure) else failure


def may_pass(failure: LandfastError) -> bool:
    """Whether trying to connect again may help."""
    if isinstance(failure, UnknownRefusal):
        return failure.status in PASSING_STATUSES
    return failure.retry is not Retry.NEVER or failure.code in PASSING_CODES
