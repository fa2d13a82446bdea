"""One call each: sends it, waits for the whole answer, and turns a no into an exception."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterable, AsyncIterator, Mapping
from typing import Any

import httpx

from .. import errors
from .._failure import ProtocolFailure
from .._gateways import Gateways
from .._records import InstanceRecord
from .._routes import Route, RouteCache
from .transport import FORCED, WHOLE, AsyncDirectTransport

DEADLINE_SECONDS = 30.0
"""How long an ordinary call may take: longer than the control plane waits for a moving instance."""

CONNECT_SECONDS = 10.0
"""How long a connection may take to be made."""

ENDS: dict[str, type[errors.LandfastError]] = {
    "stopped": errors.TABLE["instance.stopped"],
    "failed": errors.TABLE["instance.failed"],
    "lost": errors.TABLE["instance.lost"],
    "deleted": errors.TABLE["instance.gone"],
}


class AsyncCaller:
    """Makes calls with one API key, over one set of connections."""

    def __init__(self, gateways: Gateways, api_key: str, transport: AsyncDirectTransport) -> None:
        self.gateways = gateways
        self.api_key = api_key
        self.transport = transport
        headers = {"Authorization": f"Bearer {api_key}", "User-Agent": "landfast-python"}
        self.http = httpx.AsyncClient(
            base_url=gateways.urls[0], headers=headers, transport=transport, timeout=_timeout(DEADLINE_SECONDS)
        )

    @property
    def routes(self) -> RouteCache:
        """The routes that are known."""
        return self.transport.routes

    async def call(
        self,
        method: str,
        path: str,
        *,
        body: object = None,
        content: bytes | AsyncIterable[bytes] | None = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        direct: bool = False,
        seconds: float = DEADLINE_SECONDS,
    ) -> httpx.Response:
        """Makes a call below `/v1` and returns its answer. Raises `LandfastError` if that is a no, or none comes."""
        response = await self.http.request(
            method,
            f"/v1{path}",
            json=body,
            content=content,
            params=_said(params),
            headers=headers,
            timeout=_timeout(seconds),
            extensions={WHOLE: True, FORCED: direct},
        )
        if not response.is_success:
            raise errors.from_answer(response.status_code, response.headers, response.content)
        return response

    async def json(self, method: str, path: str, **more: Any) -> Any:
        """Makes a call and reads the JSON of its answer."""
        return json_of(await self.call(method, path, **more))

    @contextlib.asynccontextmanager
    async def stream(
        self, path: str, *, params: Mapping[str, Any] | None = None, headers: Mapping[str, str], silence: float
    ) -> AsyncIterator[httpx.Response]:
        """Opens an answer that lasts; it is broken when nothing comes for `silence` seconds."""
        opened = self.http.stream(
            "GET",
            f"/v1{path}",
            params=_said(params),
            headers=headers,
            timeout=_timeout(silence),
            extensions={FORCED: True},
        )
        async with opened as response:
            if not response.is_success:
                body = await response.aread()
                raise errors.from_answer(response.status_code, response.headers, body)
            yield response

    async def route(self, instance: str, turned_down: Route | None = None) -> Route:
        """Where an instance is reached, asked for anew if that route was turned down. Raises how the instance ended."""
        if turned_down is not None:
            self.routes.forget(instance, turned_down)
        known = self.routes.get(instance)
        if known is not None:
            return known
        record = InstanceRecord.read(await self.json("GET", f"/instances/{instance}"))
        known = self.routes.get(instance)
        if known is not None:
            return known
        raise ENDS.get(record.phase, ProtocolFailure)(record.reason or "The instance has no access token.")


def json_of(response: httpx.Response) -> Any:
    """Reads the JSON of an answer. Raises `ProtocolFailure` if it is none."""
    try:
        return response.json()
    except ValueError as error:
        raise ProtocolFailure(f"The answer is no JSON: {error}.") from error


def _timeout(seconds: float) -> httpx.Timeout:
    return httpx.Timeout(seconds, connect=CONNECT_SECONDS)


def _said(params: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The parameters that were said."""
    return None if params is None else {name: value for name, value in params.items() if value is not None}
