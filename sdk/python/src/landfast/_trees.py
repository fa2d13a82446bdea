"""Trees of this machine as tar streams: packed piece by piece, and unpacked where nothing in them leads out."""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Iterator
from typing import IO

from . import errors
from ._failure import Misused
from ._records import Unpacked

PIECE = 256 * 1024
"""Bytes of a file that are read at once."""


def mode_of_file(path: str) -> int | None:
    """Who may do what with a file; None for a directory. Raises `OSError`."""
    return None if os.path.isdir(path) else os.stat(path).st_mode & 0o7777


def pack(root: str) -> Iterator[bytes]:
    """A tree as a tar stream: links as links, no owners; sockets, pipes and devices are left out. Raises `OSError`."""
    with tarfile.open(fileobj=io.BytesIO(), mode="w") as describer:
        yield from _entry(describer, root, ".")
        for folder, folders, files in os.walk(root, onerror=_raise):
            folders.sort()
            for name in sorted([*folders, *files]):
                path = os.path.join(folder, name)
                yield from _entry(describer, path, os.path.relpath(path, root))
    yield bytes(2 * tarfile.BLOCKSIZE)


def read(path: str) -> Iterator[bytes]:
    """A file in pieces. Raises `OSError`."""
    with open(path, "rb") as file:
        while piece := file.read(PIECE):
            yield piece


def unpack(archive: IO[bytes], target: str) -> Unpacked:
    """Unpacks a tar archive below a folder. Raises `FileEscape` for what would lead out, and `OSError`."""
    if not hasattr(tarfile, "data_filter"):
        raise Misused("This Python unpacks archives without looking where they lead; update it.")
    members: list[tarfile.TarInfo] = []

    def keep(member: tarfile.TarInfo, path: str) -> tarfile.TarInfo:
        checked = tarfile.data_filter(member, path)
        if member.isfile():
            checked = checked.replace(mode=member.mode & 0o777, deep=False)
        members.append(member)
        return checked

    try:
        with tarfile.open(fileobj=archive, mode="r:") as opened:
            opened.extractall(target, filter=keep)
    except tarfile.FilterError as refused:
        raise errors.TABLE["file.escape"](str(refused)) from refused
    except tarfile.TarError as broken:
        raise errors.TABLE["file.archive"](str(broken)) from broken
    files = [member for member in members if member.isfile()]
    folders = [member for member in members if member.isdir() and member.name not in (".", "")]
    links = [member for member in members if member.issym()]
    return Unpacked(len(files), len(folders), len(links), sum(member.size for member in files))


def _entry(describer: tarfile.TarFile, path: str, name: str) -> Iterator[bytes]:
    # A second name of a file is packed as a file of its own.
    describer.inodes = {}  # type: ignore[attr-defined]
    is_link = os.path.islink(path) and name != "."
    with open(path, "rb") if os.path.isfile(path) and not is_link else io.BytesIO() as file:
        member = describer.gettarinfo(os.path.realpath(path) if name == "." else path, name)
        if member is None or not (member.isfile() or member.isdir() or member.issym()):
            return
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        yield member.tobuf(tarfile.GNU_FORMAT, "utf-8", "surrogateescape")
        left = member.size if member.isfile() else 0
        while left:
            piece = file.read(min(left, PIECE))
            if not piece:
                raise OSError(f"{path} became shorter while it was read")
            left -= len(piece)
            yield piece
        if member.isfile() and member.size % tarfile.BLOCKSIZE:
            yield bytes(tarfile.BLOCKSIZE - member.size % tarfile.BLOCKSIZE)


def _raise(error: OSError) -> None:
    raise error
