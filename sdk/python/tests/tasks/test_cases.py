"""The cases that all SDKs share, through the transport and any `httpx` client."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from support.cases import API_KEY, Play, all_cases

import landfast
from landfast import AsyncFiles, AsyncLandfast
from landfast.routing import AsyncDirectTransport

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case["name"])
async def test_a_case(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landfast._retry.FIRST_SECONDS", 0.001)
    monkeypatch.delenv("LANDFAST_DIRECT", raising=False)
    for name, value in case.get("environment", {}).items():
        monkeypatch.setenv(name, value)
    play = Play(case)
    transport = AsyncDirectTransport(
        play.control.url, routes=play.routes, direct=case.get("direct"), retries=case.get("retries", 2)
    )
    headers = {"Authorization": f"Bearer {API_KEY}"}
    async with (
        httpx.AsyncClient(transport=transport, headers=headers, timeout=0.5) as client,
        AsyncLandfast(play.control.url, API_KEY, routes=play.routes) as cell,
    ):
        files = AsyncFiles(cell._caller, "ins_1")
        for call in case["call"]:
            started = time.monotonic()
            got = await (_read(files, call) if "reads" in call else _outcome(client, play.url(call), call))
            play.judge_call(call, got, started)
    play.judge()


async def _read(files: AsyncFiles, call: Any) -> dict[str, object]:
    part = {name: call[name] for name in ("start", "end") if name in call}
    try:
        if not call.get("in_pieces"):
            return {"answer": (await files.read(call["reads"], **part)).decode()}
        pieces = [piece async for piece in files.chunks(call["reads"], **part)]
        return {"answer": b"".join(pieces).decode()}
    except landfast.LandfastError as failure:
        return {"error": failure.code}


async def _outcome(client: httpx.AsyncClient, url: str, call: Any) -> dict[str, object]:
    content = _stream(call["body"].encode()) if call.get("streams") else call.get("body", "").encode()
    try:
        response = await client.request(
            call["method"],
            url,
            content=content or None,
            headers=call.get("headers"),
            follow_redirects=call.get("follows", False),
        )
    except landfast.LandfastError as failure:
        return {"error": failure.code}
    return {"status": response.status_code, "answer": response.text}


async def _stream(body: bytes) -> AsyncIterator[bytes]:
    for byte in body:
        yield bytes([byte])
