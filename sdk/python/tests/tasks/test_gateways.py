"""Two gateways of a real cell, of which one goes away and does not come back."""

from __future__ import annotations

import pytest
from support.cell import Cell

import landfast
from landfast import AsyncLandfast, Event, Exited, Gap, InputUnsure, Output, ReplayEnd

pytestmark = pytest.mark.anyio

LINES = 400
"""Lines that a process says in about four seconds."""

WRITER = f"i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo line $i; sleep 0.01; done; exit 7"


@pytest.mark.parametrize("end", ["kill", "stop"])
async def test_a_terminal_and_calls_go_on_at_the_other_gateway(cell: Cell, end: str) -> None:
    url, first = cell.another_gateway()
    async with AsyncLandfast([url, cell.url], cell.api_key) as client:
        instance = await client.instances.create()
        async with await instance.processes.terminal(WRITER) as terminal:
            said, is_gone = b"", False
            async for event in terminal:
                assert isinstance(event, (Output, Exited, ReplayEnd)), event
                said += event.data if isinstance(event, Output) else b""
                if not is_gone and said.count(b"\n") >= 50:
                    is_gone = True
                    getattr(first, end)()
        assert said == b"".join(b"line %d\r\n" % number for number in range(1, LINES + 1))
        assert terminal.exit == Exited(7) and terminal.connections == 2
        assert (await instance.processes.run("cat", input="direct")).stdout == b"direct"
        await instance.files.write("here", b"files")
        assert await instance.files.read("here") == b"files"
        assert instance.id in [one.id async for one in client.instances.list()]
        await instance.delete()


async def test_a_terminal_whose_gateway_falls_silent_goes_on_at_the_other(
    cell: Cell, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("landfast._async._io", "landfast._sync._io"):
        monkeypatch.setattr(f"{module}.SILENCE_SECONDS", 0.5)
    url, first = cell.another_gateway()
    async with AsyncLandfast([url, cell.url], cell.api_key) as client:
        instance = await client.instances.create()
        async with await instance.processes.terminal(WRITER) as terminal:
            said, is_frozen = b"", False
            async for event in terminal:
                assert isinstance(event, (Output, Exited, ReplayEnd)), event
                said += event.data if isinstance(event, Output) else b""
                if not is_frozen and said.count(b"\n") >= 50:
                    is_frozen = True
                    first.freeze()
        assert said == b"".join(b"line %d\r\n" % number for number in range(1, LINES + 1))
        assert terminal.exit == Exited(7) and terminal.connections == 2
        first.kill()
        await instance.delete()


async def test_a_reader_that_stands_still_keeps_its_connection(cell: Cell) -> None:
    # A gateway gives up who takes nothing for so long, and fills what is between with more than it holds.
    url, gateway = cell.another_gateway("slow_client_timeout_ms = 300")
    async with AsyncLandfast(url, cell.api_key) as client:
        instance = await client.instances.create()
        process = await instance.processes.start("head -c 30000000 /dev/zero; sleep 1; touch over")
        async with process.attach() as attachment:
            changes = instance.files.watch(".")
            while not (await changes.__anext__()).path.endswith("/over"):
                pass
            events = [event async for event in attachment]
        told = sum(len(event.data) for event in events if isinstance(event, Output))
        evicted = sum(event.end - event.start for event in events if isinstance(event, Gap))
        assert (told + evicted, attachment.connections) == (30_000_000, 1)
        await instance.delete()
    gateway.kill()


async def test_events_go_on_at_the_other_gateway(cell: Cell) -> None:
    url, first = cell.another_gateway()
    async with AsyncLandfast(f"{url},{cell.url}", cell.api_key) as client:
        instance = await client.instances.create()
        await instance.events.say("said", {"number": 1})
        heard = []
        async for event in instance.events.stream(types=["said"], replay=True):
            assert isinstance(event, Event), event
            heard.append(event.data["number"])
            if len(heard) == 1:
                first.kill()
            if len(heard) == 3:
                break
            await instance.events.say("said", {"number": len(heard) + 1})
        assert heard == [1, 2, 3]
        await instance.delete()


async def test_input_at_a_gateways_death_is_told_and_never_typed_twice(cell: Cell) -> None:
    url, first = cell.another_gateway()
    async with AsyncLandfast([url, cell.url], cell.api_key) as client:
        instance = await client.instances.create()
        process = await instance.processes.start("while read line; do echo got $line; done")
        async with process.attach() as attachment:
            await attachment.send(b"first\n")
            said = b""
            while said != b"got first\n":
                event = await attachment.__anext__()
                said += event.data if isinstance(event, Output) else b""
            first.freeze()
            await attachment.send(b"second\n")
            first.kill()
            assert await attachment.__anext__() == InputUnsure()
            await attachment.send(b"third\n")
            await attachment.end_input()
            events = [event async for event in attachment]
        said = b"".join(event.data for event in events if isinstance(event, Output))
        assert said in (b"got second\ngot third\n", b"got third\n") and events[-1] == Exited(0)
        await instance.delete()


async def test_where_no_gateway_is_reached_nothing_was_started() -> None:
    async with AsyncLandfast(["http://127.0.0.1:1", "http://127.0.0.1:2"], "key", retries=0) as client:
        with pytest.raises(landfast.Unreachable):
            await client.instances.create()
