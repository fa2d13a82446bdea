"""The browser that an instance of kind `browser` is."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from .._failure import ProtocolFailure
from .._records import BrowserRecord, InstanceRecord
from .caller import CONNECT_SECONDS, AsyncCaller

START_SECONDS = 120.0
"""How long a call that starts Chromium may take: a start may take 90 seconds."""


class AsyncBrowser:
    """The browser of one instance. Its events are among the instance's."""

    def __init__(self, caller: AsyncCaller, instance: str) -> None:
        self._caller = caller
        self._instance = instance
        self._path = f"/instances/{instance}/browser"

    async def state(self) -> BrowserRecord:
        """Asks how it is. Safe to repeat. Raises `ServiceUnknown` if the instance is no browser."""
        return BrowserRecord.read(await self._caller.json("GET", self._path, direct=True))

    async def restart(self) -> BrowserRecord:
        """Starts it anew, and returns once it is up; its pages are lost. Who asks meanwhile shares the restart."""
        return BrowserRecord.read(
            await self._caller.json("POST", f"{self._path}/restart", direct=True, seconds=START_SECONDS)
        )

    async def set_flags(self, flags: Sequence[str]) -> BrowserRecord:
        """Sets the flags of Chromium's command line, and returns once it is up with them. Safe to repeat."""
        body = {"flags": list(flags)}
        return BrowserRecord.read(
            await self._caller.json("PATCH", f"{self._path}/flags", body=body, direct=True, seconds=START_SECONDS)
        )

    async def screenshot(
        self,
        *,
        format: Literal["png", "jpeg", "webp"] = "png",
        quality: int | None = None,
        full_page: bool = False,
        target: str | None = None,
    ) -> bytes:
        """Takes a picture of the page that was opened last, or of the target. Safe to repeat."""
        params = {"format": format, "quality": quality, "full_page": "true" if full_page else None, "target": target}
        response = await self._caller.call(
            "GET", f"{self._path}/screenshot", params=params, direct=True, seconds=START_SECONDS + CONNECT_SECONDS
        )
        return response.content

    async def cdp_url(self) -> str:
        """The URL for Playwright (`connect_over_cdp`), Puppeteer and other clients of CDP, with a fresh token in it.

        Whoever has it has the browser, for an hour; what is connected by then stays connected.
        """
        record = InstanceRecord.read(await self._caller.json("GET", f"/instances/{self._instance}"))
        if record.cdp_url is None:
            raise ProtocolFailure("The instance has no CDP URL: it is no browser, or it has ended.")
        return record.cdp_url
