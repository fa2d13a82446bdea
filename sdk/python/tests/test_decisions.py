"""What is decided without sending anything: pauses, the memory of routes, frames, and the error table."""

from __future__ import annotations

import json
import struct
import threading
from datetime import datetime, timedelta, timezone
from email.utils import format_datetime
from pathlib import Path

import httpx
import pytest

import landfast
from landfast import errors
from landfast._conversation import Conversation
from landfast._endings import ending_of
from landfast._failure import Retry
from landfast._retry import Retries, asked_by, pause_before
from landfast._sse import Decoder
from landfast.routing import ROUTES_MAX, DirectTransport, Route, RouteCache

SDK = Path(__file__).parents[2]


def test_pauses_double_to_eight_seconds_less_up_to_a_quarter() -> None:
    for attempt, whole in enumerate([0.5, 1, 2, 4, 8, 8, 8]):
        pauses = [pause_before(attempt) for _ in range(200)]
        assert all(whole * 0.75 <= pause <= whole for pause in pauses) and len(set(pauses)) > 1


def test_two_more_attempts_and_no_more() -> None:
    retries = Retries()
    assert [retries.after(Retry.SAFE, is_idempotent=False, asked=0.0) for _ in range(3)] == [0.0, 0.0, None]
    assert Retries().after(Retry.IF_IDEMPOTENT, is_idempotent=False) is None
    assert Retries().after(Retry.NEVER, is_idempotent=True) is None


def test_a_wait_is_asked_for_in_seconds_in_milliseconds_or_as_a_date() -> None:
    soon = format_datetime(datetime.now(timezone.utc) + timedelta(seconds=30), usegmt=True)
    asked = asked_by(httpx.Headers({"Retry-After": soon}))
    assert asked is not None and 28 <= asked <= 30
    assert asked_by(httpx.Headers({"Retry-After": "3", "Retry-After-Ms": "250"})) == 0.25
    assert [asked_by(httpx.Headers({"Retry-After": text})) for text in ("2", "-1", "soon", "inf")] == [
        2,
        None,
        None,
        None,
    ]


def test_the_memory_of_routes_is_bounded_and_forgets_what_was_not_used() -> None:
    assert ROUTES_MAX == 10_000
    routes = RouteCache(2)
    for name in ("a", "b"):
        routes.put(name, Route("http://x", name))
    assert routes.get(" a ") == Route("http://x", "a")
    routes.put("c", Route("http://x", "c"))
    assert ("a" in routes, "b" in routes, "c" in routes, len(routes)) == (True, False, True, 2)


def test_only_the_route_that_was_used_is_forgotten() -> None:
    routes, old, new = RouteCache(), Route("http://x", "old"), Route("http://x", "new")
    routes.put("a", new)
    routes.forget("a", old)
    assert routes.get("a") == new
    routes.forget("a", new)
    assert routes.get("a") is None


def test_the_memory_of_routes_is_safe_across_threads() -> None:
    routes, faults = RouteCache(50), []

    def work(thread: int) -> None:
        for number in range(2_000):
            name = f"ins_{(number * 7 + thread) % 100}"
            routes.put(name, Route("http://x", name))
            found = routes.get(name)
            if (found is not None and found.token != name) or len(routes) > 51:
                faults.append(name)
            routes.forget(name, found)

    threads = [threading.Thread(target=work, args=[number]) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not faults and len(routes) <= 50


def test_server_sent_events_come_whole_however_they_are_cut() -> None:
    text = b': alive\n\nid: 1.1\ndata: {"a":1}\n\nid: 1.2\r\n\r\ndata: x\ndata: y\n\nid: 1.3\ndata: cut'
    for size in (1, 2, 5, 1000):
        decoder = Decoder()
        frames = [frame for at in range(0, len(text), size) for frame in decoder.feed(text[at : at + size])]
        assert [(frame.id, frame.data) for frame in frames] == [("1.1", '{"a":1}'), ("1.2", None), (None, "x\ny")]


def test_a_conversation_counts_output_and_not_a_redraw() -> None:
    conversation = Conversation("screen")
    conversation.take(b"\x01redrawn")
    assert str(conversation.resume_from) == "screen"
    assert conversation.take(b"\x04" + struct.pack(">Q", 100)) == landfast.ReplayEnd(100)
    conversation.take(b"\x02more")
    assert conversation.resume_from == 104
    conversation.connected()
    assert conversation.take(b"\x04" + struct.pack(">Q", 104)) is None
    assert conversation.take(b"\x05" + struct.pack(">QQ", 104, 200)) == landfast.Gap(104, 200)
    assert conversation.take(b"\x03" + struct.pack(">i", 137)) == landfast.Exited(137) == conversation.exit


@pytest.mark.parametrize("message", [b"", b"\x09", b"\x03\x00", "[]", '{"offset":5}'])
def test_what_no_agent_says_is_an_error(message: str | bytes) -> None:
    with pytest.raises(landfast.ProtocolFailure):
        Conversation("start").take(message)


def test_an_exit_is_told_once() -> None:
    conversation = Conversation("start")
    conversation.take(b"\x03" + struct.pack(">i", 0))
    with pytest.raises(landfast.ProtocolFailure):
        conversation.take(b"\x03" + struct.pack(">i", 0))


def test_a_cut_does_not_end_a_conversation_and_authority_does() -> None:
    goes_on = [
        (None, ""),
        (1006, ""),
        (1012, "gateway.draining"),
        (1013, "instance.moving"),
        (1001, ""),
        (1001, "client.lost x"),
    ]
    assert [ending_of(*close) for close in goes_on] == [None] * len(goes_on)
    assert isinstance(ending_of(4410, "instance.gone"), landfast.InstanceGone)
    assert isinstance(ending_of(1012, "upstream.changed asleep"), landfast.UpstreamChanged)
    assert isinstance(ending_of(1008, "policy"), landfast.UnknownRefusal)


def test_every_row_of_the_error_table_is_an_exception() -> None:
    rows = json.loads((SDK / "errors.json").read_text())
    assert [row["code"] for row in rows] == list(errors.TABLE)
    for row in rows:
        made = errors.TABLE[row["code"]]("what exactly", request_id="req_1")
        assert getattr(landfast, row["name"]) is type(made)
        told = (made.code, made.status, made.close_code, made.retry.value, made.sentence, made.advice)
        assert told == (row["code"], row["status"], row["close"], row["retry"], row["sentence"], row["advice"])
        assert (made.request_id, made.retryable) == ("req_1", row["retry"] == "safe")
        assert str(made) == f"{row['sentence']} what exactly {row['advice']}"


def test_neither_hooks_nor_auth_can_give_an_instance_the_api_key() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={})

    class Late(httpx.Auth):
        def auth_flow(self, request: httpx.Request):  # type: ignore[no-untyped-def]
            request.headers["authorization"] = "Bearer the-api-key"
            yield request

    def hook(request: httpx.Request) -> None:
        request.headers["authorization"] = request.headers["x-copy"] = "Bearer the-api-key"

    routes = RouteCache()
    routes.put("ins_1", Route("http://instance/i/ins_1", "t1"))
    # What is sent is looked at where it leaves: below everything that a client can add.
    transport = DirectTransport("http://control", transport=httpx.MockTransport(answer), routes=routes)
    with httpx.Client(transport=transport, auth=Late(), event_hooks={"request": [hook]}) as client:
        client.get("http://control/v1/instances/ins_1/processes")
    assert seen[0].headers["authorization"] == "Bearer t1" and "x-copy" not in seen[0].headers
