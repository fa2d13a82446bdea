"""The client: one cell, one API key."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from types import TracebackType

import httpx

from .. import _settings
from .._names import plain
from .._retry import RETRIES
from .._routes import RouteCache
from .caller import Caller
from .forward import Forward
from .instances import Instance, Instances
from .transport import DirectTransport


class Landfast:
    """A client of one cell. Safe to share between threads; close it, or use it as a context manager.

    Without `url` and `api_key` it reads `LANDFAST_URL` and `LANDFAST_API_KEY`, and else what `landfast up` has left on
    this machine. Several URLs, in a list or with commas between them, are gateways of one cell, any of which goes on
    with what another began. `direct` names the sub-resources that are asked for at the instance itself
    (`LANDFAST_DIRECT`); `retries` is the number of further attempts; `transport` is what the connections are made by.

    Every method raises `landfast.LandfastError`. Calls that failed because nothing was started are made again before
    that, and so are those that may run twice.
    """

    def __init__(
        self,
        url: str | Sequence[str] | None = None,
        api_key: str | None = None,
        *,
        direct: Iterable[str] | None = None,
        retries: int = RETRIES,
        transport: httpx.BaseTransport | None = None,
        routes: RouteCache | None = None,
    ) -> None:
        where, key = _settings.gateways(url), _settings.api_key(api_key)
        self._options = (None if direct is None else tuple(direct), retries)
        routed = DirectTransport(where, transport=transport, routes=routes, direct=direct, retries=retries)
        self._caller = Caller(where, key, routed)
        self.instances = Instances(self._caller)
        """Makes, finds and lists instances."""

    @property
    def url(self) -> str:
        """Where the cell is; several gateways with commas between them."""
        return ",".join(self._caller.gateways.urls)

    @property
    def http(self) -> httpx.Client:
        """The client below: for what this package has no word for. Paths begin with `/v1/`."""
        return self._caller.http

    @property
    def routes(self) -> RouteCache:
        """The routes that are known."""
        return self._caller.routes

    def copy(self, *, retries: int | None = None) -> Landfast:
        """Makes a client with connections of its own that shares the known routes."""
        direct, before = self._options
        return Landfast(
            self.url,
            self._caller.api_key,
            direct=direct,
            retries=before if retries is None else retries,
            routes=self.routes,
        )

    def revoke_token(self, token: str) -> None:
        """Takes the access token of this id back; what uses it ends. Safe to repeat."""
        self._caller.call("DELETE", f"/tokens/{plain(token)}")

    def forward(
        self, instance: str | Instance, place: str, listen: str = "127.0.0.1:0", *, binary: str | None = None
    ) -> Forward:
        """A port of this machine that leads to a service, a port or `cdp` in an instance, over everything in between.

        Use it as a context manager. It runs the `landfast` program: `binary`, `LANDFAST_BINARY`, or the one in `PATH`.
        """
        named = plain(instance) if isinstance(instance, str) else instance.id
        return Forward(self.url, self._caller.api_key, named, place, listen, binary)

    def close(self) -> None:
        """Closes the connections. What runs in instances goes on."""
        self._caller.http.close()

    def __enter__(self) -> Landfast:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
