"""Instances of a real cell: made, found, listed, and led through their lives."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from support.cell import Cell

import landfast
from landfast import AsyncLandfast

pytestmark = pytest.mark.anyio


@pytest.fixture
async def client(cell: Cell) -> AsyncIterator[AsyncLandfast]:
    async with AsyncLandfast(cell.url, cell.api_key) as client:
        yield client


async def test_an_instance_lives_as_it_is_told(client: AsyncLandfast) -> None:
    instance = await client.instances.create(labels={"test": "life"}, idempotency_key="life of tasks")
    assert instance.record.token is not None and instance.record.token not in repr(instance.record)
    again = await client.instances.create(labels={"test": "life"}, idempotency_key="life of tasks")
    assert (instance.id, instance.phase, again.id) == (again.id, "running", instance.id)
    assert (await instance.sleep()).phase == "sleeping"
    assert (await instance.wake()).phase == "running"
    with pytest.raises(landfast.MoveRefused):
        await instance.move()
    assert (await instance.stop()).record.desired == "stopped"
    await instance.delete()
    assert (await instance.refresh()).record.has_ended or instance.record.desired == "deleted"
    assert instance.id not in client.routes


async def test_all_pages_are_listed(client: AsyncLandfast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landfast._async.instances.PAGE", 1)
    monkeypatch.setattr("landfast._sync.instances.PAGE", 1)
    made = [(await client.instances.create(labels={"test": "pages"}, wait=0)).id for _ in range(3)]
    listed = [instance async for instance in client.instances.list(labels={"test": "pages"})]
    assert sorted(instance.id for instance in listed) == sorted(made)
    for instance in listed:
        await instance.delete()


async def test_what_is_not_there_says_so(client: AsyncLandfast) -> None:
    with pytest.raises(landfast.InstanceUnknown) as caught:
        await client.instances.get("ins_00000000000000000000000000")
    assert (caught.value.status, caught.value.retryable) == (404, False) and caught.value.request_id
    with pytest.raises(landfast.RequestInvalid) as refused:
        await client.instances.create(services={"web": {"port": 0}})
    assert "services.web" in str(refused.value)


@pytest.mark.parametrize("name", ["", "..", "../keys", "ins_1/../../keys", "ins_1?x", "ins 1", "%2e%2e"])
async def test_a_name_that_climbs_goes_nowhere(client: AsyncLandfast, name: str) -> None:
    with pytest.raises(landfast.Misused):
        await client.instances.get(name)
    with pytest.raises(landfast.Misused):
        await client.revoke_token(name)


async def test_a_token_is_made_for_others_and_taken_back(client: AsyncLandfast) -> None:
    instance = await client.instances.create()
    token = await instance.create_token(scopes=["process"], seconds=60)
    assert token.scopes == ["process"] and token.token not in repr(token)
    await client.revoke_token(token.id)
    await instance.delete()


async def test_a_server_in_an_instance_is_asked(client: AsyncLandfast) -> None:
    command = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "8731"]
    instance = await client.instances.create("actor", services={"web": {"argv": command, "port": 8731}})
    response = await instance.services.request("web", "GET", "/no-such-file?x=1")
    assert (response.status_code, "landfast-error" in response.headers) == (404, False)
    (web,) = await instance.services.list()
    assert (web.name, web.state) == ("web", "up")
    assert b"no-such-file?x=1" in await instance.services.output("web")
    await instance.services.restart("web")
    assert (await instance.services.url("web")).endswith(f"/i/{instance.id}/web/")
    with pytest.raises(landfast.ServiceUnknown):
        await instance.services.restart("db")
    await instance.delete()


async def test_a_copy_of_a_client_knows_the_same_routes(client: AsyncLandfast) -> None:
    instance = await client.instances.create()
    async with client.copy(retries=0) as copy:
        assert copy.routes is client.routes and instance.id in copy.routes
        assert (await (await copy.instances.get(instance.id)).processes.run(["true"])).ok
    await instance.delete()
    assert instance.id not in client.routes


async def test_a_cell_that_is_not_there_is_unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("landfast._retry.FIRST_SECONDS", 0.01)
    async with AsyncLandfast("http://127.0.0.1:9", "key") as client:
        with pytest.raises(landfast.Unreachable) as caught:
            await client.instances.get("ins_1")
    assert (caught.value.code, caught.value.retryable, caught.value.request_id) == ("unreachable", True, None)
