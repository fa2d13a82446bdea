"""Which gateway is asked next, and what is never sent to two."""

from __future__ import annotations

import httpx
import pytest
from support.servers import Headers, Request, Server, nowhere

import landfast
from landfast import Landfast
from landfast._gateways import Gateways

URLS = ["http://a:1", "http://b:2/cell", "https://c"]


def fine(_: Request) -> tuple[int, Headers, bytes]:
    """Answers an empty page."""
    return 200, {"Content-Type": "application/json"}, b'{"items": []}'


def draining(_: Request) -> tuple[int, Headers, bytes]:
    """Takes nothing."""
    return 503, {"landfast-error": "gateway.draining"}, b""


def hangs_up(_: Request) -> None:
    """Takes a request and says nothing."""


def hosts(gateways: Gateways, url: str = "http://a:1/v1/x?y=1") -> list[str]:
    """Where it is asked, in order."""
    return [str(place.host) for place in gateways.order(httpx.URL(url))]


def test_the_same_url_is_asked_for_at_each_gateway() -> None:
    gateways = Gateways(URLS)
    wanted = {"http://a:1/v1/x?y=1", "http://b:2/cell/v1/x?y=1", "https://c/v1/x?y=1"}
    for url in wanted:
        assert {str(place) for place in gateways.order(httpx.URL(url))} == wanted
    sockets = {str(place) for place in gateways.order(httpx.URL("ws://b:2/cell/i/x"))}
    assert sockets == {"ws://a:1/i/x", "ws://b:2/cell/i/x", "wss://c/i/x"}
    assert [str(place) for place in gateways.order(httpx.URL("http://else/i/x"))] == ["http://else/i/x"]


def test_who_answered_last_comes_first_and_who_failed_last_comes_last() -> None:
    now = [0.0]
    gateways = Gateways(URLS, lambda: now[0])
    assert all(hosts(gateways)[0] == "a" for _ in range(20))
    assert {hosts(gateways)[1] for _ in range(100)} == {"b", "c"}
    gateways.answered(httpx.URL("http://b:2/cell/v1/"))
    assert hosts(gateways)[0] == "b"
    gateways.failed(httpx.URL("http://b:2/cell/v1/"))
    now[0] = 0.1
    gateways.failed(httpx.URL("http://a:1/"))
    assert hosts(gateways) == ["c", "b", "a"]
    now[0] = 5.0
    assert hosts(gateways)[0] == "b"


def test_a_gateway_that_drains_rests_longer() -> None:
    now = [0.0]
    gateways = Gateways(URLS, lambda: now[0])
    assert gateways.judge(httpx.URL("http://a:1/"), "gateway.draining")
    now[0] = 20.0
    assert hosts(gateways)[2] == "a"
    now[0] = 40.0
    assert hosts(gateways)[0] == "a"
    assert not gateways.judge(httpx.URL("http://a:1/"), "instance.unknown")


@pytest.mark.parametrize("urls", ["", " , ", []])
def test_a_list_names_somebody(urls: str | list[str]) -> None:
    with pytest.raises(landfast.Misused):
        Gateways.read(urls)


def test_what_was_not_taken_goes_to_the_next_at_once() -> None:
    with Server(draining) as first, Server(fine) as second:
        with Landfast([nowhere(), first.url, second.url], "key", retries=0) as client:
            # No key goes with it: it may be sent once only.
            response = client.http.post("/v1/instances/x/exec", json={})
            assert response.status_code == 200
            assert client.http.post("/v1/instances/x/exec", json={}).status_code == 200
        assert [request.headers["host"] for request in second.seen] == [second.url.removeprefix("http://")] * 2
        assert len(first.seen) <= 1


def test_what_may_have_run_and_has_no_key_is_sent_to_nobody_else() -> None:
    with Server(hangs_up) as first, Server(fine) as second, Landfast([first.url, second.url], "key") as client:
        with pytest.raises(landfast.Broken):
            client.http.post("/v1/instances/x/exec", json={})
        assert (len(first.seen), len(second.seen)) == (1, 0)


def test_what_may_run_twice_is_sent_to_the_next_with_the_same_key() -> None:
    with Server(hangs_up) as first, Server(fine) as second, Landfast([first.url, second.url], "key") as client:
        client.http.post("/v1/instances", json={})
        keys = {request.headers["idempotency-key"] for request in (*first.seen, *second.seen)}
        assert (len(first.seen), len(second.seen), len(keys)) == (1, 1, 1)


def test_that_it_may_have_run_is_not_forgotten_over_a_later_failure() -> None:
    with Server(hangs_up) as first, Server(draining) as second:
        client = Landfast([first.url, second.url], "key", retries=1)
        with client, pytest.raises(landfast.Broken):
            client.http.post("/v1/instances", json={})


def test_the_url_of_several_is_said_as_it_is_read() -> None:
    with Landfast("http://a:1, http://b:2/", "key") as client:
        assert client.url == "http://a:1,http://b:2"
        assert client.copy().url == client.url
