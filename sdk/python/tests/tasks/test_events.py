"""Events of a real cell: as they happen over a gateway that is killed, and after their instance is gone."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from support.cell import Cell

import landfast
from landfast import AsyncInstance, AsyncLandfast, Event, EventGap

pytestmark = pytest.mark.anyio


@pytest.fixture
async def instance(cell: Cell) -> AsyncIterator[AsyncInstance]:
    async with AsyncLandfast(cell.url, cell.api_key) as client:
        instance = await client.instances.create()
        yield instance
        await instance.delete()


class Recorder(httpx.AsyncBaseTransport):
    """Connections as they are, and a list of what went over them."""

    def __init__(self) -> None:
        self._inner = httpx.AsyncHTTPTransport()
        self.sent: list[tuple[str, str, str]] = []

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.sent.append((request.method, request.url.path, request.headers["authorization"].removeprefix("Bearer ")))
        return await self._inner.handle_async_request(request)

    async def aclose(self) -> None:
        await self._inner.aclose()


async def test_a_stream_outlives_its_gateway_without_a_hole(cell: Cell, instance: AsyncInstance) -> None:
    # Exits that come while the gateway is away, and after it.
    for seconds in (0, 1, 2, 3, 6, 7):
        await instance.processes.start(["sleep", str(seconds)])
    seen: list[Event] = []
    away = None
    async for event in instance.events.stream(replay=True):
        assert isinstance(event, Event), event
        seen.append(event)
        exits = [one for one in seen if one.type == "process_exit"]
        if away is None and exits:
            away = cell.gateway.is_away(5)
        if len(exits) == 6:
            break
    assert [event.seq for event in seen] == list(range(1, len(seen) + 1))
    assert len({event.id for event in seen}) == len(seen)


async def test_a_stream_goes_on_after_an_event_and_says_only_what_is_wanted(instance: AsyncInstance) -> None:
    first = await instance.events.say("wanted", {"n": 1})
    await instance.events.say("other")
    await instance.events.say("wanted", {"n": 2}, source={"kind": "test"})
    stream = instance.events.stream(types=["wanted"], replay=True)
    events = [await anext(stream), await anext(stream)]
    await stream.aclose()
    assert isinstance(events[0], Event) and isinstance(events[1], Event)
    assert (events[0].seq, events[0].data, events[0].category) == (first.seq, {"n": 1}, "custom")
    stream = instance.events.stream(types=["wanted"], after=events[0].id)
    assert await anext(stream) == events[1]
    await stream.aclose()


async def test_a_stream_that_comes_back_too_late_is_told_of_the_gap(instance: AsyncInstance) -> None:
    said = await instance.events.say("custom")
    stream = instance.events.stream(after=f"1.{said.seq}")
    gap = await anext(stream)
    await stream.aclose()
    assert isinstance(gap, EventGap) and gap.start is not None and gap.end is not None


async def test_stored_events_are_read_page_by_page(instance: AsyncInstance) -> None:
    for number in range(5):
        await instance.events.say("counted", number)
    page = await instance.events.page(types=["counted"], limit=2)
    found = list(page.items)
    while page.has_more:
        page = await instance.events.page(types=["counted"], limit=2, offset=page.next_offset)
        found += page.items
    assert [event.data for event in found if isinstance(event, Event)] == [0, 1, 2, 3, 4]


async def test_what_pages_do_can_be_watched(instance: AsyncInstance) -> None:
    assert await instance.events.watch(console=True) == {"console": True, "network": False, "page": False}
    assert await instance.events.watch(page=True) == {"console": True, "network": False, "page": True}


async def test_events_of_a_deleted_instance_take_one_direct_attempt_and_one_request(cell: Cell) -> None:
    recorder = Recorder()
    async with AsyncLandfast(cell.url, cell.api_key, transport=recorder) as client:
        instance = await client.instances.create()
        said = await instance.events.say("last", "farewell")
        stream = instance.events.stream(types=["last"], replay=True)
        streamed = await anext(stream)
        await stream.aclose()
        route = client.routes.get(instance.id)
        assert route is not None and isinstance(streamed, Event) and streamed.seq == said.seq
        # Deleted by somebody else: the client still knows the way to it.
        async with AsyncLandfast(cell.url, cell.api_key) as other:
            found = await other.instances.get(instance.id)
            await found.delete()
            while found.phase != "deleted":
                await found.refresh()
        recorder.sent.clear()
        page = await instance.events.page(types=["last"])
        path = f"/{instance.id}/telemetry/events"
        assert recorder.sent == [("GET", f"/i{path}", route.token), ("GET", f"/v1/instances{path}", cell.api_key)]
        assert [event.data for event in page.items if isinstance(event, Event)] == ["farewell"]
        assert client.routes.get(instance.id) is None
        with pytest.raises(landfast.InstanceGone):
            await anext(instance.events.stream(after=streamed.id))
