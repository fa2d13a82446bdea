"""A whole cell as a user has it, by the program in the tree: API, gateway and node, each of which can be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import threading
import time
from pathlib import Path

from .servers import nowhere

START_SECONDS = 30.0
"""How long a role may take to start on a busy machine."""


def binary(name: str = "landfast-under-test") -> Path:
    """A program of the tree; `cargo xtask test python` builds it and says where."""
    where = os.environ.get("LANDFAST_BINARY")
    assert where, "LANDFAST_BINARY does not say where the program is: run `cargo xtask test python`"
    return Path(where).with_name(name)


class Role:
    """One process of the cell."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self._folder = folder
        self._arguments = arguments
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        """Starts it, and returns once it has said that it is up."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LANDFAST_")}
        with open(self._folder / f"{self._arguments[0]}.log", "ab") as log:
            self._process = subprocess.Popen(
                [binary(), *self._arguments, "--data", str(self._folder)],
                stderr=log,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                env=environment,
            )
        assert self._process.stdout is not None
        assert self._process.stdout.readline(), (self._folder / f"{self._arguments[0]}.log").read_text()

    def freeze(self) -> None:
        """Lets it stand still: its sockets stay, and nothing answers."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        # The kernel stops one thread and tells the others; until they have heard it, they serve.
        while not all(_state(task) == "T" for task in Path(f"/proc/{self._process.pid}/task").iterdir()):
            time.sleep(0.001)

    def kill(self) -> None:
        """Kills it."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """Asks it to stop, and does not wait for that."""
        assert self._process is not None
        self._process.terminate()

    def is_away(self, seconds: float) -> threading.Timer:
        """Kills it, and starts it again after so many seconds, meanwhile the test goes on."""
        self.kill()
        timer = threading.Timer(seconds, self.start)
        timer.start()
        return timer


class Cell:
    """A cell on free ports in a folder of its own; everything that it started ends with it."""

    def __init__(self) -> None:
        reaper = binary("landfast-reaper")
        # Under /tmp whatever TMPDIR says: paths of sockets have to be short.
        self.folder = Path(tempfile.mkdtemp(prefix="cell-", dir="/tmp"))
        self._reaper = subprocess.Popen([reaper, self.folder], stdin=subprocess.PIPE)
        self._others: list[Role] = []
        self.url = nowhere()
        self.api = Role(self.folder, "api", "--listen", "127.0.0.1:0")
        self.gateway = Role(self.folder, "gateway", "--listen", self.url.removeprefix("http://"))
        self.node = Role(self.folder, "node", "--name", "a", "--listen", "127.0.0.1:0")
        self.api_key = (self.folder / "api-key").read_text().strip()

    def another_gateway(self, settings: str = "drain_timeout_ms = 500") -> tuple[str, Role]:
        """Starts another gateway with these settings, and says where it is."""
        url = nowhere()
        config = self.folder / "another.toml"
        config.write_text(f"[gateway]\n{settings}\n")
        arguments = ["--listen", url.removeprefix("http://"), "--config", str(config)]
        role = Role(self.folder, "gateway", *arguments)
        self._others.append(role)
        return url, role

    def logs(self) -> str:
        """What its roles have said so far, and the agents of instances that are still there."""
        return "".join(log.read_text() for log in [*self.folder.glob("*.log"), *self.folder.glob("instances/*/*.log")])

    def close(self) -> None:
        """Ends all of it, agents too: what reads its standard input to the end does so."""
        assert self._reaper.stdin is not None
        for role in (self.gateway, self.node, self.api, *self._others):
            role.kill()
        self._reaper.stdin.close()
        self._reaper.wait(START_SECONDS)


def _state(task: Path) -> str:
    """Returns the state of one thread as the kernel letters it; a thread that has ended stands as still as any."""
    try:
        return (task / "stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "T"
