"""The files of a browser, by the genuine client."""

from __future__ import annotations

import io
from typing import Any

import kernel
import pytest
from conftest import IS_NEWEST
from kernel import Kernel


def test_a_file_is_written_read_listed_changed_moved_and_deleted(client: Kernel, browser: Any) -> None:
    fs, session = client.browsers.fs, browser.session_id
    content = bytes(range(256)) * 4096
    fs.write_file(session, contents=content, path="/tmp/files/deep/a b+c.bin", mode="0640")
    assert fs.read_file(session, path="/tmp/files/deep/a b+c.bin").read() == content
    info = fs.file_info(session, path="/tmp/files/deep/a b+c.bin")
    assert (info.name, info.size_bytes, info.mode, info.is_dir) == ("a b+c.bin", len(content), "-rw-r-----", False)
    fs.create_directory(session, path="/tmp/files/empty")
    fs.set_file_permissions(session, path="/tmp/files/deep/a b+c.bin", mode="600")
    listed = {found.name: found for found in fs.list_files(session, path="/tmp/files")}
    assert set(listed) == {"deep", "empty"} and listed["deep"].is_dir and listed["deep"].mode.startswith("d")
    fs.move(session, src_path="/tmp/files/deep/a b+c.bin", dest_path="/tmp/files/moved")
    assert fs.file_info(session, path="/tmp/files/moved").mode == "-rw-------"
    fs.delete_file(session, path="/tmp/files/moved")
    fs.delete_directory(session, path="/tmp/files")
    with pytest.raises(kernel.NotFoundError) as absent:
        fs.file_info(session, path="/tmp/files")
    assert absent.value.body["code"] == "file.not_found"


def test_files_are_uploaded_together(client: Kernel, browser: Any) -> None:
    fs, session = client.browsers.fs, browser.session_id
    large = b"0123456789" * 300_000
    files = [
        {"dest_path": "/tmp/up/one", "file": ("one", io.BytesIO(b"first"))},
        {"dest_path": "/tmp/up/two", "file": ("two", io.BytesIO(large))},
    ]
    fs.upload(session, files=files)
    assert fs.read_file(session, path="/tmp/up/one").read() == b"first"
    assert fs.read_file(session, path="/tmp/up/two").read() == large


def test_changes_are_told(client: Kernel, browser: Any) -> None:
    fs, session = client.browsers.fs, browser.session_id
    fs.create_directory(session, path="/tmp/watched")
    watch = fs.watch.start(session, path="/tmp/watched", recursive=True)
    assert watch.watch_id
    client.browsers.process.exec(session, command="cd /tmp/watched; echo x > a; mv a b; rm b")
    at = {"id_or_name": session} if IS_NEWEST else {"id": session}
    told = fs.watch.events(watch.watch_id, **at)
    seen = []
    for change in told:
        seen.append((change.type, change.name))
        if change.type == "DELETE":
            break
    assert seen == [("CREATE", "a"), ("WRITE", "a"), ("RENAME", "a"), ("CREATE", "b"), ("DELETE", "b")]
    fs.watch.stop(watch.watch_id, **at)
    assert list(told) == [], "its readers hear that it is over"
    with pytest.raises(kernel.NotFoundError):
        list(fs.watch.events(watch.watch_id, **at))
