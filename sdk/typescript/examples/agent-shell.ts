/**
 * A coding agent's shell: one long-lived shell in an instance, one command after another, each with output and status.
 *
 *     node agent-shell.js 'cd /tmp' 'pwd'
 *
 * The shell keeps its directory and variables between commands. It is still there when the agent's own process is started
 * anew: attach to the same process id.
 */

import { randomUUID } from "node:crypto";
import { type Attachment, Landfast } from "landfast";

/** A shell that is asked one thing after another. */
class Shell {
  readonly #attachment: Attachment;

  constructor(attachment: Attachment) {
    this.#attachment = attachment;
  }

  /** Runs a command and returns its status and what it said. Throws if the shell is gone. */
  async ask(command: string): Promise<{ status: number; text: string }> {
    const mark = randomUUID();
    await this.#attachment.send(`${command} </dev/null 2>&1; echo ${mark} $?\n`);
    const decoder = new TextDecoder();
    let said = "";
    for await (const event of this.#attachment) {
      // Whether it ran is not known, and it is not ours to run it twice: the agent has to look.
      if (event.type === "inputUnsure") throw new Error(`the connection was cut while this was sent: ${command}`);
      if (event.type === "output") said += decoder.decode(event.data, { stream: true });
      const [text = "", status] = said.split(mark);
      if (status?.endsWith("\n")) return { status: Number(status), text };
    }
    throw new Error("the shell has exited");
  }
}

async function main(commands: string[]): Promise<void> {
  const client = new Landfast();
  const instance = await client.instances.create({ labels: { purpose: "agent" }, spec: { idle_timeout: 900 } });
  try {
    const process = await instance.processes.start(["sh"]);
    await using attachment = await process.attach();
    const shell = new Shell(attachment);
    for (const command of commands) {
      const { status, text } = await shell.ask(command);
      console.log(`$ ${command}\n${text}[${status}]`);
    }
  } finally {
    await instance.delete();
  }
}

const commands = process.argv.slice(2);
await main(commands.length > 0 ? commands : ["uname -a"]);
