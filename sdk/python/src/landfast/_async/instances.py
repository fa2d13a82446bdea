"""Instances: the stateful things that clients want."""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from .._names import plain
from .._records import InstanceRecord, Token, items_of
from .browser import AsyncBrowser
from .caller import DEADLINE_SECONDS, AsyncCaller
from .events import AsyncEvents
from .files import AsyncFiles
from .processes import AsyncProcesses
from .services import AsyncServices

PAGE = 200
"""Instances asked for at once when all are listed."""


class AsyncInstance:
    """One instance. What it does is below `processes`, `files`, `services`, `browser` and `events`."""

    def __init__(self, caller: AsyncCaller, record: InstanceRecord) -> None:
        self._caller = caller
        self.record = record
        """What was told of it last; `refresh` asks again."""
        self.id = record.id
        self.processes = AsyncProcesses(caller, record.id)
        self.files = AsyncFiles(caller, record.id)
        self.services = AsyncServices(caller, record.id)
        self.browser = AsyncBrowser(caller, record.id)
        self.events = AsyncEvents(caller, record.id)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.phase}>"

    @property
    def phase(self) -> str:
        """What it was when it was last asked for: `running`, `sleeping`, …"""
        return self.record.phase

    @property
    def labels(self) -> dict[str, str]:
        """Its labels."""
        return self.record.labels

    async def refresh(self) -> AsyncInstance:
        """Asks how it is. Safe to repeat."""
        return await self._told("GET", "")

    async def delete(self) -> None:
        """Deletes it with everything in it. What happened in it can be read for 30 days. Safe to repeat."""
        await self._caller.call("DELETE", f"/instances/{self.id}")

    async def stop(self) -> AsyncInstance:
        """Stops it and keeps its record. Safe to repeat."""
        return await self._told("POST", "/stop")

    async def move(self, node: str | None = None, *, wait: int = 30) -> AsyncInstance:
        """Moves it to the node of this name or id, or to the best other one, and waits so many seconds for that.

        Raises `MoveRefused`, or `MoveFailed` if it stays where it was.
        """
        return await self._told("POST", "/move", body={"node": node}, wait=wait)

    async def sleep(self, *, wait: int = 30) -> AsyncInstance:
        """Puts it to sleep, and waits so many seconds until it does. Safe to repeat. Raises `SleepRefused`."""
        return await self._told("POST", "/sleep", wait=wait)

    async def wake(self, *, wait: int = 30) -> AsyncInstance:
        """Wakes it, and waits so many seconds until it runs. Safe to repeat; every request to it wakes it too."""
        return await self._told("POST", "/wake", wait=wait)

    async def create_token(self, *, scopes: Sequence[str] = ("all",), seconds: int = 3600) -> Token:
        """Makes an access token for it, for others; good for a day at most.

        Scopes are `all`, `process`, `files`, `browser` and `telemetry`.
        """
        body = {"scopes": list(scopes), "ttl_seconds": seconds}
        return Token.read(await self._caller.json("POST", f"/instances/{self.id}/tokens", body=body))

    async def _told(self, method: str, verb: str, *, body: object = None, wait: int = 0) -> AsyncInstance:
        params = {"wait": wait} if wait else None
        answer = await self._caller.json(
            method, f"/instances/{self.id}{verb}", body=body, params=params, seconds=DEADLINE_SECONDS + wait
        )
        self.record = InstanceRecord.read(answer)
        return self


class AsyncInstances:
    """Makes, finds and lists instances."""

    def __init__(self, caller: AsyncCaller) -> None:
        self._caller = caller

    async def create(
        self,
        kind: str = "sandbox",
        *,
        labels: Mapping[str, str] | None = None,
        wait: int = 60,
        idempotency_key: str | None = None,
        **spec: Any,
    ) -> AsyncInstance:
        """Creates an instance and waits so many seconds, 60 at most, until it runs or has ended; look at its `phase`.

        `spec` is how it is to be, as in the API reference: `env`, `services`, `restart`, `network`, `limits`,
        `idle_timeout` (seconds), `browser`, … With the same `idempotency_key` within 24 hours the same instance is
        answered.
        """
        body = {"kind": kind, "labels": dict(labels or {}), "spec": spec}
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        answer = await self._caller.json(
            "POST", "/instances", body=body, params={"wait": wait}, headers=headers, seconds=DEADLINE_SECONDS + wait
        )
        return AsyncInstance(self._caller, InstanceRecord.read(answer))

    async def get(self, instance: str) -> AsyncInstance:
        """Finds the instance of this id; for 24 hours also one that was deleted. Raises `InstanceUnknown`."""
        answer = await self._caller.json("GET", f"/instances/{plain(instance)}")
        return AsyncInstance(self._caller, InstanceRecord.read(answer))

    async def list(
        self, *, labels: Mapping[str, str] | None = None, phase: str | None = None
    ) -> AsyncGenerator[AsyncInstance]:
        """Goes through all instances with these labels and in this phase, oldest first, over all pages."""
        label = [f"{name}={value}" for name, value in (labels or {}).items()]
        cursor: str | None = None
        while True:
            params = {"limit": PAGE, "cursor": cursor, "label": label or None, "phase": phase}
            page = await self._caller.json("GET", "/instances", params=params)
            for item in items_of(page, "items"):
                yield AsyncInstance(self._caller, InstanceRecord.read(item))
            cursor = page.get("next_cursor")
            if cursor is None:
                return
