"""Files of an instance of a real cell."""

from __future__ import annotations

import hashlib
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.cell import Cell

import landfast
from landfast import AsyncInstance, AsyncLandfast, FileChange

pytestmark = pytest.mark.anyio

PIECE = bytes(range(256)) * 1024


@pytest.fixture
async def instance(cell: Cell) -> AsyncIterator[AsyncInstance]:
    async with AsyncLandfast(cell.url, cell.api_key) as client:
        instance = await client.instances.create()
        yield instance
        await instance.delete()


async def test_a_file_is_written_read_looked_at_and_removed(instance: AsyncInstance) -> None:
    files = instance.files
    info = await files.write("a/b.txt", "hello", parents=True, mode=0o640)
    assert (info.name, info.size, info.mode, info.kind) == ("b.txt", 5, 0o640, "file")
    assert info.path.endswith("/a/b.txt")
    assert await files.read(info.path) == b"hello"
    assert await files.read("a/b.txt", start=1, end=3) == b"el"
    assert await files.stat("a/b.txt") == info
    with pytest.raises(landfast.FileExists):
        await files.write("a/b.txt", b"other", overwrite=False)
    second = await files.write("a/b.txt", b"second", etag=info.etag)
    with pytest.raises(landfast.FileChanged):
        await files.write("a/b.txt", b"third", etag=info.etag)
    assert (await files.read("a/b.txt"), second.mode) == (b"second", 0o640)
    assert (await files.chmod("a/b.txt", 0o600)).mode == 0o600
    await files.remove("a/b.txt")
    with pytest.raises(landfast.FileNotFound) as caught:
        await files.read("a/b.txt")
    assert (caught.value.code, caught.value.status) == ("file.not_found", 404)
    with pytest.raises(landfast.FileRange):
        await files.write("short", b"12")
        await files.read("short", start=5)


async def test_directories_are_made_listed_moved_and_removed(instance: AsyncInstance) -> None:
    files = instance.files
    with pytest.raises(landfast.FileNotFound):
        await files.mkdir("d/e")
    assert (await files.mkdir("d/e", parents=True, mode=0o700)).kind == "directory"
    odd = os.fsdecode(b"odd \xff+&%")
    for name in ("b", "a", odd):
        await files.write(f"d/e/{name}", name.encode(errors="surrogateescape"))
    assert [info.name async for info in files.list("d/e")] == ["a", "b", odd]
    assert await files.read(f"d/e/{odd}") == b"odd \xff+&%"
    with pytest.raises(landfast.FileExists):
        await files.move("d/e/a", "d/e/b")
    assert (await files.move("d/e/a", "d/e/b", overwrite=True)).size == 1
    assert await files.read("d/e/b") == b"a"
    with pytest.raises(landfast.FileNotAFile):
        await files.remove("d")
    await files.remove("d", recursive=True)
    assert [info.name async for info in files.list()] == []


async def test_a_file_of_any_size_goes_up_and_down_in_pieces(instance: AsyncInstance) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(80):
            yield PIECE

    info = await instance.files.write("large", pieces())
    assert info.size == 80 * len(PIECE)
    read, wanted = hashlib.sha256(), hashlib.sha256(PIECE * 80)
    async for piece in instance.files.chunks("large"):
        assert len(piece) < 4_000_000
        read.update(piece)
    assert read.digest() == wanted.digest()


LARGE = "head -c 40000000 /dev/urandom > large; sleep 0.2; sha256sum large"
"""Makes a file. Once the clock of changes has moved on, its name is that of this version alone."""


async def test_a_file_goes_on_where_its_gateway_was_killed(cell: Cell, instance: AsyncInstance) -> None:
    said = (await instance.processes.run(LARGE)).text
    read, size, kills = hashlib.sha256(), 0, 0
    async for piece in instance.files.chunks("large"):
        read.update(piece)
        size += len(piece)
        if size > 1_000_000 * kills**2 and kills < 3:
            kills += 1
            cell.gateway.is_away(0).join()
    assert (size, read.hexdigest()) == (40_000_000, said[:64])


async def test_a_download_is_of_one_version(cell: Cell, instance: AsyncInstance, tmp_path: Path) -> None:
    await instance.processes.run(LARGE)
    chunks = instance.files.chunks("large")
    await chunks.__anext__()
    cell.gateway.is_away(0).join()
    await instance.processes.run("echo other > large")
    with pytest.raises(landfast.FileChanged):
        async for _ in chunks:
            pass
    got = await instance.files.download("large", tmp_path / "large")
    assert (got.bytes, (tmp_path / "large").read_bytes()) == (6, b"other\n")


async def test_a_tree_goes_up_and_comes_down(instance: AsyncInstance, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub" / "empty").mkdir(parents=True)
    (source / "sub" / "script").write_text("#!/bin/sh\necho ran\n")
    (source / "sub" / "script").chmod(0o755)
    (source / ("long-" * 30)).write_bytes(PIECE * 3)
    (source / "link").symlink_to("sub/script")
    (source / "same").hardlink_to(source / "sub" / "script")
    os.mkfifo(source / "pipe")
    put = await instance.files.upload(source, "tree")
    assert (put.files, put.directories, put.links) == (3, 2, 1)
    assert (await instance.processes.run("tree/link")).stdout == b"ran\n"
    got = await instance.files.download("tree", tmp_path / "back")
    assert got.files == put.files
    back = tmp_path / "back"
    assert sorted(path.name for path in back.iterdir()) == sorted(["sub", "long-" * 30, "link", "same"])
    assert os.readlink(back / "link") == "sub/script"
    assert (back / "sub" / "script").stat().st_mode & 0o777 == 0o755
    assert (back / ("long-" * 30)).read_bytes() == PIECE * 3
    assert (back / "sub" / "empty").is_dir()
    await instance.files.upload(source / "same", "one")
    assert (await instance.files.download("one", tmp_path / "one")).bytes == 19
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o755


async def test_nothing_that_comes_down_leads_out(instance: AsyncInstance, tmp_path: Path) -> None:
    await instance.processes.run("mkdir out; ln -s /etc out/way")
    with pytest.raises(landfast.FileEscape):
        await instance.files.download("out", tmp_path / "back")
    assert list((tmp_path / "back").iterdir()) == []
    with pytest.raises(FileNotFoundError):
        await instance.files.upload(tmp_path / "nothing", "x")


async def test_a_watch_tells_what_happens_and_that_it_missed_some(cell: Cell, instance: AsyncInstance) -> None:
    await instance.files.write("top/first", b"", parents=True)
    changes = instance.files.watch("top", recursive=True)
    told: list[FileChange] = []

    async def until(kind: str, name: str) -> FileChange:
        while True:
            change = await changes.__anext__()
            told.append(change)
            if change.type == kind and change.path.endswith(name):
                return change

    # A watch begins with its first step, which waits for a change: somebody makes one until it is seen.
    await instance.processes.start("while [ ! -e stop ]; do touch top/tick; sleep 0.1; done")
    await until("attributes", "/tick")
    await instance.files.write("top/whole", b"at once")
    await until("written", "/whole")
    assert not any(".landfast-" in change.path for change in told)
    await instance.files.move("top/whole", "top/other")
    assert (await until("moved", "/other")).source is not None
    cell.gateway.kill()
    cell.gateway.start()
    await until("gap", "")
    await until("attributes", "/tick")
    await instance.files.write("stop", b"")
    await instance.files.remove("top", recursive=True)
    assert [change async for change in changes][-1].type == "removed"
