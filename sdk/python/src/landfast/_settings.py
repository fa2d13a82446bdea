"""Which cell is meant, and with which key: what was said, else the environment, else the machine's own cell."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from ._failure import Misused
from ._gateways import Gateways

DEFAULT_URL = "http://127.0.0.1:7070"
"""Where `landfast up` listens unless it is told otherwise."""


def gateways(said: str | Sequence[str] | None) -> Gateways:
    """Where the cell is: said, `LANDFAST_URL`, or where `landfast up` listened last."""
    return Gateways.read(said or os.environ.get("LANDFAST_URL") or _read("address") or DEFAULT_URL)


def api_key(said: str | None) -> str:
    """The API key: said, `LANDFAST_API_KEY`, or the first one of the machine's own cell."""
    found = said or os.environ.get("LANDFAST_API_KEY") or _read("api-key")
    if not found or not found.strip():
        raise Misused("There is no API key: pass api_key, set LANDFAST_API_KEY, or start a cell with `landfast up`.")
    return found.strip()


def _read(name: str) -> str | None:
    folder = os.environ.get("LANDFAST_DATA") or Path.home() / ".local/share/landfast"
    try:
        return (Path(folder) / name).read_text()
    except OSError:
        return None
