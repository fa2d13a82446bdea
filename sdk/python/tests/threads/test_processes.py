"""Processes and terminals of a real cell, whose gateway is killed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.cell import Cell

import landfast
from landfast import Instance, Landfast, Exited, Gap, InputUnsure, Output
from landfast.routing import Route

pytestmark = pytest.mark.anyio

LINES = 700
"""Lines that a process says in about eight seconds: longer than the gateway is away."""

WRITER = f"i=0; while [ $i -lt {LINES} ]; do i=$((i+1)); echo line $i; sleep 0.01; done; exit 7"


@pytest.fixture
def instance(cell: Cell) -> Iterator[Instance]:
    with Landfast(cell.url, cell.api_key) as client:
        instance = client.instances.create(labels={"by": "threads"})
        assert instance.phase == "running"
        yield instance
        instance.delete()


def test_a_command_is_run_to_its_end(instance: Instance) -> None:
    done = instance.processes.run("cat; echo oops >&2; exit 3", input="hello")
    assert (done.exit, done.stdout, done.stderr, done.ok) == (landfast.Exit(code=3), b"hello", b"oops\n", False)
    assert (instance.processes.run(["printf", r"\377"])).stdout == b"\xff"
    assert (instance.processes.run("sleep 60", timeout=1)).killed_by == "timeout"


def test_a_command_that_cannot_start_says_so(instance: Instance) -> None:
    with pytest.raises(landfast.ProcessSpawn) as caught:
        instance.processes.start(["/no/such/program"])
    failure = caught.value
    assert (failure.code, failure.status, failure.retryable) == ("process.spawn", 422, False)
    assert failure.request_id is not None and failure.request_id.startswith("req_")
    assert "/no/such/program" in str(failure)


def test_a_process_is_fed_signalled_and_read_by_offset(instance: Instance) -> None:
    process = instance.processes.start(["cat"])
    assert process.id in [one.id for one in instance.processes.list()]
    process.write(b"one\ntwo\n")
    with process.attach(input=False) as attachment:
        _read_until(attachment, b"one\ntwo\n")
    part = process.output(4)
    assert (part.offset, part.data, part.end) == (4, b"two\n", 8)
    process.signal("TERM")
    with process.attach() as attachment:
        assert attachment.read() == b"one\ntwo\n"
        assert attachment.exit == Exited(128 + 15)
    assert (process.refresh()).exit == landfast.Exit(signal=15)
    with pytest.raises(landfast.ProcessNotRunning):
        process.signal("TERM")
    process.delete()
    with pytest.raises(landfast.ProcessUnknown):
        instance.processes.get(process.id)


def test_a_terminal_is_typed_into_and_resized(instance: Instance) -> None:
    with instance.processes.terminal(["sh"], rows=24, cols=80) as terminal:
        terminal.send(b"stty size; exit 4\n")
        said = terminal.read()
    assert b"24 80" in said and terminal.exit == Exited(4)
    process = instance.processes.start(["sh"], tty=(24, 80))
    process.resize(30, 100)
    process.write(b"stty size; exit\n")
    with process.attach() as attachment:
        assert b"30 100" in attachment.read()


def test_a_terminal_outlives_its_gateway_byte_for_byte(cell: Cell, instance: Instance) -> None:
    with instance.processes.terminal(WRITER) as terminal:
        said, exits = b"", []
        away = None
        for event in terminal:
            assert isinstance(event, (Output, Exited, landfast.ReplayEnd)), event
            said += event.data if isinstance(event, Output) else b""
            exits += [event.status] if isinstance(event, Exited) else []
            if away is None and said.count(b"\n") >= 50:
                away = cell.gateway.is_away(5)
        assert away is not None
    assert said == b"".join(b"line %d\r\n" % number for number in range(1, LINES + 1))
    assert exits == [7] and terminal.connections == 2


def test_input_at_a_cut_is_told_and_never_typed_twice(cell: Cell, instance: Instance) -> None:
    process = instance.processes.start("while read line; do echo got $line; done")
    with process.attach() as attachment:
        attachment.send(b"first\n")
        _read_until(attachment, b"got first\n")
        cell.gateway.freeze()
        attachment.send(b"second\n")
        cell.gateway.is_away(0).join()
        assert attachment.__next__() == InputUnsure()
        attachment.send(b"third\n")
        attachment.end_input()
        events = [event for event in attachment]
    assert InputUnsure() not in events and events[-1] == Exited(0)
    said = b"".join(event.data for event in events if isinstance(event, Output))
    assert said in (b"got second\ngot third\n", b"got third\n")


def test_output_that_is_no_longer_kept_is_told_as_a_gap(instance: Instance) -> None:
    process = instance.processes.start("head -c 30000000 /dev/zero; echo end")
    while (process.refresh()).record.state == "running":
        pass
    with process.attach() as attachment:
        events = [event for event in attachment]
    gap = next(event for event in events if isinstance(event, Gap))
    said = sum(len(event.data) for event in events if isinstance(event, Output))
    assert gap.start == 0 and gap.end + said == 30_000_004


def test_a_token_is_replaced_and_no_session_notices(cell: Cell, instance: Instance) -> None:
    with Landfast(cell.url, cell.api_key) as client:
        found = client.instances.get(instance.id)
        process = found.processes.start(["cat"])
        with process.attach() as attachment:
            attachment.send(b"before\n")
            client.routes.put(found.id, Route(found.record.base_url, "stale"))
            assert (found.processes.run(["true"])).ok
            fresh = client.routes.get(found.id)
            assert fresh is not None and fresh.token != "stale"
            client.routes.put(found.id, Route(found.record.base_url, "stale"))
            attachment.send(b"after\n")
            attachment.end_input()
            assert attachment.read() == b"before\nafter\n" and attachment.connections == 1
        with process.attach() as attachment:
            assert attachment.read() == b"before\nafter\n"


def test_an_attachment_to_an_instance_that_is_deleted_says_so(cell: Cell) -> None:
    with Landfast(cell.url, cell.api_key) as client:
        instance = client.instances.create()
        process = instance.processes.start(["cat"])
        with process.attach() as attachment:
            attachment.send(b"hello\n")
            instance.delete()
            with pytest.raises(landfast.InstanceGone):
                attachment.read()


def _read_until(attachment: landfast.Attachment, text: bytes) -> None:
    said = b""
    while text not in said:
        event = attachment.__next__()
        said += event.data if isinstance(event, Output) else b""
