"""The cases that all SDKs share, through the transport and any `httpx` client."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from support.cases import API_KEY, Play, all_cases

import landfast
from landfast.routing import DirectTransport

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: case["name"])
def test_a_case(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landfast._retry.FIRST_SECONDS", 0.001)
    monkeypatch.delenv("LANDFAST_DIRECT", raising=False)
    for name, value in case.get("environment", {}).items():
        monkeypatch.setenv(name, value)
    play = Play(case)
    transport = DirectTransport(
        play.control.url, routes=play.routes, direct=case.get("direct"), retries=case.get("retries", 2)
    )
    headers = {"Authorization": f"Bearer {API_KEY}"}
    with httpx.Client(transport=transport, headers=headers, timeout=0.5) as client:
        for call in case["call"]:
            started = time.monotonic()
            play.judge_call(call, _outcome(client, play.url(call), call), started)
    play.judge()


def _outcome(client: httpx.Client, url: str, call: Any) -> dict[str, object]:
    content = _stream(call["body"].encode()) if call.get("streams") else call.get("body", "").encode()
    try:
        response = client.request(
            call["method"],
            url,
            content=content or None,
            headers=call.get("headers"),
            follow_redirects=call.get("follows", False),
        )
    except landfast.LandfastError as failure:
        return {"error": failure.code}
    return {"status": response.status_code, "answer": response.text}


def _stream(body: bytes) -> Iterator[bytes]:
    for byte in body:
        yield bytes([byte])
