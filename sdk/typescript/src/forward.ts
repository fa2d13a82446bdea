/**
 * A port of this machine that leads into an instance, by the `landfast` program.
 *
 * @module
 */

import type { ChildProcess } from "node:child_process";
import type { Abortable } from "./caller.js";
import { Misused, Unreachable } from "./failure.js";
import { variable } from "./settings.js";

/** Milliseconds that the program may take to find the instance and to listen. */
const READY = 30_000;

/** Characters of a program's errors that are passed on. */
const ERRORS_MAX = 4096;

/** How a port is opened. */
export interface ForwardOptions extends Abortable {
  /** Where to listen; at any port of this machine if not said. */
  listen?: string;
  /** The `landfast` program; `LANDFAST_BINARY`, or the one in `PATH`, if not said. */
  binary?: string;
}

/** A port that leads into an instance and outlives gateways, nodes and moves, until it is stopped. */
export class Forward {
  /** What to give to other programs: `host:port`, or for `cdp` a URL. */
  readonly address: string;
  readonly #end: () => Promise<void>;

  constructor(address: string, end: () => Promise<void>) {
    this.address = address;
    this.#end = end;
  }

  /** Stops it, and returns once it has ended; what is connected is cut. */
  async stop(): Promise<void> {
    await this.#end();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.stop();
  }
}

/** What the program is told. */
export interface Whither {
  url: string;
  apiKey: string;
  instance: string;
  place: string;
}

/** Starts the program and returns once it listens. Throws `Misused` if there is none, and `Unreachable`. */
export async function openForward(
  { url, apiKey, instance, place }: Whither,
  options: ForwardOptions,
): Promise<Forward> {
  const { listen = "127.0.0.1:0", binary = variable("LANDFAST_BINARY") || "landfast", signal } = options;
  signal?.throwIfAborted();
  const children = globalThis.process?.getBuiltinModule?.("node:child_process");
  if (children === undefined) throw new Misused("No program can be started here.");
  const env = { ...process.env, LANDFAST_URL: url, LANDFAST_API_KEY: apiKey, NO_COLOR: "1" };
  const program = children.spawn(binary, ["forward", instance, place, listen], {
    env,
    stdio: ["ignore", "pipe", "pipe"],
  });
  let errors = "";
  program.stderr?.on("data", (part: Buffer) => {
    errors = (errors + part.toString()).slice(0, ERRORS_MAX);
  });
  try {
    const line = await firstLine(program, signal);
    if (line !== "") return new Forward(line, () => ended(program));
  } catch (failure) {
    await ended(program);
    throw failure;
  }
  await ended(program);
  throw new Unreachable(`\`landfast forward\` did not listen: ${errors.trim()}`);
}

/** The first line of a program; empty at its end, or if none comes in time. */
async function firstLine(program: ChildProcess, signal: AbortSignal | undefined): Promise<string> {
  let said = "";
  return new Promise((resolve, reject) => {
    const abort = () => give(() => reject(signal?.reason));
    const timer = setTimeout(() => give(() => resolve("")), READY);
    const give = (act: () => void) => {
      clearTimeout(timer);
      signal?.removeEventListener("abort", abort);
      act();
    };
    signal?.addEventListener("abort", abort, { once: true });
    program.stdout?.on("data", (part: Buffer) => {
      said += part.toString();
      if (said.includes("\n")) give(() => resolve(said.slice(0, said.indexOf("\n")).trim()));
    });
    program.once("exit", () => give(() => resolve("")));
    program.once("error", (cause) => {
      const told = "There is no `landfast` program in PATH; name one with binary or LANDFAST_BINARY.";
      give(() => reject(new Misused(told, { cause })));
    });
  });
}

async function ended(program: ChildProcess): Promise<void> {
  if (program.pid === undefined || program.exitCode !== null || program.signalCode !== null) return;
  const exit = new Promise((resolve) => program.once("exit", resolve));
  program.kill("SIGKILL");
  await exit;
}
