"""Processes of an instance: started, run to their end, looked at, and spoken with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from .._conversation import Start
from .._failure import Misused
from .._names import plain
from .._records import Completed, Exit, LogPart, ProcessRecord, items_of
from .attachment import PATIENCE_SECONDS, AsyncAttachment
from .caller import DEADLINE_SECONDS, AsyncCaller

RUN_SECONDS = 600.0
"""How long a command without a timeout may take before its answer is given up; start and attach to what runs longer."""

Command = str | Sequence[str]
"""A program and its arguments, or a line for `/bin/sh -c`."""


class AsyncProcess:
    """One process."""

    def __init__(self, caller: AsyncCaller, instance: str, record: ProcessRecord) -> None:
        self._caller = caller
        self._instance = instance
        self._path = f"/instances/{instance}/processes/{record.id}"
        self.record = record
        """What was told of it last; `refresh` asks again."""
        self.id = record.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} {self.record.state}>"

    @property
    def exit(self) -> Exit | None:
        """How it ended, when it was last asked for; None while it runs, and if nobody knows."""
        return Exit.read(self.record.exit)

    async def refresh(self) -> AsyncProcess:
        """Asks how it is. Safe to repeat. Raises `ProcessUnknown`."""
        self.record = ProcessRecord.read(await self._caller.json("GET", self._path, direct=True))
        return self

    async def signal(self, name: str) -> None:
        """Sends a signal, by its name without SIG, to its group; on a terminal to the one in the foreground.

        Raises `ProcessNotRunning`. After `Broken` it may have been sent.
        """
        await self._caller.call("POST", f"{self._path}/signal", body={"signal": name}, direct=True)

    async def resize(self, rows: int, cols: int) -> None:
        """Sets the size of its terminal. Safe to repeat. Raises `ProcessNoTerminal`."""
        await self._caller.call("POST", f"{self._path}/resize", body={"rows": rows, "cols": cols}, direct=True)

    async def write(self, data: bytes) -> None:
        """Writes to its standard input. Raises `ProcessStdinClosed`. After `Broken` it may have been written."""
        await self._caller.call("POST", f"{self._path}/stdin", content=data, direct=True)

    async def end_input(self) -> None:
        """Ends its standard input. Safe to repeat."""
        await self._caller.call("POST", f"{self._path}/eof", direct=True)

    async def output(self, start: int = 0) -> LogPart:
        """Reads what it has said, from this offset to the newest byte. Safe to repeat. `attach` waits for more."""
        response = await self._caller.call("GET", f"{self._path}/output", params={"from": start}, direct=True)
        return LogPart(int(response.headers.get("landfast-offset", start)), response.content)

    def attach(
        self, start: Start = "start", *, input: bool = True, patience: float = PATIENCE_SECONDS
    ) -> AsyncAttachment:
        """Follows it: everything it says from `start` on, once and in order, over any number of connections.

        `start` is `"start"` (the oldest output that is kept), `"now"`, `"screen"` (a redraw of its terminal) or an
        offset.
        Use it as a context manager and iterate over it.
        """
        return AsyncAttachment(self._caller, self._instance, self.id, start, input, patience)

    async def delete(self) -> None:
        """Kills everything in its session and forgets it. Safe to repeat: then it raises `ProcessUnknown`."""
        await self._caller.call("DELETE", self._path, direct=True)


class AsyncProcesses:
    """The processes of one instance."""

    def __init__(self, caller: AsyncCaller, instance: str) -> None:
        self._caller = caller
        self._instance = instance
        self._path = f"/instances/{instance}/processes"

    async def start(
        self,
        command: Command,
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        tty: tuple[int, int] | None = None,
        stdin: Literal["open", "closed"] | None = None,
        timeout: int | None = None,
        max_run_after_detach: int | None = None,
        lossless: bool = False,
    ) -> AsyncProcess:
        """Starts a process; `tty` is the rows and columns of its terminal, times are in seconds.

        With `lossless` it is held back, as by a full pipe, rather than that its first viewer misses a byte.
        Raises `ProcessSpawn`. After `Broken` it may run: list the processes before starting it again.
        """
        body = _wish(command, env, cwd, timeout)
        body |= {"tty": {"rows": tty[0], "cols": tty[1]}} if tty else {}
        body |= {"stdin": stdin} if stdin else {}
        body |= {"max_run_after_detach": max_run_after_detach} if max_run_after_detach is not None else {}
        body |= {"lossless": True} if lossless else {}
        answer = await self._caller.json("POST", self._path, body=body, direct=True)
        return AsyncProcess(self._caller, self._instance, ProcessRecord.read(answer))

    async def run(
        self,
        command: Command,
        *,
        input: str = "",
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        timeout: int | None = None,
    ) -> Completed:
        """Runs a command to its end, within `timeout` seconds, and returns its exit and what it said.

        A command that fails is no exception: look at `exit`. Raises `ProcessSpawn`. After `Broken` it may have run, or
        run still; it is never run twice by this.
        """
        body = _wish(command, env, cwd, timeout) | ({"input": input} if input else {})
        seconds = RUN_SECONDS if timeout is None else timeout + DEADLINE_SECONDS
        path = f"/instances/{self._instance}/exec"
        return Completed.read(await self._caller.json("POST", path, body=body, direct=True, seconds=seconds))

    async def list(self) -> list[AsyncProcess]:
        """Lists them, those that have exited too. Safe to repeat."""
        answer = await self._caller.json("GET", self._path, direct=True)
        records = [ProcessRecord.read(item) for item in items_of(answer, "processes")]
        return [AsyncProcess(self._caller, self._instance, record) for record in records]

    async def get(self, process: str) -> AsyncProcess:
        """Finds the process of this id. Raises `ProcessUnknown`."""
        answer = await self._caller.json("GET", f"{self._path}/{plain(process)}", direct=True)
        return AsyncProcess(self._caller, self._instance, ProcessRecord.read(answer))

    async def terminal(
        self,
        command: Command = ("bash",),
        *,
        rows: int = 24,
        cols: int = 80,
        env: Mapping[str, str] | None = None,
        cwd: str | None = None,
        patience: float = PATIENCE_SECONDS,
    ) -> AsyncAttachment:
        """Starts a command on a terminal and follows it. Raises `ProcessSpawn`."""
        process = await self.start(command, env=env, cwd=cwd, tty=(rows, cols))
        return process.attach(patience=patience)


def _wish(command: Command, env: Mapping[str, str] | None, cwd: str | None, timeout: int | None) -> dict[str, Any]:
    if not command:
        raise Misused("There is no command: give a program and its arguments, or a line for the shell.")
    wish: dict[str, Any] = {"shell": command} if isinstance(command, str) else {"argv": list(command)}
    said = {"env": dict(env) if env else None, "cwd": cwd, "timeout": timeout}
    return wish | {name: value for name, value in said.items() if value is not None}
