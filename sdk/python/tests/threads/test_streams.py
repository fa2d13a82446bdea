"""Event streams that are cut where it hurts, by a server that does as it is told."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.servers import Headers, Request, Server

import landfast
from landfast import Events, Landfast, Event, EventGap
from landfast.routing import Route

pytestmark = pytest.mark.anyio

GONE = (
    410,
    {"landfast-error": "instance.gone", "Content-Type": "application/problem+json"},
    b'{"code":"instance.gone"}',
)


@pytest.fixture(autouse=True)
def _short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landfast._retry.FIRST_SECONDS", 0.001)


def _frame(number: int) -> bytes:
    event = {"ts": 1, "type": "custom", "category": "custom", "source": {"kind": "test"}, "data": number}
    return b"id: 7.%d\ndata: %s\n\n" % (number, json.dumps({"seq": number, "event": event}).encode())


def _cut(frames: bytes) -> tuple[int, Headers, bytes]:
    """An answer that ends in the middle."""
    return 200, {"Content-Type": "text/event-stream", "Content-Length": "100000"}, frames


def _server(*answers: tuple[int, Headers, bytes]) -> Server:
    left: Iterator[tuple[int, Headers, bytes]] = iter(answers)

    def answer(_: Request) -> tuple[int, Headers, bytes]:
        return next(left)

    return Server(answer)


def _all_of(server: Server, types: tuple[str, ...] = ()) -> list[Event | EventGap]:
    """Everything that a stream says until its instance is gone."""
    found: list[Event | EventGap] = []
    with Landfast(server.url, "key") as client:
        client.routes.put("ins_1", Route(f"{server.url}/i/ins_1", "t1"))
        with pytest.raises(landfast.InstanceGone):
            for event in Events(client._caller, "ins_1").stream(types=types):
                found.append(event)
    return found


def test_a_stream_goes_on_after_the_last_whole_event() -> None:
    with _server(_cut(_frame(1) + _frame(2) + _frame(3)[:-1]), _cut(_frame(3)), GONE) as server:
        found = _all_of(server, ("custom",))
    assert [event.data for event in found if isinstance(event, Event)] == [1, 2, 3] and len(found) == 3
    assert [request.headers.get("last-event-id") for request in server.seen] == [None, "7.2", "7.3"]
    assert {request.path for request in server.seen} == {"/i/ins_1/telemetry/stream?type=custom"}


def test_an_id_without_an_event_moves_a_stream_on() -> None:
    with _server(_cut(b"id: 7.9\n\n"), GONE) as server:
        assert _all_of(server) == []
    assert server.seen[1].headers["last-event-id"] == "7.9"


def test_a_gap_is_told() -> None:
    gap = b'id: 8.4\ndata: {"type":"gap","from":"7.3","to":"8.5"}\n\n'
    with _server(_cut(_frame(2)), _cut(gap), GONE) as server:
        found = _all_of(server)
    assert found[1:] == [EventGap("7.3", "8.5")]


def test_a_stream_that_is_cut_before_its_first_event_says_that_nobody_knows() -> None:
    with _server(_cut(b":\n\n"), _cut(_frame(5)), GONE) as server:
        found = _all_of(server)
    assert found[0] == EventGap(None, None) and isinstance(found[1], Event) and len(found) == 2


def test_what_is_no_event_is_an_error() -> None:
    for frame in (b"id: 1.1\ndata: {\n\n", b"id: 1.1\ndata: {}\n\n", b"id: 1.1\ndata: []\n\n"):
        with _server(_cut(frame)) as server:
            with Landfast(server.url, "key") as client:
                client.routes.put("ins_1", Route(f"{server.url}/i/ins_1", "t1"))
                with pytest.raises(landfast.ProtocolFailure):
                    next(Events(client._caller, "ins_1").stream())
