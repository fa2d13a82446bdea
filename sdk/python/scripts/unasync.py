"""Makes the client of threads out of the client of tasks, line for line; `--check` says when they differ.

    python scripts/unasync.py [--check]

Words are replaced and nothing else, so a line number of one is a line number of the other. What waits differently is in
`_io.py`, which is written by hand on both sides.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

PYTHON = Path(__file__).parent.parent
PAIRS = [
    (PYTHON / "src/landfast/_async", PYTHON / "src/landfast/_sync", {"__init__.py", "_io.py"}),
    (PYTHON / "tests/tasks", PYTHON / "tests/threads", {"__init__.py", "_tools.py"}),
]

WORDS = {
    "AsyncHTTPTransport": "HTTPTransport",
    "AsyncBaseTransport": "BaseTransport",
    "AsyncByteStream": "SyncByteStream",
    "AsyncClient": "Client",
    "AsyncIterator": "Iterator",
    "StopAsyncIteration": "StopIteration",
    "__aenter__": "__enter__",
    "__aexit__": "__exit__",
    "__aiter__": "__iter__",
    "__anext__": "__next__",
    "aclose": "close",
    "aiter_bytes": "iter_bytes",
    "anext": "next",
    "aread": "read",
    "asynccontextmanager": "contextmanager",
    "handle_async_request": "handle_request",
    "tasks": "threads",
}


def threads_of(text: str) -> str:
    """The same for threads."""
    text = re.sub(r"\basync (def|for|with)\b", r"\1", text)
    text = re.sub(r"\bawait ", "", text)
    text = re.sub(r"\b[A-Za-z_]+\b", lambda word: WORDS.get(word[0], word[0]), text)
    return re.sub(r"\bAsync(?=[A-Z])", "", text)


def main() -> int:
    is_check = "--check" in sys.argv[1:]
    stale = []
    for tasks, threads, by_hand in PAIRS:
        wanted = {path.name: threads_of(path.read_text()) for path in tasks.glob("*.py") if path.name not in by_hand}
        present = {path.name: path.read_text() for path in threads.glob("*.py") if path.name not in by_hand}
        for name in sorted(wanted.keys() | present.keys()):
            if wanted.get(name) == present.get(name):
                continue
            stale.append(str(threads / name))
            if is_check:
                continue
            if name in wanted:
                threads.mkdir(exist_ok=True)
                (threads / name).write_text(wanted[name])
            else:
                (threads / name).unlink()
    if not is_check or not stale:
        return 0
    print(f"not what the other side says: {', '.join(stale)}; `python scripts/unasync.py` writes them anew")
    return 1


if __name__ == "__main__":
    sys.exit(main())
