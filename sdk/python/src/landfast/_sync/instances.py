"""Instances: the stateful things that clients want."""

from __future__ import annotations

import uuid
from collections.abc import Generator, Mapping, Sequence
from typing import Any

from .._names import plain
from .._records import InstanceRecord, Token, items_of
from .browser import Browser
from .caller import DEADLINE_SECONDS, Caller
from .events import Events
from .files import Files
from .processes import Processes
from .services import Services

PAGE = 200
"""Instances asked for at once when all are listed."""


class Instance:
    """One instance. What it does is below `processes`, `files`, `services`, `browser` and `events`."""

    def __init__(self, caller: Caller, record: InstanceRecord) -> None:
        self._caller = caller
        self.record = record
        """What was told of it last; `refresh` asks again."""
        self.id = record.id
        self.processes = Processes(caller, record.id)
        self.files = Files(caller, record.id)
        self.services = Services(caller, record.id)
        self.browser = Browser(caller, record.id)
        self.events = Events(caller, record.id)

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

    def refresh(self) -> Instance:
        """Asks how it is. Safe to repeat."""
        return self._told("GET", "")

    def delete(self) -> None:
        """Deletes it with everything in it. What happened in it can be read for 30 days. Safe to repeat."""
        self._caller.call("DELETE", f"/instances/{self.id}")

    def stop(self) -> Instance:
        """Stops it and keeps its record. Safe to repeat."""
        return self._told("POST", "/stop")

    def move(self, node: str | None = None, *, wait: int = 30) -> Instance:
        """Moves it to the node of this name or id, or to the best other one, and waits so many seconds for that.

        Raises `MoveRefused`, or `MoveFailed` if it stays where it was.
        """
        return self._told("POST", "/move", body={"node": node}, wait=wait)

    def sleep(self, *, wait: int = 30) -> Instance:
        """Puts it to sleep, and waits so many seconds until it does. Safe to repeat. Raises `SleepRefused`."""
        return self._told("POST", "/sleep", wait=wait)

    def wake(self, *, wait: int = 30) -> Instance:
        """Wakes it, and waits so many seconds until it runs. Safe to repeat; every request to it wakes it too."""
        return self._told("POST", "/wake", wait=wait)

    def create_token(self, *, scopes: Sequence[str] = ("all",), seconds: int = 3600) -> Token:
        """Makes an access token for it, for others; good for a day at most.

        Scopes are `all`, `process`, `files`, `browser` and `telemetry`.
        """
        body = {"scopes": list(scopes), "ttl_seconds": seconds}
        return Token.read(self._caller.json("POST", f"/instances/{self.id}/tokens", body=body))

    def _told(self, method: str, verb: str, *, body: object = None, wait: int = 0) -> Instance:
        params = {"wait": wait} if wait else None
        answer = self._caller.json(
            method, f"/instances/{self.id}{verb}", body=body, params=params, seconds=DEADLINE_SECONDS + wait
        )
        self.record = InstanceRecord.read(answer)
        return self


class Instances:
    """Makes, finds and lists instances."""

    def __init__(self, caller: Caller) -> None:
        self._caller = caller

    def create(
        self,
        kind: str = "sandbox",
        *,
        labels: Mapping[str, str] | None = None,
        wait: int = 60,
        idempotency_key: str | None = None,
        **spec: Any,
    ) -> Instance:
        """Creates an instance and waits so many seconds, 60 at most, until it runs or has ended; look at its `phase`.

        `spec` is how it is to be, as in the API reference: `env`, `services`, `restart`, `network`, `limits`,
        `idle_timeout` (seconds), `browser`, … With the same `idempotency_key` within 24 hours the same instance is
        answered.
        """
        body = {"kind": kind, "labels": dict(labels or {}), "spec": spec}
        headers = {"Idempotency-Key": idempotency_key or str(uuid.uuid4())}
        answer = self._caller.json(
            "POST", "/instances", body=body, params={"wait": wait}, headers=headers, seconds=DEADLINE_SECONDS + wait
        )
        return Instance(self._caller, InstanceRecord.read(answer))

    def get(self, instance: str) -> Instance:
        """Finds the instance of this id; for 24 hours also one that was deleted. Raises `InstanceUnknown`."""
        answer = self._caller.json("GET", f"/instances/{plain(instance)}")
        return Instance(self._caller, InstanceRecord.read(answer))

    def list(
        self, *, labels: Mapping[str, str] | None = None, phase: str | None = None
    ) -> Generator[Instance]:
        """Goes through all instances with these labels and in this phase, oldest first, over all pages."""
        label = [f"{name}={value}" for name, value in (labels or {}).items()]
        cursor: str | None = None
        while True:
            params = {"limit": PAGE, "cursor": cursor, "label": label or None, "phase": phase}
            page = self._caller.json("GET", "/instances", params=params)
            for item in items_of(page, "items"):
                yield Instance(self._caller, InstanceRecord.read(item))
            cursor = page.get("next_cursor")
            if cursor is None:
                return
