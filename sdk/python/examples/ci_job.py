"""A CI job: runs a command in a fresh instance, shows what it says as it says it, and exits as it does.

    python ci_job.py 'make test'

The command goes on while the network, a gateway or a node does not; if output was lost all the same, the log says so.
"""

from __future__ import annotations

import sys

from landfast import Exited, Gap, Landfast, Output


def main(command: str) -> int:
    with Landfast() as client:
        instance = client.instances.create(labels={"purpose": "ci"})
        try:
            # Held back like a pipe until this has read it, so that no line of a log is lost; killed after an hour.
            process = instance.processes.start(command, stdin="closed", timeout=3600, lossless=True)
            with process.attach() as attachment:
                for event in attachment:
                    if isinstance(event, Output):
                        stream = sys.stdout if event.stream == "stdout" else sys.stderr
                        stream.buffer.write(event.data)
                        stream.flush()
                    elif isinstance(event, Gap):
                        print(f"[{event.end - event.start} bytes of output are lost]", file=sys.stderr)
                    elif isinstance(event, Exited):
                        return event.status
        finally:
            instance.delete()
    return 1


if __name__ == "__main__":
    sys.exit(main(" ".join(sys.argv[1:]) or "echo hello"))
