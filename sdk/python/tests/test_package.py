"""The package as users get it, and its documents."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import pytest
from support.cell import START_SECONDS, binary

import landfast

SDK = Path(__file__).parents[1]


def test_the_wheel_is_whole_and_typed(tmp_path: Path) -> None:
    subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "wheel",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--no-build-isolation",
            "--wheel-dir",
            tmp_path,
            SDK,
        ],
        check=True,
    )
    (wheel,) = tmp_path.glob(f"landfast-{landfast.__version__}-py3-none-any.whl")
    names = zipfile.ZipFile(wheel).namelist()
    modules = {str(path.relative_to(SDK / "src")) for path in (SDK / "src").rglob("*.py")}
    assert modules | {"landfast/py.typed"} <= set(names)
    told = subprocess.run(
        [sys.executable, "-c", "import landfast; print(landfast.__file__)"],
        check=True,
        text=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": str(wheel)},
        cwd=tmp_path,
    )
    assert told.stdout.startswith(str(wheel))


def test_the_quick_start_runs_as_it_is_written(tmp_path: Path) -> None:
    (quick_start,) = re.findall(r"<!-- quick start -->\n+```python\n(.*?)```", (SDK / "README.md").read_text(), re.S)
    with Up() as environment:
        told = subprocess.run(
            [sys.executable, "-c", quick_start],
            env=environment,
            cwd=tmp_path,
            text=True,
            capture_output=True,
            timeout=60,
        )
        assert told.returncode == 0, told.stderr
        assert told.stdout == (SDK / "tests/quick_start.txt").read_text()


@pytest.mark.parametrize("name", ["ci_job.py", "agent_shell.py"])
def test_an_example_runs_as_it_is_written(name: str, tmp_path: Path) -> None:
    with Up() as environment:
        told = subprocess.run(
            [sys.executable, SDK / "examples" / name, "echo from the example"],
            env=environment,
            cwd=tmp_path,
            text=True,
            capture_output=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
        )
        assert told.returncode == 0, told.stderr
        assert "from the example" in told.stdout


class Up:
    """A cell as the README says to start one, and what a program needs in order to find it."""

    def __enter__(self) -> dict[str, str]:
        self._folder = Path(tempfile.mkdtemp(prefix="cell-", dir="/tmp"))
        self._reaper = subprocess.Popen([binary("landfast-reaper"), self._folder], stdin=subprocess.PIPE)
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LANDFAST_")}
        environment = {**kept, "LANDFAST_DATA": str(self._folder)}
        self._cell = subprocess.Popen(
            [binary(), "up", "--listen", "127.0.0.1:0"],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._cell.stdout is not None and self._cell.stdout.readline()
        return {**environment, "PYTHONPATH": str(SDK / "src")}

    def __exit__(self, *_: object) -> None:
        self._cell.kill()
        self._cell.wait()
        assert self._reaper.stdin is not None
        self._reaper.stdin.close()
        self._reaper.wait(START_SECONDS)
