"""What goes wrong, and what the genuine client makes of it."""

from __future__ import annotations

import base64
import threading
from collections.abc import Callable
from typing import Any

import httpx
import kernel
import pytest
from conftest import IS_NEWEST, eventually, paths
from kernel import Kernel
from kernel.lib.browser_routing.routing import BrowserRoute
from relay import Relay
from support.cell import Cell


def text(data: str | None) -> str:
    return base64.b64decode(data or "").decode()


def at(browser: Any) -> dict[str, str]:
    return {"id_or_name": browser.session_id} if IS_NEWEST else {"id": browser.session_id}


def lines(client: Kernel, browser: Any, path: str) -> int:
    """Returns how often a command has run that writes a line each time."""
    done = client.browsers.process.exec(browser.session_id, command="sh", args=["-c", f"cat {path} | wc -l"])
    return int(text(done.stdout_b64))


def test_a_browser_that_is_gone_says_so_on_both_surfaces(client: Kernel, connect: Callable[..., Kernel]) -> None:
    browser = client.browsers.create()
    connect(direct="").browsers.delete_by_id(browser.session_id)
    other = connect(direct="")
    for asker in (client, other):
        with pytest.raises(kernel.NotFoundError) as gone:
            asker.browsers.process.status("prc_00000000000000000000000000", **at(browser))
        assert gone.value.body["code"] == "browser_gone" and gone.value.body["message"]
        assert gone.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(kernel.NotFoundError) as unread:
        client.browsers.retrieve(browser.session_id)
    assert unread.value.body["code"] == "browser_gone"
    with pytest.raises(kernel.NotFoundError):
        client.browsers.delete_by_id(browser.session_id)


def test_what_a_live_browser_does_not_have_is_not_its_end(client: Kernel, browser: Any) -> None:
    with pytest.raises(kernel.NotFoundError) as absent:
        client.browsers.process.status("prc_00000000000000000000000000", **at(browser))
    assert absent.value.body["code"] == "process.unknown"
    with pytest.raises(kernel.NotFoundError) as unknown:
        client.browsers.retrieve("nobody-has-this-name")
    assert unknown.value.body["code"] == "instance.unknown"


def test_an_expired_token_is_replaced_by_the_control_plane(cell: Cell, client: Kernel, browser: Any) -> None:
    session = browser.session_id
    asked = httpx.post(
        f"{cell.url}/v1/instances/{session}/tokens",
        json={"ttl_seconds": 1},
        headers={"authorization": f"Bearer {cell.api_key}"},
    )
    route = client.browser_route_cache.get(session)
    assert route is not None
    old = asked.json()["token"]
    client.browser_route_cache.set(BrowserRoute(session_id=session, base_url=route.base_url, jwt=old))
    status = f"{route.base_url}process/prc_00000000000000000000000000/status?jwt={old}"
    refusal = eventually("it expires", lambda: (said := httpx.get(status)).status_code == 401 and said)
    assert (refusal.json()["code"], refusal.headers["landfast-error"]) == ("auth.expired", "auth.expired")
    if IS_NEWEST:
        done = client.browsers.process.exec(session, command="echo still here")
        assert text(done.stdout_b64) == "still here\n"
        eventually("it went by the control plane", lambda: f"/browsers/{session}/process/exec" in paths(cell))
    else:
        with pytest.raises(kernel.AuthenticationError):
            client.browsers.process.exec(session, command="true")
    client.browsers.retrieve(session)
    assert text(client.browsers.process.exec(session, command="echo again").stdout_b64) == "again\n"


def test_two_sessions_do_not_meet(client: Kernel) -> None:
    one, two = client.browsers.create(), client.browsers.create()
    assert one.base_url != two.base_url
    for browser, word in ((one, "one"), (two, "two")):
        client.browsers.process.exec(browser.session_id, command=f"echo {word} > word")
    for browser, word in ((one, "one"), (two, "two")):
        read = client.browsers.process.exec(browser.session_id, command="cat word")
        assert text(read.stdout_b64) == word + "\n"
    foreign = str(one.cdp_ws_url).partition("jwt=")[2]
    refused = httpx.post(f"{two.base_url}/process/exec?jwt={foreign}", json={"command": "true"})
    assert (refused.status_code, refused.json()["code"]) == (403, "auth.forbidden")
    client.browsers.delete_by_id(one.session_id)
    assert text(client.browsers.process.exec(two.session_id, command="cat word").stdout_b64) == "two\n"
    client.browsers.delete_by_id(two.session_id)


@pytest.mark.parametrize("direct", ["process", ""])
def test_a_call_that_is_cut_in_flight_runs_once_and_its_repeat_gets_the_answer(
    connect: Callable[..., Kernel], relay: Relay, client: Kernel, browser: Any, direct: str
) -> None:
    """The client repeats it: the relay sees two. It runs once: the file has one line."""
    through = connect(base_url=relay.url, direct=direct)
    through.browsers.retrieve(browser.session_id)
    relay.cut("/process/exec", 1)
    done = through.browsers.process.exec(browser.session_id, command="echo ran >> exec; sleep 1; echo answered")
    assert text(done.stdout_b64) == "answered\n"
    assert relay.count("/process/exec") == 2
    assert lines(client, browser, "exec") == 1


def test_a_call_whose_every_answer_is_cut_runs_once(
    connect: Callable[..., Kernel], relay: Relay, client: Kernel, browser: Any
) -> None:
    through = connect(base_url=relay.url)
    through.browsers.retrieve(browser.session_id)
    relay.cut("/process/exec", 3)
    with pytest.raises(kernel.APIConnectionError):
        through.browsers.process.exec(browser.session_id, command="echo ran >> all; sleep 10")
    assert relay.count("/process/exec") == 3
    assert lines(client, browser, "all") == 1


def test_a_spawn_that_is_cut_after_it_ran_is_the_same_process(
    connect: Callable[..., Kernel], relay: Relay, client: Kernel, browser: Any
) -> None:
    through = connect(base_url=relay.url)
    through.browsers.retrieve(browser.session_id)
    # What is slow is the answer: a call is answered at once, so the cut has to come before it has gone through.
    relay.hold("/process/spawn")
    spawned = through.browsers.process.spawn(browser.session_id, command="echo ran >> spawn; sleep 60")
    assert relay.count("/process/spawn") == 2
    assert spawned.process_id and client.browsers.process.status(spawned.process_id, **at(browser)).state == "running"
    eventually("it has run", lambda: lines(client, browser, "spawn") > 0)
    assert lines(client, browser, "spawn") == 1


def test_the_same_call_made_twice_runs_twice(client: Kernel, browser: Any) -> None:
    calls = [
        threading.Thread(
            target=lambda: client.browsers.process.exec(browser.session_id, command="echo ran >> twice; sleep 0.3")
        )
        for _ in range(2)
    ]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert lines(client, browser, "twice") == 2


def test_a_call_in_flight_outlives_its_node(cell: Cell, client: Kernel, browser: Any) -> None:
    calls = paths(cell).count(f"/i/{browser.session_id}/kernel/process/exec")
    timer = None

    def has_begun() -> bool:
        """Looks past the client, whose calls are counted."""
        asked = httpx.get(
            f"{cell.url}/v1/instances/{browser.session_id}/files/stat",
            params={"path": "node"},
            headers={"authorization": f"Bearer {cell.api_key}"},
        )
        return asked.status_code == 200

    def away() -> None:
        nonlocal timer
        eventually("it runs", has_begun)
        timer = cell.node.is_away(1)

    killer = threading.Thread(target=away)
    killer.start()
    done = client.browsers.process.exec(browser.session_id, command="echo ran >> node; sleep 3; echo answered")
    killer.join()
    assert timer is not None
    timer.join()
    assert text(done.stdout_b64) == "answered\n"
    assert lines(client, browser, "node") == 1
    seen = eventually("the log", lambda: paths(cell).count(f"/i/{browser.session_id}/kernel/process/exec") - calls)
    assert seen <= 2, "the client repeated nothing"


def test_what_cannot_work_is_refused_once(client: Kernel, connect: Callable[..., Kernel], relay: Relay) -> None:
    through = connect(base_url=relay.url)
    with pytest.raises(kernel.BadRequestError) as refused:
        through.browsers.create(stealth=True)
    assert "stealth" in refused.value.body["message"]
    browser = through.browsers.create()
    with pytest.raises(kernel.APIStatusError) as absent:
        through.browsers.process.exec(browser.session_id, command="no-such-program", args=["x"])
    assert absent.value.body["code"] == "process.spawn"
    spawned = through.browsers.process.spawn(browser.session_id, command="true")
    eventually("it ends", lambda: client.browsers.process.status(spawned.process_id, **at(browser)).state == "exited")
    with pytest.raises(kernel.ConflictError):
        through.browsers.process.kill(spawned.process_id, **at(browser), signal="TERM")
    assert (relay.count("/process/exec"), relay.count("/kill")) == (1, 1), "409 would be repeated, had it not been said"
    client.browsers.delete_by_id(browser.session_id)


def test_a_target_that_refuses_a_post_is_asked_once(client: Kernel, browser: Any) -> None:
    program = """
import http.server
class Site(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        open("posts", "a").write("x\\n")
        self.send_response(int(self.path[1:])); self.send_header("content-length", "2")
        self.end_headers(); self.wfile.write(b"no")
server = http.server.HTTPServer(("127.0.0.1", 0), Site)
print(server.server_port, flush=True)
server.serve_forever()
"""
    spawned = client.browsers.process.spawn(browser.session_id, command="python3", args=["-c", program])
    said = client.browsers.process.stdout_stream(spawned.process_id, **at(browser))
    url = "http://127.0.0.1:" + text(next(said).data_b64).strip()
    said.close()
    for number, status in enumerate((401, 403, 409, 500, 503), 1):
        with pytest.raises(kernel.APIStatusError) as refused:
            client.browsers.request(browser.session_id, "POST", f"{url}/{status}", content=b"x")
        assert refused.value.status_code == status
        client.browsers.retrieve(browser.session_id)
        assert lines(client, browser, "posts") == number, status
