"""What every test may use."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.cell import Cell


@pytest.fixture
def anyio_backend() -> str:
    """Tasks are asyncio's."""
    return "asyncio"


@pytest.fixture(scope="session")
def cell() -> Iterator[Cell]:
    """One cell for all tests that need a real one."""
    cell = Cell()
    yield cell
    cell.close()
