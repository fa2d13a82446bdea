"""A session from its beginning to its end, by the genuine client, every answer checked strictly."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from conftest import IS_NEWEST, eventually, paths
from kernel import BadRequestError, Kernel
from playwright.sync_api import sync_playwright
from support.cell import Cell


def text(data: str | None) -> str:
    return base64.b64decode(data or "").decode()


def test_a_browser_is_made_found_by_its_name_changed_and_deleted(client: Kernel) -> None:
    name = f"browser-{os.getpid()}"
    browser = client.browsers.create(
        name=name, tags={"team": "a"}, timeout_seconds=300, viewport={"width": 800, "height": 600}
    )
    assert browser.timeout_seconds == 300 and browser.headless and browser.name == name
    assert client.browsers.retrieve(name).session_id == browser.session_id
    assert [found.session_id for found in client.browsers.list(query=name)] == [browser.session_id]
    changed = client.browsers.update(browser.session_id, name=name + "-2", tags={"team": "b"})
    assert changed.name == name + "-2" and changed.tags == {"team": "b"}
    assert [found.session_id for found in client.browsers.list(tags={"team": "b"})] == [browser.session_id]
    client.browsers.delete_by_id(browser.session_id)
    over = client.browsers.retrieve(browser.session_id, include_deleted=True)
    assert over.deleted_at and over.base_url is None and "jwt" not in over.cdp_ws_url
    assert name + "-2" not in [found.name for found in client.browsers.list()]
    assert browser.session_id in [found.session_id for found in client.browsers.list(status="deleted", limit=100)]


def test_a_list_has_pages(client: Kernel) -> None:
    made = {client.browsers.create(tags={"page": str(os.getpid())}).session_id for _ in range(3)}
    pages = client.browsers.list(tags={"page": str(os.getpid())}, limit=2)
    assert {found.session_id for found in pages} == made
    for session_id in made:
        client.browsers.delete_by_id(session_id)


def test_a_command_is_run_to_its_end(client: Kernel, browser: Any) -> None:
    script = "echo out; echo err >&2; echo $COLOUR; pwd; exit 3"
    done = client.browsers.process.exec(
        browser.session_id, command="sh", args=["-c", script], env={"COLOUR": "blue"}, cwd="/tmp", timeout_sec=30
    )
    assert (done.exit_code, text(done.stdout_b64), text(done.stderr_b64)) == (3, "out\nblue\n/tmp\n", "err\n")
    assert done.duration_ms is not None
    line = client.browsers.process.exec(browser.session_id, command="echo a | tr a b")
    assert text(line.stdout_b64) == "b\n"


def test_a_process_is_typed_to_read_looked_at_and_ended(client: Kernel, browser: Any) -> None:
    process = client.browsers.process
    spawned = process.spawn(browser.session_id, command="cat")
    assert spawned.process_id and spawned.pid and spawned.started_at
    at = {"id_or_name": browser.session_id} if IS_NEWEST else {"id": browser.session_id}
    assert process.status(spawned.process_id, **at).state == "running"
    typed = process.stdin(spawned.process_id, **at, data_b64=base64.b64encode(b"hello\n").decode())
    assert typed.written_bytes == 6
    said = process.stdout_stream(spawned.process_id, **at)
    first = next(said)
    assert (first.stream, text(first.data_b64)) == ("stdout", "hello\n")
    assert process.kill(spawned.process_id, **at, signal="TERM").ok
    last = list(said)[-1]
    assert (last.event, last.exit_code) == ("exit", 128 + 15)
    status = process.status(spawned.process_id, **at)
    assert (status.state, status.exit_code) == ("exited", 128 + 15)
    again = [text(event.data_b64) for event in process.stdout_stream(spawned.process_id, **at) if event.stream]
    assert again == ["hello\n"], "who reads it takes it from nobody"


def test_a_terminal_has_a_size(client: Kernel, browser: Any) -> None:
    process = client.browsers.process
    at = {"id_or_name": browser.session_id} if IS_NEWEST else {"id": browser.session_id}
    script = "stty size; read x; stty size"
    spawned = process.spawn(browser.session_id, command="sh", args=["-c", script], allocate_tty=True, rows=30, cols=100)
    assert spawned.process_id
    said = process.stdout_stream(spawned.process_id, **at)
    assert "30 100" in text(next(said).data_b64)
    assert process.resize(spawned.process_id, **at, rows=40, cols=120).ok
    process.stdin(spawned.process_id, **at, data_b64=base64.b64encode(b"\n").decode())
    rest = list(said)
    assert "40 120" in "".join(text(event.data_b64) for event in rest) and rest[-1].exit_code == 0


@pytest.fixture
def site(client: Kernel, browser: Any) -> str:
    """A site inside of the instance, on its own loopback."""
    program = """
import http.server, json
class Site(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/elsewhere":
            self.send_response(302); self.send_header("Location", "/"); self.end_headers(); return
        self.do_POST()
    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        with open("visits", "a") as visits: visits.write(self.path + "\\n")
        said = json.dumps({"path": self.path, "body": body.decode(), "own": self.headers.get("x-own")}).encode()
        self.send_response(401 if self.path == "/private" else 200)
        self.send_header("x-two", "1"); self.send_header("x-two", "2")
        self.send_header("content-length", str(len(said))); self.end_headers(); self.wfile.write(said)
server = http.server.HTTPServer(("127.0.0.1", 0), Site)
print(server.server_port, flush=True)
server.serve_forever()
"""
    spawned = client.browsers.process.spawn(browser.session_id, command="python3", args=["-c", program])
    at = {"id_or_name": browser.session_id} if IS_NEWEST else {"id": browser.session_id}
    assert spawned.process_id
    said = client.browsers.process.stdout_stream(spawned.process_id, **at)
    port = text(next(said).data_b64).strip()
    said.close()
    return f"http://127.0.0.1:{port}"


def test_requests_are_made_from_inside(client: Kernel, browser: Any, site: str) -> None:
    told = client.browsers.curl(browser.session_id, url=site + "/x", method="POST", body="b", headers={"x-own": "1"})
    assert (told.status, json.loads(told.body)) == (200, {"path": "/x", "body": "b", "own": "1"})
    assert told.headers["x-two"] == ["1", "2"]
    followed = client.browsers.curl(browser.session_id, url=site + "/elsewhere", response_encoding="base64")
    assert json.loads(base64.b64decode(followed.body))["path"] == "/"


def test_requests_are_passed_through_from_inside(client: Kernel, browser: Any, site: str) -> None:
    request = client.browsers.request
    raw = request(browser.session_id, "POST", site + "/raw?q=1", content=b"body", headers={"x-own": "2"})
    assert raw.status_code == 200 and raw.json() == {"path": "/raw?q=1", "body": "body", "own": "2"}
    with client.browsers.stream(browser.session_id, "GET", site + "/streamed") as streamed:
        assert json.loads(streamed.read())["path"] == "/streamed"
    assert request(browser.session_id, "GET", site + "/elsewhere").json()["path"] == "/"


def test_what_happens_is_told_as_it_happens_and_afterwards(client: Kernel, browser: Any) -> None:
    stream = client.browsers.telemetry.stream(browser.session_id, replay="all")
    client.browsers.process.exec(browser.session_id, command="true")
    seen = []
    for told in stream:
        seen.append(told)
        if told.event.type == "api_call" and "process/exec" in told.event.data.operation_id:
            break
    assert [told.seq for told in seen] == sorted({told.seq for told in seen})
    resumed = client.browsers.telemetry.stream(browser.session_id, last_event_id=str(seen[-1].seq - 1))
    assert next(resumed).seq == seen[-1].seq
    client.browsers.process.exec(browser.session_id, command="false")
    stored = client.browsers.telemetry.events(browser.session_id, since="5m", order="asc", category=["control"])
    assert any("process/exec" in told.event.data.operation_id for told in stored)
    assert list(client.browsers.telemetry.events(browser.session_id, category=["captcha"])) == []


def test_logs_are_read_line_by_line(client: Kernel, browser: Any) -> None:
    script = "printf 'one\\ntwo\\n' > app.log; pwd"
    home = text(client.browsers.process.exec(browser.session_id, command="sh", args=["-c", script]).stdout_b64).strip()
    logs = client.browsers.logs
    ended = logs.stream(browser.session_id, source="path", path=f"{home}/app.log", follow=False)
    assert [line.message for line in ended] == ["one", "two"]
    followed = logs.stream(browser.session_id, source="path", path="app.log", follow=True)
    assert [next(followed).message, next(followed).message] == ["one", "two"]
    client.browsers.process.exec(browser.session_id, command="echo three >> app.log")
    assert next(followed).message == "three"
    followed.close()
    for line in logs.stream(browser.session_id, source="supervisor", supervisor_process="chromium", follow=False):
        assert line.event == "log" and line.timestamp


def test_playwright_drives_it_and_a_picture_shows_it(client: Kernel, browser: Any) -> None:
    with sync_playwright() as playwright:
        remote = playwright.chromium.connect_over_cdp(browser.cdp_ws_url)
        page = remote.contexts[0].pages[0] if remote.contexts[0].pages else remote.contexts[0].new_page()
        page.goto("data:text/html,<title>hello</title><body style='background:rgb(255,0,0)'>")
        assert page.title() == "hello"
        picture = client.browsers.computer.capture_screenshot(browser.session_id).read()
        part = client.browsers.computer.capture_screenshot(
            browser.session_id, region={"x": 0, "y": 0, "width": 10, "height": 20}
        ).read()
        remote.close()
    size = [int.from_bytes(part[at : at + 4], "big") for at in (16, 20)]
    assert picture.startswith(b"\x89PNG") and size == [10, 20]
    told = client.browsers.telemetry.stream(browser.session_id, replay="all")
    ends = (event.event for event in told if event.event.type == "cdp_disconnect")
    assert next(ends).data.reason == "client_close"
    told.close()


PAGE = """<!doctype html><body style="margin:0;height:3000px">
<input style="position:absolute;left:10px;top:10px;width:200px">
<textarea style="position:absolute;left:10px;top:60px;width:200px;height:60px"></textarea>
<div id="pad" style="position:absolute;left:300px;top:10px;width:200px;height:200px;background:silver"></div>
<script>told = []
const pad = document.getElementById("pad")
for (const type of ["mousedown", "mouseup", "mousemove", "dblclick", "contextmenu"])
  pad.addEventListener(type, (event) => { event.preventDefault(); told.push([type, event.clientX, event.clientY,
    event.button, event.buttons, event.shiftKey]) })
document.addEventListener("keydown", (event) => told.push([event.key, event.code, event.ctrlKey, event.shiftKey]))
</script>"""
"""Notes what a mouse and a keyboard do."""


@pytest.fixture
def page(browser: Any) -> Iterator[Any]:
    with sync_playwright() as playwright:
        remote = playwright.chromium.connect_over_cdp(browser.cdp_ws_url)
        page = remote.contexts[0].pages[0] if remote.contexts[0].pages else remote.contexts[0].new_page()
        page.set_content(PAGE)
        yield page
        remote.close()


def told(page: Any) -> list[Any]:
    """Returns what the page has noted since it was asked last."""
    noted: list[Any] = page.evaluate("told.splice(0)")
    return noted


def test_a_mouse_moves_clicks_and_drags(client: Kernel, browser: Any, page: Any) -> None:
    computer, session = client.browsers.computer, browser.session_id
    computer.click_mouse(session, x=350, y=50)
    assert [note[0] for note in told(page)] == ["mousemove", "mousedown", "mouseup"]
    computer.click_mouse(session, x=350, y=50, num_clicks=2, hold_keys=["Shift"])
    notes = told(page)
    assert "dblclick" in [note[0] for note in notes] and all(note[5] for note in notes if note[0] == "mousedown")
    computer.click_mouse(session, x=360, y=60, button="right")
    assert ["contextmenu", 360, 60, 2] in [note[:4] for note in told(page)]
    computer.move_mouse(session, x=310, y=20)
    assert told(page) == [["mousemove", 310, 20, 0, 0, False]]
    where = computer.get_mouse_position(session)
    assert (where.x, where.y) == (310, 20)
    computer.drag_mouse(session, path=[[310, 20], [400, 100], [450, 150]])
    notes = told(page)
    assert (notes[0][0], [note[0] for note in notes if note[0] != "mousemove"]) == (
        "mousemove",
        ["mousedown", "mouseup"],
    )
    assert ["mousemove", 400, 100, 0, 1, False] in notes and notes[-1][:3] == ["mouseup", 450, 150]
    computer.click_mouse(session, x=320, y=30, click_type="down")
    computer.move_mouse(session, x=330, y=40, smooth=True, duration_ms=50)
    computer.click_mouse(session, x=330, y=40, click_type="up")
    notes = told(page)
    assert any(note[0] == "mousemove" and note[4] == 1 for note in notes) and notes[-1][0] == "mouseup"
    computer.scroll(session, x=350, y=50, delta_y=5)
    eventually("it scrolls", lambda: page.evaluate("scrollY") == 600)
    assert computer.set_cursor_visibility(session, hidden=True).ok


def test_a_keyboard_types_and_presses(client: Kernel, browser: Any, page: Any) -> None:
    computer, session = client.browsers.computer, browser.session_id
    computer.click_mouse(session, x=50, y=20)
    computer.type_text(session, text="Grüße, x_1!", delay=1)
    assert page.input_value("input") == "Grüße, x_1!"
    assert ["x", "KeyX", False, False] in told(page)
    computer.press_key(session, keys=["Ctrl+a"])
    computer.press_key(session, keys=["BackSpace"], duration=10)
    assert page.input_value("input") == ""
    assert ["a", "KeyA", True, False] in told(page)
    computer.batch(
        session,
        actions=[
            {"type": "click_mouse", "click_mouse": {"x": 50, "y": 80}},
            {"type": "type_text", "type_text": {"text": "one\ntwo"}},
            {"type": "sleep", "sleep": {"duration_ms": 10}},
            {"type": "press_key", "press_key": {"keys": ["Home"], "hold_keys": ["Shift"]}},
            {"type": "press_key", "press_key": {"keys": ["Delete"]}},
        ],
    )
    assert page.input_value("textarea") == "one\n"
    with pytest.raises(BadRequestError, match="Foo"):
        computer.press_key(session, keys=["Ctrl+Foo"])
    assert all(note[0] != "Foo" for note in told(page))


def test_a_page_is_opened_to_begin_with(client: Kernel) -> None:
    browser = client.browsers.create(start_url="data:text/html,<title>begun</title>")
    with sync_playwright() as playwright:
        remote = playwright.chromium.connect_over_cdp(browser.cdp_ws_url)
        eventually("the page", lambda: "begun" in [page.title() for page in remote.contexts[0].pages])
        remote.close()
    client.browsers.delete_by_id(browser.session_id)


@pytest.mark.parametrize("direct", [None, ""])
def test_the_clients_own_list_says_what_goes_direct(
    cell: Cell, connect: Callable[..., Kernel], direct: str | None
) -> None:
    client = connect(direct=direct)
    browser = client.browsers.create()
    session = browser.session_id
    client.browsers.process.exec(session, command="true")
    client.browsers.computer.capture_screenshot(session).read()
    by_gateway, by_control = f"/i/{session}/kernel/process/exec", f"/browsers/{session}/process/exec"
    is_direct = direct is None and IS_NEWEST
    wanted, other = (by_gateway, by_control) if is_direct else (by_control, by_gateway)
    eventually("the gateway's log", lambda: wanted in paths(cell))
    assert other not in paths(cell)
    assert not any("jwt" in path or "eyJ" in path for path in paths(cell))
    client.browsers.delete_by_id(session)


def test_everything_can_be_had_without_a_direct_way_too(connect: Callable[..., Kernel]) -> None:
    client = connect(direct="")
    name = f"by-name-{os.getpid()}"
    browser = client.browsers.create(name=name)
    done = client.browsers.process.exec(name, command="echo by name")
    assert text(done.stdout_b64) == "by name\n"
    stream = client.browsers.telemetry.stream(name, replay="all")
    assert next(stream).seq > 0
    stream.close()
    client.browsers.process.exec(name, command="echo line > log")
    assert [line.message for line in client.browsers.logs.stream(name, source="path", path="log", follow=False)] == [
        "line"
    ]
    client.browsers.delete_by_id(browser.session_id)


def test_a_browser_that_nobody_uses_is_removed(client: Kernel) -> None:
    browser = client.browsers.create(timeout_seconds=10)
    look = lambda: client.browsers.retrieve(browser.session_id, include_deleted=True).deleted_at  # noqa: E731
    assert eventually("it is removed", look, 60)
