"""Servers inside an instance."""

from __future__ import annotations

from typing import Any

import httpx

from .._names import inner_path, plain
from .._records import ServiceRecord, items_of
from .caller import AsyncCaller
from .transport import FORCED


class AsyncServices:
    """The servers of one instance."""

    def __init__(self, caller: AsyncCaller, instance: str) -> None:
        self._caller = caller
        self._instance = instance

    async def list(self) -> list[ServiceRecord]:
        """Lists them. Safe to repeat."""
        answer = await self._caller.json("GET", f"/instances/{self._instance}/services", direct=True)
        return [ServiceRecord.read(item) for item in items_of(answer, "services")]

    async def restart(self, name: str) -> None:
        """Starts one anew; returns once that was begun. Raises `ServiceUnknown`."""
        await self._caller.call("POST", f"/instances/{self._instance}/services/{plain(name)}/restart", direct=True)

    async def output(self, name: str, start: int = 0) -> bytes:
        """Reads what one has said, from this offset of its output log. Safe to repeat."""
        path = f"/instances/{self._instance}/services/{plain(name)}/output"
        return (await self._caller.call("GET", path, params={"from": start}, direct=True)).content

    async def request(self, name: str | int, method: str, path: str = "/", **more: Any) -> httpx.Response:
        """Sends a request to one, by its name or its port, and returns whatever it answers.

        Takes what `httpx.AsyncClient.request` takes. A request that may have run is not sent again unless it is safe.
        """
        extensions = {**more.pop("extensions", {}), FORCED: True}
        url = f"/v1/instances/{self._instance}/{plain(name)}/{inner_path(path)}"
        return await self._caller.http.request(method, url, extensions=extensions, **more)

    async def url(self, name: str | int) -> str:
        """Where one is, for other programs; they need a token (`Instance.create_token`)."""
        route = await self._caller.route(self._instance)
        return f"{route.base_url}/{plain(name)}/"
