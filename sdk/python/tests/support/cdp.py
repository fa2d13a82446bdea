"""A client of CDP that knows one thing: what an expression is worth in a new page."""

from __future__ import annotations

import json
from typing import Any

from websockets.sync.client import ClientConnection, connect

from landfast._sync._io import CONNECTS_AT_ONCE

MESSAGE_MAX = 16 * 1024 * 1024


def evaluate(url: str, expression: str) -> Any:
    """What an expression is worth in a new page of the browser."""
    connection = connect(url, max_size=MESSAGE_MAX, proxy=None, **CONNECTS_AT_ONCE)
    try:
        page = _call(connection, 1, "Target.createTarget", {"url": "about:blank"})["targetId"]
        session = _call(connection, 2, "Target.attachToTarget", {"targetId": page, "flatten": True})["sessionId"]
        return _call(connection, 3, "Runtime.evaluate", {"expression": expression}, session)["result"]["value"]
    finally:
        connection.close()


def _call(
    connection: ClientConnection, number: int, method: str, params: dict[str, Any], session: str | None = None
) -> Any:
    said = {"id": number, "method": method, "params": params} | ({"sessionId": session} if session else {})
    connection.send(json.dumps(said))
    while True:
        message = json.loads(connection.recv())
        if message.get("id") == number:
            return message["result"]
