"""A port of this machine that leads into an instance, by the `landfast` program."""

from __future__ import annotations

import os
import shutil
from types import TracebackType

from .._failure import Misused, Unreachable
from ._io import Program

READY_SECONDS = 30.0
"""How long the program may take to find the instance and to listen."""


class Forward:
    """A port that leads into an instance and outlives gateways, nodes and moves. Use it as a context manager."""

    def __init__(self, url: str, api_key: str, instance: str, place: str, listen: str, binary: str | None) -> None:
        self._environment = {**os.environ, "LANDFAST_URL": url, "LANDFAST_API_KEY": api_key, "NO_COLOR": "1"}
        self._arguments = ["forward", instance, place, listen]
        self._binary = binary or os.environ.get("LANDFAST_BINARY") or shutil.which("landfast")
        self._program: Program | None = None
        self.address = ""
        """What to give to other programs: `host:port`, or for `cdp` a URL."""

    def start(self) -> Forward:
        """Starts it and returns once it listens. Raises `Misused` if there is no `landfast` program."""
        if self._binary is None:
            raise Misused("There is no `landfast` program in PATH; name one with binary or LANDFAST_BINARY.")
        program = Program.start([self._binary, *self._arguments], self._environment)
        self._program = program
        self.address = (program.read_line(READY_SECONDS)).strip()
        if not self.address:
            said = program.stop()
            raise Unreachable(f"`landfast forward` did not listen: {said.strip()}")
        return self

    def stop(self) -> None:
        """Stops it; what is connected is cut."""
        program, self._program = self._program, None
        if program is not None:
            program.stop()

    def __enter__(self) -> Forward:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
