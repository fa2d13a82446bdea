"""What happens in an instance, as it happens and afterwards."""

from __future__ import annotations

import json
import time
from collections.abc import Generator, Mapping, Sequence
from typing import Any, Literal

from .._endings import may_pass
from .._failure import LandfastError, ProtocolFailure
from .._records import Event, EventGap, EventPage, items_of, read_event
from .._retry import pause_before
from .._sse import Decoder, Frame
from ._io import sleep
from .attachment import PATIENCE_SECONDS
from .caller import Caller, json_of

SILENCE_SECONDS = 45.0
"""After how much silence a stream counts as cut: three times what the agent keeps."""

ALIVE = Frame("alive", None, None)
"""Stands for bytes that came, whatever they mean: then the connection is good."""


class Events:
    """The events of one instance."""

    def __init__(self, caller: Caller, instance: str) -> None:
        self._caller = caller
        self._path = f"/instances/{instance}/telemetry"

    def stream(
        self,
        *,
        types: Sequence[str] = (),
        after: str | None = None,
        replay: bool = False,
        patience: float = PATIENCE_SECONDS,
    ) -> Generator[Event | EventGap]:
        """Goes through events as they happen: from now on, `after` an id, or with `replay` from the oldest remembered.

        Disconnects are hidden: the next connection goes on after the last event; what was lost is an `EventGap`.
        Raises how the instance ended, or what kept it from being reached for `patience` seconds.
        """
        last, attempt, deadline = after, 0, time.monotonic() + patience
        while True:
            try:
                for frame in self._frames(types, last, replay):
                    last, attempt, deadline = frame.id or last, 0, 0.0
                    if frame.data is not None:
                        yield _event(frame)
            except LandfastError as failure:
                # What keeps a stream that stood from standing again is given its whole patience.
                deadline = deadline or time.monotonic() + patience
                if not may_pass(failure) or time.monotonic() >= deadline:
                    raise
            if last is None and not replay:
                # Nobody can say what happened between the two connections.
                yield EventGap(None, None)
            if attempt > 0:
                sleep(pause_before(attempt - 1))
            attempt += 1

    def _frames(self, types: Sequence[str], last: str | None, replay: bool) -> Generator[Frame]:
        params = {"type": ",".join(types) or None, "replay": "all" if replay and last is None else None}
        headers = {"Accept": "text/event-stream"} | ({"Last-Event-ID": last} if last is not None else {})
        decoder = Decoder()
        stream = self._caller.stream(f"{self._path}/stream", params=params, headers=headers, silence=SILENCE_SECONDS)
        with stream as response:
            for part in response.iter_bytes():
                yield ALIVE
                for frame in decoder.feed(part):
                    yield frame

    def page(
        self,
        *,
        since: str | int | None = None,
        until: str | int | None = None,
        limit: int | None = None,
        offset: int | None = None,
        order: Literal["asc", "desc"] | None = None,
        types: Sequence[str] = (),
        categories: Sequence[str] = (),
    ) -> EventPage:
        """Reads events that were stored; of an instance that is gone, for 30 days. Safe to repeat.

        `since` and `until` are microseconds since 1970, RFC 3339, or how long ago, such as `"5m"`.
        """
        params = {
            "since": since,
            "until": until,
            "limit": limit,
            "offset": offset,
            "order": order,
            "type": ",".join(types) or None,
            "category": ",".join(categories) or None,
        }
        response = self._caller.call("GET", f"{self._path}/events", params=params)
        items = [read_event(item) for item in items_of({"events": json_of(response)}, "events")]
        next_offset = int(response.headers.get("x-next-offset", 0))
        return EventPage(items, next_offset, response.headers.get("x-has-more") == "true")

    def say(self, type: str, data: Any = None, *, source: Mapping[str, Any] | None = None) -> Event:
        """Says an event of the caller's own. After `Broken` it may have been said."""
        body = {"type": type, "data": data} | ({"source": dict(source)} if source else {})
        event = read_event(self._caller.json("POST", f"{self._path}/events", body=body, direct=True))
        if not isinstance(event, Event):
            raise ProtocolFailure("An event was expected.")
        return event

    def watch(
        self, *, console: bool | None = None, network: bool | None = None, page: bool | None = None
    ) -> dict[str, bool]:
        """Says which events of the browser's pages are wanted; what is not said stays as it is. Safe to repeat."""
        said = {"console": console, "network": network, "page": page}
        body = {name: value for name, value in said.items() if value is not None}
        answer: dict[str, bool] = self._caller.json("PATCH", self._path, body=body, direct=True)
        return answer


def _event(frame: Frame) -> Event | EventGap:
    try:
        return read_event(json.loads(frame.data or ""), frame.id)
    except ValueError as error:
        raise ProtocolFailure(f"An event that is no JSON: {error}.") from error
