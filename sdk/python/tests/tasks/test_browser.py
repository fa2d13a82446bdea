"""A browser of a real cell, and a program that leads to it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import httpx
import pytest
from support.cdp import evaluate
from support.cell import Cell, binary

import landfast
from landfast import AsyncLandfast

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(cell: Cell) -> AsyncIterator[AsyncLandfast]:
    async with AsyncLandfast(cell.url, cell.api_key) as client:
        yield client


async def test_a_browser_is_driven_restarted_and_looked_at(client: AsyncLandfast) -> None:
    instance = await client.instances.create("browser")
    browser = instance.browser
    url = await browser.cdp_url()
    assert evaluate(url, "6 * 7") == 42
    before = await browser.state()
    assert before.state == "up" and before.version is not None
    assert (await browser.screenshot()).startswith(b"\x89PNG")
    after = await browser.restart()
    assert (after.state, after.start) == ("up", before.start + 1)
    assert "--user-agent=other" in (await browser.set_flags(["--user-agent=other"])).flags
    assert evaluate(await browser.cdp_url(), "navigator.userAgent") == "other"
    stream = instance.events.stream(types=["cdp_connect"], replay=True)
    assert isinstance(await anext(stream), landfast.Event)
    await stream.aclose()
    async with client.forward(instance, "cdp", binary=str(binary())) as forward:
        async with httpx.AsyncClient() as plain:
            told = json.loads((await plain.get(f"{forward.address}/json/version")).text)
        assert evaluate(told["webSocketDebuggerUrl"], "1 + 1") == 2
    await instance.delete()


async def test_a_sandbox_is_no_browser(client: AsyncLandfast) -> None:
    instance = await client.instances.create()
    with pytest.raises(landfast.ProtocolFailure):
        await instance.browser.cdp_url()
    with pytest.raises(landfast.LandfastError):
        await instance.browser.state()
    await instance.delete()
