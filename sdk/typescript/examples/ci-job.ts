/**
 * A CI job: runs a command in a fresh instance, shows what it says as it says it, and exits as it does.
 *
 *     node ci-job.js 'make test'
 *
 * The command goes on while the network, a gateway or a node does not; if output was lost all the same, the log says so.
 */

import { Landfast } from "landfast";

async function main(command: string): Promise<number> {
  const client = new Landfast();
  const instance = await client.instances.create({ labels: { purpose: "ci" } });
  try {
    // Held back like a pipe until this has read it, so that no line of a log is lost; killed after an hour.
    const process = await instance.processes.start(command, { stdin: "closed", timeout: 3600, lossless: true });
    await using attachment = await process.attach();
    for await (const event of attachment) {
      if (event.type === "output") globalThis.process[event.stream].write(event.data);
      if (event.type === "gap") console.error(`[${event.end - event.start} bytes of output are lost]`);
    }
    return attachment.exit?.status ?? 1;
  } finally {
    await instance.delete();
  }
}

process.exitCode = await main(process.argv.slice(2).join(" ") || "echo hello");
