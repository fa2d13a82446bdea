"""How far a file's content has come, without waiting for anything: which version it is of, and where it goes on.

Connections come and go; what the next one brings is of the same version, or all that came is void.
"""

from __future__ import annotations

import httpx

from . import errors
from ._failure import LandfastError, ProtocolFailure

RESTARTS = 8
"""How often a content is begun anew: a file that is another one at each of so many cuts is written all the time."""


class Content:
    """The bookkeeping of a file, or of its bytes from `start` to before `end`, over any number of answers."""

    def __init__(self, start: int, end: int | None, restarts: int) -> None:
        self._start = start
        self._end = end
        self._restarts = restarts
        self._has_begun = False
        self._version: str | None = None
        self.at = start
        """The offset of the next byte; it goes back when what came is void."""

    def headers(self) -> dict[str, str]:
        """What the next request says."""
        # Offsets are the file's, and not those of what somebody in between makes of it.
        headers = {"Accept-Encoding": "identity"}
        if self.at > 0 or self._end is not None:
            headers["Range"] = f"bytes={self.at}-{'' if self._end is None else self._end - 1}"
        if self.at > self._start and self._version is not None:
            headers["If-Range"] = self._version
        return headers

    def begin(self, status: int, headers: httpx.Headers) -> bool:
        """Takes the head of an answer, and says whether its body goes on at `at`; if not, ask anew.

        Raises `FileChanged` if it is of another version, and `ProtocolFailure` for what was not asked for.
        """
        self._has_begun = True
        version = _strong(headers.get("etag", ""))
        if self.at > self._start and (status != 206 or version != self._version):
            self._void(errors.TABLE["file.changed"]("It was replaced while it was read."))
            if self._start > 0 or self._end is not None or status != 200:
                return False
        first = headers.get("content-range", "").removeprefix("bytes ").partition("-")[0]
        if status == 206 and first != str(self.at):
            raise ProtocolFailure(f"The content begins at {first or 'no offset'}, and not at {self.at}.")
        self._version = version
        return True

    def take(self, count: int) -> int:
        """Takes so many bytes of the body, and says where the next one is."""
        self.at += count
        return self.at

    def lose(self, failure: LandfastError) -> None:
        """Takes that the connection is gone. Raises the failure if what came cannot be gone on with, nor begun anew."""
        if not self._has_begun:
            raise failure
        if self.at > self._start and self._version is None:
            self._void(failure)

    def _void(self, failure: LandfastError) -> None:
        if self._restarts == 0:
            raise failure
        self._restarts -= 1
        self.at = self._start


def _strong(etag: str) -> str | None:
    """A name that no other version has (RFC 9110, section 8.8.1); None if it may be two versions' name, or is none."""
    return etag if etag.startswith('"') else None
