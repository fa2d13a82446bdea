"""Fifty threads and a hundred instances that come and go: nobody is asked what was meant for another.

Once with servers that count everything, and once with a real cell.
"""

from __future__ import annotations

import json
import random
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
from support.cell import Cell
from support.servers import Headers, Request, Server

import landfast
from landfast import Landfast
from landfast.routing import RouteCache

API_KEY = "the-api-key"
THREADS = 50
INSTANCES = 100
CALLS = 40
ALIVE = 10
"""Instances of the real cell that live at a time: each is processes of its own."""
ASKED = 5
ENDINGS = (landfast.InstanceGone, landfast.UpstreamLost)
"""What an instance may answer that is being deleted: that it has ended, or nothing more in the middle of it."""
ROUTES = 60
"""Fewer than there are instances, so that routes are forgotten and learnt again all the time."""


class Cloud:
    """A control plane and its instances, which refuse whatever is not exactly for them."""

    def __init__(self) -> None:
        self.live: dict[str, int] = {}
        self.faults: list[str] = []
        self.direct = 0
        self.instance = Server(self._instance)
        self.control = Server(self._control)

    def _control(self, request: Request) -> tuple[int, Headers, bytes]:
        identity = request.path.partition("?")[0].removeprefix("/v1/instances").strip("/")
        if request.token != API_KEY:
            self.faults.append(f"the control plane saw the token {request.token}")
        if request.method == "POST":
            identity = json.loads(request.body)["labels"]["name"]
            self.live[identity] = self.live.get(identity, 0) + 1
        if request.method == "DELETE":
            self.live.pop(identity, None)
        if identity not in self.live:
            return _refusal(410, "instance.gone")
        record = {
            "id": identity,
            "kind": "sandbox",
            "phase": "running",
            "desired": "running",
            "generation": 1,
            "created_at": 1,
            "base_url": f"{self.instance.url}/i/{identity}",
            "token": f"token of {identity} {self.live[identity]}",
        }
        return 200, {"Content-Type": "application/json"}, json.dumps(record).encode()

    def _instance(self, request: Request) -> tuple[int, Headers, bytes]:
        identity = request.path.split("/")[2]
        meant = request.headers.get("x-meant-for")
        if API_KEY.encode() in request.raw:
            self.faults.append("an instance saw the API key")
        if meant != identity:
            self.faults.append(f"{identity} was asked what {meant} was meant to be")
        self.direct += 1
        if identity not in self.live:
            return _refusal(410, "instance.gone")
        if request.token != f"token of {identity} {self.live[identity]}":
            if not request.token.startswith(f"token of {identity} "):
                self.faults.append(f"{identity} saw {request.token}")
            return _refusal(401, "auth.invalid")
        return 200, {"Content-Type": "application/json"}, json.dumps({"processes": [], "of": identity}).encode()


def _refusal(status: int, code: str) -> tuple[int, Headers, bytes]:
    headers = {"Content-Type": "application/problem+json", "landfast-error": code}
    return status, headers, json.dumps({"code": code}).encode()


def test_no_call_reaches_an_instance_it_was_not_meant_for() -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    cloud, routes = Cloud(), RouteCache(ROUTES)
    with Landfast(cloud.control.url, API_KEY, routes=routes) as client, ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(lambda number: _live(client, random.Random(seed + number)), range(THREADS)))
    assert not cloud.faults, cloud.faults[:3]
    assert len(routes) <= ROUTES and cloud.direct > THREADS * CALLS / 4
    cloud.control.close()
    cloud.instance.close()


def _live(client: Landfast, luck: random.Random) -> None:
    for _ in range(CALLS):
        identity = f"ins_{luck.randrange(INSTANCES)}"
        choice = luck.random()
        if choice < 0.15:
            client.instances.create(labels={"name": identity}, wait=0)
        elif choice < 0.25:
            client.http.delete(f"/v1/instances/{identity}")
        else:
            answer = client.http.get(
                f"/v1/instances/{identity}/processes",
                headers={"X-Meant-For": identity},
                extensions={"landfast.direct": True},
            )
            assert answer.status_code in (401, 410) or answer.json()["of"] == identity


def test_instances_of_a_real_cell_come_and_go_under_fifty_threads(cell: Cell) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    recorder = Recorder()
    with (
        Landfast(cell.url, cell.api_key, transport=recorder, routes=RouteCache(ALIVE // 2)) as client,
        ThreadPoolExecutor(THREADS) as pool,
    ):
        crowd = Crowd(client)
        list(pool.map(lambda number: crowd.live(random.Random(seed + number)), range(THREADS)))
        assert crowd.made == INSTANCES and crowd.answered > INSTANCES
        assert len(client.routes) <= ALIVE // 2
        logs = cell.logs()
        for instance in crowd.alive:
            instance.delete()
    assert not crowd.faults, crowd.faults
    assert "agent started" in logs and cell.api_key not in logs and "eyJ" not in logs, "a key or a token in a log"
    assert not recorder.leaks(cell.api_key)


class Crowd:
    """A few living instances, of which one after another is replaced while everybody asks them who they are."""

    def __init__(self, client: Landfast) -> None:
        self._client = client
        self._lock = threading.Lock()
        self.alive = [client.instances.create() for _ in range(ALIVE)]
        self.made = ALIVE
        self.deleted: list[landfast.Instance] = []
        """Those whose deletion was asked for, or is about to be."""
        self.answered = 0
        self.refused = 0
        self.faults: list[str] = []

    def live(self, luck: random.Random) -> None:
        """What one thread does: replaces an instance as long as there are any to make, and asks some."""
        while self._may_make():
            instance = self._client.instances.create()
            slot = luck.randrange(ALIVE)
            with self._lock:
                before, self.alive[slot] = self.alive[slot], instance
                self.deleted.append(before)
            before.delete()
            for _ in range(ASKED):
                self._ask(luck.choice(self.alive))

    def _may_make(self) -> bool:
        with self._lock:
            may = self.made < INSTANCES
            self.made += may
            return may

    def _ask(self, instance: landfast.Instance) -> None:
        try:
            said = instance.processes.run("echo $LANDFAST_INSTANCE").text.strip()
        except landfast.LandfastError as failure:
            # An instance that is being deleted may be caught at any step of that, and nobody else may fail.
            if instance in self.deleted and isinstance(failure, ENDINGS):
                self.refused += 1
            else:
                self.faults.append(f"{instance.id}, deleted {instance in self.deleted}: {failure!r}")
            return
        self.answered += 1
        if said != instance.id:
            self.faults.append(f"{said} was asked what {instance.id} was meant to be")


class Recorder(httpx.BaseTransport):
    """Connections as they are, and every head that went over them."""

    def __init__(self) -> None:
        self._inner = httpx.HTTPTransport(limits=httpx.Limits(max_connections=THREADS))
        self._sent: list[tuple[str, str]] = []

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        self._sent.append((request.url.path, f"{request.url} {request.headers.multi_items()}"))
        return self._inner.handle_request(request)

    def leaks(self, key: str) -> list[str]:
        """What reached an instance with the API key in it."""
        direct = [head for path, head in self._sent if path.startswith("/i/")]
        assert direct, "nothing went to an instance directly"
        return [head for head in direct if key in head]
