"""A cell, and clients of it that check every answer strictly."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from importlib.metadata import version
from typing import Any

import pytest
from kernel import Kernel
from relay import Relay
from support.cell import Cell

DIRECT = "curl,telemetry/stream,computer,process,fs,logs/stream"
"""What the newest client sends straight to the browser; the older one if it is told to."""

IS_NEWEST = version("kernel") != "0.93.0"


@pytest.fixture(scope="session")
def cell() -> Iterator[Cell]:
    cell = Cell()
    yield cell
    cell.close()


@pytest.fixture
def relay(cell: Cell) -> Iterator[Relay]:
    relay = Relay(cell.url)
    yield relay
    relay.close()


@pytest.fixture
def connect(cell: Cell, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Kernel]]:
    """Makes clients: by default of the gateway, with everything direct that can be."""
    clients = []

    def connect(base_url: str = cell.url, direct: str | None = DIRECT, **more: Any) -> Kernel:
        monkeypatch.delenv("KERNEL_BROWSER_ROUTING_SUBRESOURCES", raising=False)
        if direct is not None:
            monkeypatch.setenv("KERNEL_BROWSER_ROUTING_SUBRESOURCES", direct)
        client = Kernel(api_key=cell.api_key, base_url=base_url, _strict_response_validation=True, **more)
        clients.append(client)
        return client

    yield connect
    for client in clients:
        client.close()


@pytest.fixture
def client(connect: Callable[..., Kernel]) -> Kernel:
    return connect()


@pytest.fixture
def browser(client: Kernel) -> Iterator[Any]:
    browser = client.browsers.create(timeout_seconds=600)
    yield browser
    client.browsers.delete_by_id(browser.session_id)


def eventually(what: str, look: Callable[[], Any], seconds: float = 30) -> Any:
    """Looks until there is something."""
    until = time.monotonic() + seconds
    while not (found := look()):
        assert time.monotonic() < until, what
        time.sleep(0.05)
    return found


def paths(cell: Cell) -> list[str]:
    """Returns what the gateway was asked for so far, by its access log."""
    lines = (json.loads(line) for line in (cell.folder / "gateway.log").read_text().splitlines())
    return [line["path"] for line in lines if line["target"] == "access" and "path" in line]
