"""Pools: browsers that run already."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import kernel
import pytest
from conftest import IS_NEWEST, eventually
from kernel import Kernel
from support.cell import Cell


@pytest.fixture
def pool(client: Kernel) -> Iterator[Any]:
    pool = client.browser_pools.create(size=1, name=f"pool-{os.getpid()}", timeout_seconds=600)
    yield pool
    client.browser_pools.delete(pool.id, force=True)


def test_a_pool_lends_what_it_has_and_says_when_it_has_nothing(client: Kernel, pool: Any) -> None:
    first = client.browser_pools.acquire(pool.name, acquire_timeout_seconds=40, tags={"for": "me"})
    assert first and first.pool and first.pool.id == pool.id and first.tags == {"for": "me"}
    assert client.browsers.process.exec(first.session_id, command="true").exit_code == 0
    assert client.browser_pools.retrieve(pool.id).acquired_count == 1
    # The older client cannot say what it was told: strict as it is here, it takes the missing body for a wrong one.
    nothing = client.browser_pools.with_raw_response.acquire(pool.id, acquire_timeout_seconds=1)
    assert nothing.status_code == 204
    if IS_NEWEST:
        assert nothing.parse() is None
    assert first.session_id in [found.session_id for found in client.browsers.list(limit=100)]
    client.browser_pools.release(pool.id, session_id=first.session_id)
    assert first.session_id not in [found.session_id for found in client.browsers.list(limit=100)]
    again = client.browser_pools.acquire(pool.id, acquire_timeout_seconds=40)
    assert again and again.session_id == first.session_id and not again.tags
    client.browser_pools.release(pool.id, session_id=again.session_id, reuse=False)
    fresh = client.browser_pools.acquire(pool.id, acquire_timeout_seconds=40)
    assert fresh and fresh.session_id != first.session_id
    client.browsers.delete_by_id(fresh.session_id)
    eventually("it is replaced", lambda: client.browser_pools.retrieve(pool.id).available_count == 1)


def test_a_pool_outlives_the_control_plane_and_is_never_too_large(cell: Cell, client: Kernel, pool: Any) -> None:
    lent = client.browser_pools.acquire(pool.id, acquire_timeout_seconds=40)
    assert lent
    cell.api.kill()
    cell.api.start()
    after = eventually("it answers", lambda: client.browser_pools.retrieve(pool.id))
    assert (after.acquired_count, after.available_count, after.browser_pool_config.size) == (1, 0, 1)
    client.browser_pools.update(pool.id, size=2)
    eventually("it grows", lambda: client.browser_pools.retrieve(pool.id).available_count == 1)
    client.browser_pools.update(pool.id, size=1)
    eventually("it shrinks", lambda: client.browser_pools.retrieve(pool.id).available_count == 0)
    assert client.browsers.process.exec(lent.session_id, command="true").exit_code == 0, "nobody's browser was taken"
    with pytest.raises(kernel.ConflictError):
        client.browser_pools.delete(pool.id)
    client.browser_pools.release(pool.id, session_id=lent.session_id)
    client.browser_pools.flush(pool.id)
    other = client.browser_pools.acquire(pool.id, acquire_timeout_seconds=40)
    assert other and other.session_id != lent.session_id
    assert pool.id in [found.id for found in client.browser_pools.list(limit=100)]
