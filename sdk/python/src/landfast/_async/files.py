"""The files of an instance."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
import time
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from typing import Any
from urllib.parse import quote

from .. import _trees
from .._content import RESTARTS, Content
from .._endings import may_pass
from .._failure import LandfastError, ProtocolFailure
from .._records import FileChange, FileInfo, Unpacked, items_of
from .._retry import pause_before
from .._sse import Decoder
from ._io import run, sleep
from .attachment import PATIENCE_SECONDS
from .caller import AsyncCaller, json_of
from .events import SILENCE_SECONDS

MOVING_SECONDS = 120.0
"""How long nothing of a content or a tree may move before it counts as cut."""

Path = str | bytes | os.PathLike[str] | os.PathLike[bytes]
"""A path: in an instance absolute, or from its home."""


class AsyncFiles:
    """The files of one instance, with the rights of its user.

    All raise `FileNotFound`, `FileDenied` and what else their descriptions name.
    """

    def __init__(self, caller: AsyncCaller, instance: str) -> None:
        self._caller = caller
        self._path = f"/instances/{instance}/files"

    async def stat(self, path: Path, *, follow: bool = True) -> FileInfo:
        """Looks at a file, or without `follow` at a link itself. Safe to repeat."""
        return FileInfo.read(await self._caller.json("GET", self._url("stat", path, follow=follow), direct=True))

    async def list(self, path: Path = ".") -> AsyncGenerator[FileInfo]:
        """Goes through a directory in the order of its names' bytes, over all pages; links are not followed.

        Raises `FileNotADirectory`.
        """
        cursor: str | None = None
        while True:
            page = await self._caller.json("GET", self._url("list", path, cursor=cursor), direct=True)
            for item in items_of(page, "items"):
                yield FileInfo.read(item)
            cursor = page.get("next_cursor")
            if cursor is None:
                return

    async def read(
        self, path: Path, *, start: int = 0, end: int | None = None, patience: float = PATIENCE_SECONDS
    ) -> bytes:
        """Reads a file, or its bytes from `start` to before `end`, at once. Safe to repeat.

        Where it is cut it goes on, for `patience` seconds; one that was replaced meanwhile is begun anew. Raises
        `FileNotAFile`, and `FileRange` if it ends before `start`.
        """
        content = bytearray()
        async for at, piece in self._content(path, Content(start, end, RESTARTS), patience):
            del content[at - start :]
            content += piece
        return bytes(content)

    async def chunks(
        self, path: Path, *, start: int = 0, end: int | None = None, patience: float = PATIENCE_SECONDS
    ) -> AsyncGenerator[bytes]:
        """Reads a file of any size, as `read` does, in pieces.

        One that was replaced meanwhile raises `FileChanged`; one that changes all the time, and so cannot be gone on
        with, raises `Broken` where it is cut.
        """
        async for _, piece in self._content(path, Content(start, end, 0), patience):
            yield piece

    async def _content(self, path: Path, content: Content, patience: float) -> AsyncGenerator[tuple[int, bytes]]:
        """Pieces, each with its offset; one that goes back says that all from there on is void."""
        told, attempt, deadline = content.at, 0, 0.0
        while True:
            try:
                url, headers = self._url("content", path), content.headers()
                async with self._caller.stream(url, headers=headers, silence=MOVING_SECONDS) as response:
                    is_wanted = content.begin(response.status_code, response.headers)
                    if content.at < told:
                        told = content.at
                        yield told, b""
                    if is_wanted:
                        async for piece in response.aiter_bytes():
                            yield told, piece
                            told, attempt, deadline = content.take(len(piece)), 0, 0.0
                        return
            except LandfastError as failure:
                deadline = deadline or time.monotonic() + patience
                if not may_pass(failure) or time.monotonic() >= deadline:
                    raise
                content.lose(failure)
                if attempt > 0:
                    await sleep(pause_before(attempt - 1))
                attempt += 1

    async def write(
        self,
        path: Path,
        data: bytes | str | AsyncIterable[bytes],
        *,
        mode: int | None = None,
        parents: bool = False,
        overwrite: bool = True,
        etag: str | None = None,
    ) -> FileInfo:
        """Writes a file, whole or not at all, from bytes, from text as UTF-8, or from a stream of bytes.

        `mode` is as for `chmod`, `parents` makes missing directories, and with `etag` the present file must be that.
        Safe to repeat; a stream is sent once. Raises `FileExists`, `FileChanged`, `FileNotAFile`, and `FileNoSpace`,
        after which the old file is still there.
        """
        headers = ({} if overwrite else {"If-None-Match": "*"}) | ({} if etag is None else {"If-Match": etag})
        content = data.encode() if isinstance(data, str) else data
        url = self._url("content", path, mode=_octal(mode), parents=parents)
        answer = await self._caller.call(
            "PUT", url, content=content, headers=headers, direct=True, seconds=MOVING_SECONDS
        )
        return FileInfo.read(json_of(answer))

    async def mkdir(self, path: Path, *, parents: bool = False, mode: int | None = None) -> FileInfo:
        """Makes a directory, which may be there already. Safe to repeat. Raises `FileExists` if something else is."""
        url = self._url("directory", path, parents=parents, mode=_octal(mode))
        return FileInfo.read(await self._caller.json("PUT", url, direct=True))

    async def move(self, path: Path, to: Path, *, overwrite: bool = False) -> FileInfo:
        """Gives a file or directory another name. After `Broken` it may be moved.

        Raises `FileExists`, and `FileOtherDevice` for a directory that would go to another file system.
        """
        url = f"{self._url('move', path, overwrite=overwrite)}&to={_quoted(to)}"
        return FileInfo.read(await self._caller.json("POST", url, direct=True))

    async def chmod(self, path: Path, mode: int) -> FileInfo:
        """Says who may do what with it. Safe to repeat."""
        return FileInfo.read(await self._caller.json("PUT", self._url("mode", path, mode=_octal(mode)), direct=True))

    async def remove(self, path: Path, *, recursive: bool = False) -> None:
        """Removes a file or a link, and with `recursive` a directory with all it holds; no link is followed.

        Raises `FileNotAFile` for a directory. Safe to repeat: then it raises `FileNotFound`.
        """
        await self._caller.call("DELETE", self._url("tree" if recursive else "content", path), direct=True)

    async def upload(self, local: Path, path: Path, *, parents: bool = False) -> Unpacked:
        """Copies a file of this machine to that path, or what is in a folder of this machine into that directory.

        Modes and links are kept, owners are not; sockets, pipes and devices are left out. The directory is made if it
        is not there, and with `parents` those above it. Raises `OSError` for what is here, `FileExists` where a
        directory and a file meet; then what came before is there.
        """
        source = os.fsdecode(local)
        mode = await run(_trees.mode_of_file, source)
        if mode is not None:
            info = await self.write(path, _pieces(_trees.read(source)), mode=mode, parents=parents)
            return Unpacked(1, 0, 0, info.size)
        await self.mkdir(path, parents=parents)
        answer = await self._caller.call(
            "PUT",
            self._url("tree", path, links="any"),
            content=_pieces(_trees.pack(source)),
            direct=True,
            seconds=MOVING_SECONDS,
        )
        return Unpacked.read(json_of(answer))

    async def download(self, path: Path, local: Path, *, patience: float = PATIENCE_SECONDS) -> Unpacked:
        """Copies a file to that path of this machine, or what is in a directory into that folder of this machine.

        The folder is made if it is not there. Nothing lands outside it: raises `FileEscape` for a link that leads out,
        and `OSError` for what is here; then what came before is there. A file is put in place whole: where it is cut
        it goes on, as with `read`. A directory that is cut raises `Broken`.
        """
        target = os.fsdecode(local)
        info = await self.stat(path)
        folder = target if info.kind == "directory" else os.path.dirname(target) or "."
        if info.kind == "directory":
            os.makedirs(folder, exist_ok=True)
        # Beside the target, so that it can be put in place in one step, and not in a small temporary folder.
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".landfast-", delete=False) as kept:
            try:
                if info.kind == "directory":
                    return await self._download_tree(path, kept, target)
                async for at, piece in self._content(path, Content(0, None, RESTARTS), patience):
                    if at < kept.tell():
                        await run(kept.seek, at)
                        await run(kept.truncate)
                    await run(kept.write, piece)
                kept.flush()
                os.chmod(kept.name, info.mode & 0o777)
                os.replace(kept.name, target)
                return Unpacked(1, 0, 0, kept.tell())
            finally:
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(kept.name)

    async def _download_tree(self, path: Path, kept: Any, target: str) -> Unpacked:
        opened = self._caller.stream(self._url("tree", path), headers={}, silence=MOVING_SECONDS)
        async with opened as response:
            async for piece in response.aiter_bytes():
                await run(kept.write, piece)
        kept.seek(0)
        return await run(_trees.unpack, kept, target)

    async def watch(
        self, path: Path = ".", *, recursive: bool = False, patience: float = PATIENCE_SECONDS
    ) -> AsyncGenerator[FileChange]:
        """Goes through what happens to a file, in a directory, or with `recursive` to all below it.

        Ends when that is gone. A `FileChange` of type `gap` says that some was missed, as each disconnect does: look
        again. Raises `LimitWatches`, how the instance ended, or what kept it from being reached for `patience`
        seconds.
        """
        has_begun, attempt, deadline = False, 0, time.monotonic() + patience
        while True:
            try:
                opened = self._caller.stream(
                    self._url("watch", path, recursive=recursive),
                    headers={"Accept": "text/event-stream"},
                    silence=SILENCE_SECONDS,
                )
                async with opened as response:
                    if has_begun:
                        yield FileChange("gap")
                    has_begun, attempt, deadline, decoder = True, 0, 0.0, Decoder()
                    async for part in response.aiter_bytes():
                        for frame in decoder.feed(part):
                            if frame.data is not None:
                                yield _change(frame.data)
                return
            except LandfastError as failure:
                deadline = deadline or time.monotonic() + patience
                if not may_pass(failure) or time.monotonic() >= deadline:
                    raise
            await sleep(pause_before(attempt))
            attempt += 1

    def _url(self, verb: str, path: Path, **said: object) -> str:
        more = {name: _text(value) for name, value in said.items() if value is not None}
        return f"{self._path}/{verb}?path={_quoted(path)}" + "".join(f"&{name}={more[name]}" for name in more)


async def _pieces(pieces: Iterator[bytes]) -> AsyncGenerator[bytes]:
    """What is read of this machine's disk."""
    while True:
        piece = await run(next, pieces, b"")
        if not piece:
            return
        yield piece


def _quoted(path: Path) -> str:
    return quote(os.fsencode(path), safe="/")


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _octal(mode: int | None) -> str | None:
    return None if mode is None else f"{mode:o}"


def _change(data: str) -> FileChange:
    try:
        return FileChange.read(json.loads(data))
    except ValueError as error:
        raise ProtocolFailure(f"A change that is no JSON: {error}.") from error
