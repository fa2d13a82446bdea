"""The cases that all SDKs share: reading them, playing their servers, and judging what came of them."""

from __future__ import annotations

import json
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import tomllib

from landfast.routing import Route, RouteCache

from .servers import PATIENCE_SECONDS, Headers, Request, Server, nowhere

API_KEY = "the-api-key"
FOLDER = Path(__file__).parents[3] / "cases"
FILES = ("routing", "fallback", "retries", "files")
SAID = {
    "status",
    "headers",
    "answer",
    "json",
    "cut",
    "silent",
    "same_key_as_before",
    "method",
    "path",
    "token",
    "body",
    "lacks",
    "has",
    "says",
}


def all_cases() -> list[Any]:
    """Every case of every file, with the file's name before its own."""
    cases = []
    for name in FILES:
        for case in tomllib.loads((FOLDER / f"{name}.toml").read_text())["case"]:
            cases.append({**case, "name": f"{name}: {case['name']}"})
    return cases


class Play:
    """One case: its two servers, and what they noticed."""

    def __init__(self, case: Any) -> None:
        self.case = case
        self.faults: list[str] = []
        self._over = threading.Event()
        self._servers = ExitStack()
        self.control = self._servers.enter_context(Server(lambda request: self._answer("control", request)))
        self.instance = self._servers.enter_context(Server(lambda request: self._answer("instance", request)))
        self._places = {"{control}": self.control.url, "{instance}": self.instance.url, "{nowhere}": nowhere()}
        self.routes = RouteCache()
        for known in case.get("known", []):
            base_url = known.get("base_url", "{instance}/i/" + known["id"])
            self.routes.put(known["id"], Route(self.place(base_url), known["token"]))

    def place(self, text: str) -> str:
        """The text with the servers' URLs in it."""
        for name, url in self._places.items():
            text = text.replace(name, url)
        return text

    def url(self, call: Any) -> str:
        """Where a call goes to."""
        return self.place(call["url"]) if "url" in call else self.control.url + call["path"]

    def judge_call(self, call: Any, outcome: dict[str, object], started: float) -> None:
        """What the caller got is what it should get."""
        wanted = {key: call[key] for key in ("status", "answer", "error") if key in call}
        got = {key: outcome.get(key) for key in wanted}
        assert got == wanted, f"{call}: the caller got {outcome}"
        assert time.monotonic() - started >= call.get("takes", 0), "the caller did not wait"

    def judge(self) -> None:
        """What the servers saw is what they should see, and the routes are what they should be."""
        self._over.set()
        self._servers.close()
        assert not self.faults, self.faults
        for name, server in (("control", self.control), ("instance", self.instance)):
            assert len(server.seen) == len(self.case.get(name, [])), f"{name} saw {[one.path for one in server.seen]}"
        if "routes" in self.case:
            names = {known["id"] for known in self.case.get("known", [])} | {"ins_1", "ins_2", "ins_3"}
            routes = {name: route.token for name in names if (route := self.routes.get(name)) is not None}
            assert routes == self.case["routes"]

    def _answer(self, name: str, request: Request) -> tuple[int, Headers, bytes] | None:
        server = getattr(self, name)
        exchanges = self.case.get(name, [])
        number = len(server.seen) - 1
        if number >= len(exchanges):
            self.faults.append(f"{name}: one request too many: {request.method} {request.path}")
            return 500, {}, b""
        exchange = exchanges[number]
        before = server.seen[number - 1] if number else None
        self.faults += [f"{name}, request {number + 1}: {fault}" for fault in _faults(name, exchange, request, before)]
        if exchange.get("silent"):
            self._over.wait(PATIENCE_SECONDS)
        return None if exchange.get("cut") == "before" or exchange.get("silent") else self._said(exchange)

    def _said(self, exchange: Any) -> tuple[int, Headers, bytes]:
        headers = {key: self.place(value) for key, value in exchange.get("headers", {}).items()}
        body = exchange.get("answer", "").encode()
        if "json" in exchange:
            body = self.place(json.dumps(exchange["json"], separators=(",", ":"))).encode()
            headers = {
                "Content-Type": "application/problem+json" if exchange["status"] >= 400 else "application/json",
                **headers,
            }
        if exchange.get("cut") == "within":
            headers.setdefault("Content-Length", str(len(body) + 1))
        return exchange["status"], headers, body


def _faults(name: str, exchange: Any, request: Request, before: Request | None) -> list[str]:
    assert exchange.keys() <= SAID, f"no such words: {exchange.keys() - SAID}"
    faults = []
    seen = {"method": request.method, "path": request.path, "token": request.token, "body": request.body.decode()}
    for key, value in seen.items():
        if key in exchange and exchange[key] != value:
            faults.append(f"its {key} is {value!r}")
    faults += [f"it has {header}" for header in exchange.get("lacks", []) if header in request.headers]
    faults += [f"it lacks {header}" for header in exchange.get("has", []) if header not in request.headers]
    for header, value in exchange.get("says", {}).items():
        if request.headers.get(header.lower()) != value:
            faults.append(f"its {header} is {request.headers.get(header.lower())!r}")
    keys = {one.headers.get("idempotency-key") for one in (before, request) if one is not None}
    if exchange.get("same_key_as_before") and len(keys) > 1:
        faults.append("its idempotency key is another one")
    if name == "instance" and API_KEY.encode() in request.raw:
        faults.append("it has the API key")
    if name == "control" and request.token not in (API_KEY, ""):
        faults.append("it has an instance's token")
    return faults
