"""One thread types while another reads, and the gateway is killed again and again."""

from __future__ import annotations

import asyncio
import contextlib
import re
import threading

import pytest
from support.cell import Cell

from landfast import AsyncLandfast, Exited, InputUnsure, Landfast, Misused, Output, ProcessEvent

KILLS = 3
LINES = 300
FLOOD = 200
"""Pieces of input, far more than all that is on the way can hold."""
ECHO = "while read line; do [ $line = end ] && exit; echo got $line; done"


def test_a_writer_and_a_reader_share_an_attachment_over_kills(cell: Cell) -> None:
    events: list[ProcessEvent] = []
    with Landfast(cell.url, cell.api_key) as client:
        instance = client.instances.create()
        with instance.processes.start(ECHO).attach() as attachment:
            reader = threading.Thread(target=lambda: events.extend(attachment))
            reader.start()
            for number in range(LINES):
                attachment.send(b"%d\n" % number)
                if number % (LINES // KILLS) == LINES // KILLS // 2:
                    cell.gateway.is_away(0.2).join()
            while reader.is_alive():
                # As often as it takes: the first may be lost in the last kill.
                with contextlib.suppress(Misused):
                    attachment.send(b"end\n")
                reader.join(0.5)
        instance.delete()
    _judge(events)


def test_a_writer_whom_nobody_reads_does_not_keep_a_reader_from_reading(cell: Cell) -> None:
    sizes: list[int] = []
    with Landfast(cell.url, cell.api_key) as client:
        instance = client.instances.create()
        script = "sleep 1; seq 1 20; while [ ! -e go ]; do sleep 0.05; done; wc -c"
        with instance.processes.start(script).attach() as attachment:

            def read() -> None:
                said = b""
                for event in attachment:
                    said += event.data if isinstance(event, Output) else b""
                    if said.endswith(b"\n20\n"):
                        instance.files.write("go", b"")
                sizes.append(int(said.split()[-1]))

            reader = threading.Thread(target=read)
            reader.start()
            for _ in range(FLOOD):
                attachment.send(bytes(64 * 1024))
            attachment.end_input()
            reader.join()
        instance.delete()
    assert sizes == [FLOOD * 64 * 1024]


@pytest.mark.anyio
async def test_a_writer_and_a_reader_share_an_attachment_over_kills_in_tasks(cell: Cell) -> None:
    events: list[ProcessEvent] = []
    async with AsyncLandfast(cell.url, cell.api_key) as client:
        instance = await client.instances.create()
        process = await instance.processes.start(ECHO)
        async with process.attach() as attachment:

            async def read() -> None:
                async for event in attachment:
                    events.append(event)

            reader = asyncio.create_task(read())
            for number in range(LINES):
                await attachment.send(b"%d\n" % number)
                if number % (LINES // KILLS) == LINES // KILLS // 2:
                    cell.gateway.is_away(0.2)
            while not reader.done():
                with contextlib.suppress(Misused):
                    await attachment.send(b"end\n")
                await asyncio.wait([reader], timeout=0.5)
            await reader
        await instance.delete()
    _judge(events)


def _judge(events: list[ProcessEvent]) -> None:
    """Every line came at most once and in order; where one is missing, the caller was told so."""
    said = b"".join(event.data for event in events if isinstance(event, Output))
    numbers = [int(number) for number in re.findall(rb"got (\d+)\n", said)]
    assert numbers == sorted(set(numbers)) and b"".join(b"got %d\n" % number for number in numbers) == said
    assert len(numbers) == LINES or InputUnsure() in events
    assert events.count(InputUnsure()) <= KILLS + 1 and events[-1] == Exited(0)
    assert sum(isinstance(event, Exited) for event in events) == 1
