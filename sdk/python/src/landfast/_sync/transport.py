"""A transport for `httpx` that goes to instances directly where it knows the way.

Decisions are in `_paths`, `_routes` and `_retry`; here they are carried out, one request at a time.
"""

from __future__ import annotations

import json
import uuid
from collections import deque
from collections.abc import Iterator, Iterable, Sequence

import httpx

from .._failure import Broken, Misused, Retry, TimedOut, TransportFailure, Unreachable
from .._gateways import DRAINING, Gateways
from .._paths import FALLBACKS, ControlPlane, Target, direct_subresources, direct_url, is_below, is_gone
from .._retry import RETRIES, Retries, asked_by, is_idempotent, said_by
from .._routes import Route, RouteCache
from ._io import sleep

FORCED = "landfast.direct"
"""The extension of a request that only the instance can answer: its route is asked for if it is not known."""

WHOLE = "landfast.whole"
"""The extension of a request whose answer is read before it is returned, so that a cut one can be asked for again."""

REDIRECTED = "landfast.redirected"
"""The extension of a request that an instance has sent somewhere: no API key goes with it any more."""

CAME_BY = "landfast.came_by"
"""The extension of an answer that says who gave it: `instance` or `control`."""

GONE_BODY_MAX = 64 * 1024
"""Bytes of an answer that are looked at for the code that says gone."""

KEYS_MAX = 16
"""API keys of one transport that are remembered, so that they can be kept from instances."""

REDIRECTS = frozenset({301, 302, 303, 307, 308})
STALE_CODES = frozenset({"auth.expired", "auth.invalid"})


class DirectTransport(httpx.BaseTransport):
    """Puts direct routing, its fallback and safe retries under any `httpx.Client`.

    Whatever asks the control plane for an instance teaches it the way there; from then on calls to the instance's
    sub-resources go to the instance itself, with the instance's token in the place of the API key. Requests to any
    other place pass unchanged, except that the API key is taken from what leads to an instance. Cookies of instances
    are not set: the client would take them for the control plane's, and send them to all.

    `url` may be several, in a list or with commas between them: gateways of one cell. A request that one of them did
    not take goes to the next. The first is the one that requests are addressed to.

    `routes` may be shared between transports; `direct` names the sub-resources (`LANDFAST_DIRECT` by default);
    `retries` is the number of further attempts, which only the error table allows. Raises `landfast.Unreachable`,
    `landfast.Broken` and `landfast.TimedOut`, which are `httpx.TransportError` too.
    """

    def __init__(
        self,
        url: str | Sequence[str] | Gateways,
        *,
        transport: httpx.BaseTransport | None = None,
        routes: RouteCache | None = None,
        direct: Iterable[str] | None = None,
        retries: int = RETRIES,
    ) -> None:
        self.routes = RouteCache() if routes is None else routes
        self._gateways = url if isinstance(url, Gateways) else Gateways.read(url)
        self._control = ControlPlane(self._gateways.urls[0])
        self._inner = httpx.HTTPTransport() if transport is None else transport
        self._direct = direct_subresources(direct)
        self._retries = retries
        self._keys: deque[str] = deque(maxlen=KEYS_MAX)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Sends a request where it is answered best, and again where that is safe."""
        if REDIRECTED in request.extensions:
            return self._follow(request, request.extensions[REDIRECTED])
        target = self._control.target(request.url)
        if target is None:
            return _send(self._inner, self._copy(request, request.url, None), whole=False)
        body = _Body.of(request)
        route = self._route(request, target)
        if route is None or target.instance is None:
            return self._ask_control(request, target, body, self._retries)
        return self._ask_instance(request, target, target.instance, route, body)

    def close(self) -> None:
        """Closes the connections."""
        self._inner.close()

    def _route(self, request: httpx.Request, target: Target) -> Route | None:
        forced = bool(request.extensions.get(FORCED))
        if target.instance is None or not (forced or target.is_below(self._direct)):
            return None
        route = self.routes.get(target.instance)
        return self._fetch(request, target.instance) if route is None and forced else route

    def _ask_control(self, request: httpx.Request, target: Target, body: _Body, retries: int) -> httpx.Response:
        self._remember_key(request)
        wire = httpx.Request(
            request.method, request.url, headers=request.headers, stream=body.stream, extensions=request.extensions
        )
        if target.takes_idempotency_key(request.method) and "idempotency-key" not in wire.headers:
            wire.headers["idempotency-key"] = str(uuid.uuid4())
        has_routes = target.has_routes(request.method)
        response = self._attempts(wire, body, retries, whole=has_routes or WHOLE in request.extensions)
        if response.is_success and has_routes:
            self.routes.learn(_json_of(response))
        if response.is_success and target.ends_instance(request.method) and target.instance is not None:
            self.routes.forget(target.instance)
        response.extensions[CAME_BY] = "control"
        return response

    def _ask_instance(
        self, request: httpx.Request, target: Target, instance: str, route: Route, body: _Body
    ) -> httpx.Response:
        response = self._attempt_direct(request, target, route, body)
        if _is_stale(response):
            self.routes.forget(instance, route)
            try:
                fresh = self._fetch(request, instance) if body.can_be_sent else None
            except BaseException:
                response.close()
                raise
            if fresh is None:
                return response
            response.close()
            route = fresh
            response = self._attempt_direct(request, target, route, body)
        if response.status_code not in (404, 410):
            return response
        response, problem = _look_into(response)
        if not is_gone(response.status_code, problem):
            return response
        self.routes.forget(instance, route)
        if request.method != "GET" or target.below not in FALLBACKS or not body.can_be_sent:
            return response
        response.close()
        return self._ask_control(request, target, body, retries=0)

    def _attempt_direct(
        self, request: httpx.Request, target: Target, route: Route, body: _Body
    ) -> httpx.Response:
        self._remember_key(request)
        wire = self._copy(request, direct_url(route.base_url, target), route)
        wire.stream = body.stream
        response = self._attempts(wire, body, self._retries, whole=WHOLE in request.extensions)
        if response.status_code in REDIRECTS and "location" in response.headers:
            response.headers["location"] = str(wire.url.join(response.headers["location"]))
            request.extensions[REDIRECTED] = route
        response.headers.pop("set-cookie", None)
        response.extensions[CAME_BY] = "instance"
        return response

    def _attempts(self, wire: httpx.Request, body: _Body, most: int, *, whole: bool) -> httpx.Response:
        retries = Retries(most)
        # An attempt that may have run: whatever later ones come to, it is what the caller has to know of.
        unsure: TransportFailure | None = None
        while True:
            try:
                response = self._walk(wire, body, whole=whole)
            except TransportFailure as failure:
                unsure = failure if failure.retry is Retry.IF_IDEMPOTENT else unsure
                pause = _pause(retries, failure.retry, wire, body, None)
                if pause is None:
                    raise unsure or failure from failure
                if self._gateways.has_fresh(wire.url):
                    pause = 0.0
            else:
                retry = said_by(response.headers)
                pause = _pause(retries, retry, wire, body, asked_by(response.headers))
                if pause is None and (unsure is None or retry is not Retry.SAFE):
                    return response
                response.close()
                if pause is None and unsure is not None:
                    raise unsure
            sleep(pause or 0.0)

    def _walk(self, wire: httpx.Request, body: _Body, *, whole: bool) -> httpx.Response:
        """Sends it to the first gateway that takes it. One that is not reached, or is shutting down, took nothing."""
        places = self._gateways.order(wire.url)
        for place in places[:-1]:
            try:
                response = self._send_to(place, wire, whole=whole)
            except Unreachable:
                if not body.can_be_sent:
                    raise
                continue
            is_draining = response.headers.get("landfast-error") == DRAINING
            if not is_draining or not body.can_be_sent:
                return response
            response.close()
        return self._send_to(places[-1], wire, whole=whole)

    def _send_to(self, place: httpx.URL, wire: httpx.Request, *, whole: bool) -> httpx.Response:
        try:
            response = _send(self._inner, _at(wire, place), whole=whole)
        except TransportFailure:
            self._gateways.failed(place)
            raise
        is_program = response.headers.get("landfast-origin") == "service"
        self._gateways.judge(place, None if is_program else response.headers.get("landfast-error"))
        if "location" in response.headers:
            response.headers["location"] = self._gateways.like(response.headers["location"], wire.url)
        return response

    def _fetch(self, request: httpx.Request, instance: str) -> Route | None:
        """Asks the control plane for the way, unless somebody else has done so meanwhile."""
        known = self.routes.get(instance)
        if known is not None:
            return known
        kept = {name: value for name, value in request.headers.items() if name in ("authorization", "user-agent")}
        extensions = {name: value for name, value in request.extensions.items() if name == "timeout"}
        url = self._control.instance(instance)
        asked = httpx.Request("GET", url, headers=kept, extensions=extensions)
        target = self._control.target(url)
        if target is None:
            return None
        response = self._ask_control(asked, target, _Body.of(asked), self._retries)
        response.close()
        return self.routes.get(instance)

    def _follow(self, request: httpx.Request, route: Route) -> httpx.Response:
        """Goes where an instance has pointed to: with its own token if that is in the instance, with none if not."""
        is_inside = is_below(request.url, route.base_url)
        wire = self._copy(request, request.url, route if is_inside else None)
        response = _send(self._inner, wire, whole=False)
        response.headers.pop("set-cookie", None)
        return response

    def _remember_key(self, request: httpx.Request) -> None:
        key = _credential(request)
        if key and key not in self._keys:
            self._keys.append(key)

    def _copy(self, request: httpx.Request, url: httpx.URL, route: Route | None) -> httpx.Request:
        """The same request for somebody who must not see an API key."""
        keys = [*self._keys]
        if route is not None or REDIRECTED in request.extensions:
            keys.append(_credential(request))
        kept = [
            (name, value)
            for name, value in request.headers.multi_items()
            if name != "host" and not any(key in value for key in keys if key)
        ]
        headers = httpx.Headers([("Host", url.netloc.decode("ascii")), *kept])
        if route is not None:
            headers["Authorization"] = f"Bearer {route.token}"
        return httpx.Request(request.method, url, headers=headers, stream=request.stream, extensions=request.extensions)


class _Body:
    """The body of a request. One that is not held whole is sent once: nobody can wind it back."""

    def __init__(self, stream: httpx.SyncByteStream, is_held: bool) -> None:
        self.stream: httpx.SyncByteStream = stream if is_held else _Once(stream)

    @classmethod
    def of(cls, request: httpx.Request) -> _Body:
        """The body of this request, whose client is one of threads."""
        if not isinstance(request.stream, httpx.SyncByteStream):
            raise Misused("The body of the request is of the other kind of client: threads and threads do not mix.")
        return cls(request.stream, isinstance(request.stream, httpx.ByteStream))

    @property
    def can_be_sent(self) -> bool:
        """Whether it can be sent now, be it again."""
        return not (isinstance(self.stream, _Once) and self.stream.is_begun)


class _Once(httpx.SyncByteStream):
    """A stream that knows whether somebody has begun to read it."""

    def __init__(self, stream: httpx.SyncByteStream) -> None:
        self._stream = stream
        self.is_begun = False

    def __iter__(self) -> Iterator[bytes]:
        self.is_begun = True
        for part in self._stream:
            yield part

    def close(self) -> None:
        self._stream.close()


class _Answer(httpx.SyncByteStream):
    """The body of an answer, behind what was read of it already. If it is cut, that is an error of ours."""

    def __init__(self, stream: httpx.SyncByteStream, read: bytes = b"") -> None:
        self._stream = stream
        self._read = read
        self._parts: Iterator[bytes] | None = None

    def __iter__(self) -> Iterator[bytes]:
        if self._read:
            yield self._read
        self._read = b""
        part = self.next()
        while part is not None:
            yield part
            part = self.next()

    def next(self) -> bytes | None:
        """The next part; None at the end."""
        if self._parts is None:
            self._parts = self._stream.__iter__()
        try:
            for part in self._parts:
                return part
        except httpx.TransportError as failure:
            raise _told(failure) from failure
        return None

    def look(self, most: int) -> bytes | None:
        """Reads ahead to the end; None if that is further away than so many bytes. Nothing is taken."""
        part = self.next()
        while part is not None:
            self._read += part
            if len(self._read) > most:
                return None
            part = self.next()
        return self._read

    def close(self) -> None:
        self._stream.close()


def _send(inner: httpx.BaseTransport, wire: httpx.Request, *, whole: bool) -> httpx.Response:
    try:
        response = inner.handle_request(wire)
    except httpx.UnsupportedProtocol as failure:
        raise Misused(str(failure)) from failure
    except httpx.LocalProtocolError as failure:
        raise Misused(str(failure)) from failure
    except httpx.TransportError as failure:
        raise _told(failure) from failure
    assert isinstance(response.stream, httpx.SyncByteStream)
    response.stream = _Answer(response.stream)
    return _read_whole(response) if whole else response


def _at(wire: httpx.Request, place: httpx.URL) -> httpx.Request:
    """The same request to another gateway."""
    if place == wire.url:
        return wire
    headers = httpx.Headers(wire.headers)
    headers["Host"] = place.netloc.decode("ascii")
    return httpx.Request(wire.method, place, headers=headers, stream=wire.stream, extensions=wire.extensions)


def _read_whole(response: httpx.Response) -> httpx.Response:
    try:
        assert isinstance(response.stream, httpx.SyncByteStream)
        body = b"".join([part for part in response.stream])
    finally:
        response.close()
    return httpx.Response(response.status_code, headers=response.headers, content=body, extensions=response.extensions)


def _look_into(response: httpx.Response) -> tuple[httpx.Response, object]:
    """Reads the JSON of an answer and leaves the answer as it was."""
    stream = response.stream
    try:
        body = stream.look(GONE_BODY_MAX) if isinstance(stream, _Answer) else response.content
    except BaseException:
        response.close()
        raise
    if body is None:
        return response, None
    looked_at = httpx.Response(response.status_code, headers=response.headers, content=body)
    return response, _json_of(looked_at)


def _json_of(response: httpx.Response) -> object:
    if "json" not in response.headers.get("content-type", ""):
        return None
    try:
        return json.loads(response.content)
    except (ValueError, httpx.DecodingError):
        return None


def _told(failure: httpx.TransportError) -> TransportFailure:
    text = str(failure) or type(failure).__name__
    if isinstance(failure, (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError)):
        return Unreachable(text)
    return TimedOut(text) if isinstance(failure, httpx.TimeoutException) else Broken(text)


def _pause(retries: Retries, retry: Retry, wire: httpx.Request, body: _Body, asked: float | None) -> float | None:
    if not body.can_be_sent:
        return None
    return retries.after(retry, is_idempotent=is_idempotent(wire), asked=asked)


def _is_stale(response: httpx.Response) -> bool:
    """Whether Landfast itself, and not a program in the instance, says no to the token."""
    is_program = response.headers.get("landfast-origin") == "service"
    is_refusal = response.status_code in (401, 403) and not is_program
    return is_refusal and response.headers.get("landfast-error") in STALE_CODES


def _credential(request: httpx.Request) -> str:
    """The API key of a request, without the word before it."""
    said: str = request.headers.get("authorization", "")
    return said.rpartition(" ")[2]
