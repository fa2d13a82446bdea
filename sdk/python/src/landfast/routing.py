"""Direct routing by itself, for any `httpx` client.

    import httpx
    from landfast.routing import DirectTransport

    with httpx.Client(
        base_url="https://cell.example",
        headers={"Authorization": f"Bearer {api_key}"},
        transport=DirectTransport("https://cell.example"),
    ) as client:
        instance = client.post("/v1/instances", json={}, params={"wait": 60}).json()["id"]
        client.get(f"/v1/instances/{instance}/processes")   # goes to the instance, with the instance's token

What is learnt, when it is forgotten, when the control plane is asked instead, and what is sent again is written in
`sdk/cases`; every row there is a test here.
"""

from __future__ import annotations

from ._async.transport import CAME_BY, FORCED, WHOLE, AsyncDirectTransport
from ._paths import DIRECT, DIRECT_VARIABLE
from ._routes import ROUTES_MAX, Route, RouteCache
from ._sync.transport import DirectTransport

__all__ = [
    "CAME_BY",
    "DIRECT",
    "DIRECT_VARIABLE",
    "FORCED",
    "ROUTES_MAX",
    "WHOLE",
    "AsyncDirectTransport",
    "DirectTransport",
    "Route",
    "RouteCache",
]
