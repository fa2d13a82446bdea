"""A coding agent's shell: one long-lived shell in an instance, one command after another, each with output and status.

    python agent_shell.py 'cd /tmp' 'pwd'

The shell keeps its directory and variables between commands. It is still there when the agent's own process is started
anew: attach to the same process id.
"""

from __future__ import annotations

import asyncio
import sys
import uuid

from landfast import AsyncAttachment, AsyncLandfast, InputUnsure, LandfastError, Output


class Shell:
    """A shell that is asked one thing after another."""

    def __init__(self, attachment: AsyncAttachment) -> None:
        self._attachment = attachment

    async def ask(self, command: str) -> tuple[int, str]:
        """Runs a command and returns its status and what it said. Raises `LandfastError` if the shell is gone."""
        mark = uuid.uuid4().hex
        await self._attachment.send(f"{command} </dev/null 2>&1; echo {mark} $?\n".encode())
        said = b""
        async for event in self._attachment:
            if isinstance(event, Output):
                said += event.data
            if isinstance(event, InputUnsure):
                # Whether it ran is not known, and it is not ours to run it twice: the agent has to look.
                raise LandfastError(f"the connection was cut while this was sent: {command}")
            text, found, rest = said.partition(mark.encode())
            if found and rest.endswith(b"\n"):
                return int(rest), text.decode(errors="replace")
        raise LandfastError("the shell has exited")


async def main(commands: list[str]) -> None:
    async with AsyncLandfast() as client:
        instance = await client.instances.create(labels={"purpose": "agent"}, idle_timeout=900)
        try:
            process = await instance.processes.start(["sh"])
            async with process.attach() as attachment:
                shell = Shell(attachment)
                for command in commands:
                    status, text = await shell.ask(command)
                    print(f"$ {command}\n{text}[{status}]")
        finally:
            await instance.delete()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1:] or ["uname -a"]))
