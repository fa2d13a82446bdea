"""Files of an instance of a real cell."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.cell import Cell

import landfast
from landfast import Instance, Landfast, FileChange

pytestmark = pytest.mark.anyio

PIECE = bytes(range(256)) * 1024


@pytest.fixture
def instance(cell: Cell) -> Iterator[Instance]:
    with Landfast(cell.url, cell.api_key) as client:
        instance = client.instances.create()
        yield instance
        instance.delete()


def test_a_file_is_written_read_looked_at_and_removed(instance: Instance) -> None:
    files = instance.files
    info = files.write("a/b.txt", "hello", parents=True, mode=0o640)
    assert (info.name, info.size, info.mode, info.kind) == ("b.txt", 5, 0o640, "file")
    assert info.path.endswith("/a/b.txt")
    assert files.read(info.path) == b"hello"
    assert files.read("a/b.txt", start=1, end=3) == b"el"
    assert files.stat("a/b.txt") == info
    with pytest.raises(landfast.FileExists):
        files.write("a/b.txt", b"other", overwrite=False)
    second = files.write("a/b.txt", b"second", etag=info.etag)
    with pytest.raises(landfast.FileChanged):
        files.write("a/b.txt", b"third", etag=info.etag)
    assert (files.read("a/b.txt"), second.mode) == (b"second", 0o640)
    assert (files.chmod("a/b.txt", 0o600)).mode == 0o600
    files.remove("a/b.txt")
    with pytest.raises(landfast.FileNotFound) as caught:
        files.read("a/b.txt")
    assert (caught.value.code, caught.value.status) == ("file.not_found", 404)
    with pytest.raises(landfast.FileRange):
        files.write("short", b"12")
        files.read("short", start=5)


def test_directories_are_made_listed_moved_and_removed(instance: Instance) -> None:
    files = instance.files
    with pytest.raises(landfast.FileNotFound):
        files.mkdir("d/e")
    assert (files.mkdir("d/e", parents=True, mode=0o700)).kind == "directory"
    odd = os.fsdecode(b"odd \xff+&%")
    for name in ("b", "a", odd):
        files.write(f"d/e/{name}", name.encode(errors="surrogateescape"))
    assert [info.name for info in files.list("d/e")] == ["a", "b", odd]
    assert files.read(f"d/e/{odd}") == b"odd \xff+&%"
    with pytest.raises(landfast.FileExists):
        files.move("d/e/a", "d/e/b")
    assert (files.move("d/e/a", "d/e/b", overwrite=True)).size == 1
    assert files.read("d/e/b") == b"a"
    with pytest.raises(landfast.FileNotAFile):
        files.remove("d")
    files.remove("d", recursive=True)
    assert [info.name for info in files.list()] == []


def test_a_file_of_any_size_goes_up_and_down_in_pieces(instance: Instance) -> None:
    def pieces() -> Iterator[bytes]:
        for _ in range(80):
            yield PIECE

    info = instance.files.write("large", pieces())
    assert info.size == 80 * len(PIECE)
    read, wanted = hashlib.sha256(), hashlib.sha256(PIECE * 80)
    for piece in instance.files.chunks("large"):
        assert len(piece) < 4_000_000
        read.update(piece)
    assert read.digest() == wanted.digest()


LARGE = "head -c 40000000 /dev/urandom > large; sleep 0.2; sha256sum large"
"""Makes a file. Once the clock of changes has moved on, its name is that of this version alone."""


def test_a_file_goes_on_where_its_gateway_was_killed(cell: Cell, instance: Instance) -> None:
    said = (instance.processes.run(LARGE)).text
    read, size, kills = hashlib.sha256(), 0, 0
    for piece in instance.files.chunks("large"):
        read.update(piece)
        size += len(piece)
        if size > 1_000_000 * kills**2 and kills < 3:
            kills += 1
            cell.gateway.is_away(0).join()
    assert (size, read.hexdigest()) == (40_000_000, said[:64])


def test_a_download_is_of_one_version(cell: Cell, instance: Instance, tmp_path: Path) -> None:
    instance.processes.run(LARGE)
    chunks = instance.files.chunks("large")
    chunks.__next__()
    cell.gateway.is_away(0).join()
    instance.processes.run("echo other > large")
    with pytest.raises(landfast.FileChanged):
        for _ in chunks:
            pass
    got = instance.files.download("large", tmp_path / "large")
    assert (got.bytes, (tmp_path / "large").read_bytes()) == (6, b"other\n")


def test_a_tree_goes_up_and_comes_down(instance: Instance, tmp_path: Path) -> None:
    source = tmp_path / "source"
    (source / "sub" / "empty").mkdir(parents=True)
    (source / "sub" / "script").write_text("#!/bin/sh\necho ran\n")
    (source / "sub" / "script").chmod(0o755)
    (source / ("long-" * 30)).write_bytes(PIECE * 3)
    (source / "link").symlink_to("sub/script")
    (source / "same").hardlink_to(source / "sub" / "script")
    os.mkfifo(source / "pipe")
    put = instance.files.upload(source, "tree")
    assert (put.files, put.directories, put.links) == (3, 2, 1)
    assert (instance.processes.run("tree/link")).stdout == b"ran\n"
    got = instance.files.download("tree", tmp_path / "back")
    assert got.files == put.files
    back = tmp_path / "back"
    assert sorted(path.name for path in back.iterdir()) == sorted(["sub", "long-" * 30, "link", "same"])
    assert os.readlink(back / "link") == "sub/script"
    assert (back / "sub" / "script").stat().st_mode & 0o777 == 0o755
    assert (back / ("long-" * 30)).read_bytes() == PIECE * 3
    assert (back / "sub" / "empty").is_dir()
    instance.files.upload(source / "same", "one")
    assert (instance.files.download("one", tmp_path / "one")).bytes == 19
    assert (tmp_path / "one").stat().st_mode & 0o777 == 0o755


def test_nothing_that_comes_down_leads_out(instance: Instance, tmp_path: Path) -> None:
    instance.processes.run("mkdir out; ln -s /etc out/way")
    with pytest.raises(landfast.FileEscape):
        instance.files.download("out", tmp_path / "back")
    assert list((tmp_path / "back").iterdir()) == []
    with pytest.raises(FileNotFoundError):
        instance.files.upload(tmp_path / "nothing", "x")


def test_a_watch_tells_what_happens_and_that_it_missed_some(cell: Cell, instance: Instance) -> None:
    instance.files.write("top/first", b"", parents=True)
    changes = instance.files.watch("top", recursive=True)
    told: list[FileChange] = []

    def until(kind: str, name: str) -> FileChange:
        while True:
            change = changes.__next__()
            told.append(change)
            if change.type == kind and change.path.endswith(name):
                return change

    # A watch begins with its first step, which waits for a change: somebody makes one until it is seen.
    instance.processes.start("while [ ! -e stop ]; do touch top/tick; sleep 0.1; done")
    until("attributes", "/tick")
    instance.files.write("top/whole", b"at once")
    until("written", "/whole")
    assert not any(".landfast-" in change.path for change in told)
    instance.files.move("top/whole", "top/other")
    assert (until("moved", "/other")).source is not None
    cell.gateway.kill()
    cell.gateway.start()
    until("gap", "")
    until("attributes", "/tick")
    instance.files.write("stop", b"")
    instance.files.remove("top", recursive=True)
    assert [change for change in changes][-1].type == "removed"
