"""A browser of a real cell, and a program that leads to it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import httpx
import pytest
from support.cdp import evaluate
from support.cell import Cell, binary

import landfast
from landfast import Landfast

pytestmark = pytest.mark.anyio


@pytest.fixture
def client(cell: Cell) -> Iterator[Landfast]:
    with Landfast(cell.url, cell.api_key) as client:
        yield client


def test_a_browser_is_driven_restarted_and_looked_at(client: Landfast) -> None:
    instance = client.instances.create("browser")
    browser = instance.browser
    url = browser.cdp_url()
    assert evaluate(url, "6 * 7") == 42
    before = browser.state()
    assert before.state == "up" and before.version is not None
    assert (browser.screenshot()).startswith(b"\x89PNG")
    after = browser.restart()
    assert (after.state, after.start) == ("up", before.start + 1)
    assert "--user-agent=other" in (browser.set_flags(["--user-agent=other"])).flags
    assert evaluate(browser.cdp_url(), "navigator.userAgent") == "other"
    stream = instance.events.stream(types=["cdp_connect"], replay=True)
    assert isinstance(next(stream), landfast.Event)
    stream.close()
    with client.forward(instance, "cdp", binary=str(binary())) as forward:
        with httpx.Client() as plain:
            told = json.loads((plain.get(f"{forward.address}/json/version")).text)
        assert evaluate(told["webSocketDebuggerUrl"], "1 + 1") == 2
    instance.delete()


def test_a_sandbox_is_no_browser(client: Landfast) -> None:
    instance = client.instances.create()
    with pytest.raises(landfast.ProtocolFailure):
        instance.browser.cdp_url()
    with pytest.raises(landfast.LandfastError):
        instance.browser.state()
    instance.delete()
