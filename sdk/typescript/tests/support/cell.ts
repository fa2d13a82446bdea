/** A whole cell as a user has it, by the program in the tree: API, gateway and node, each of which can be killed. */

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, openSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";
import { Landfast, type LandfastOptions } from "../../src/index.js";
import { nowhere } from "./servers.js";

/** The environment without what says which cell is meant. */
export const ENVIRONMENT: NodeJS.ProcessEnv = Object.fromEntries(
  Object.entries(process.env).filter(([name]) => !name.startsWith("LANDFAST_")),
);

/** A program of the tree; `cargo xtask test typescript` builds it and says where. */
export function binary(name = "landfast-under-test"): string {
  const where = process.env["LANDFAST_BINARY"];
  assert.ok(where, "LANDFAST_BINARY does not say where the program is: run `cargo xtask test typescript`");
  return join(dirname(where), name);
}

/** A new folder for a cell. Under /tmp whatever TMPDIR says: paths of sockets have to be short. */
export function newFolder(): string {
  return mkdtempSync("/tmp/cell-");
}

/** Ends everything in a cell's folder, and the folder, once its standard input ends. */
export class Reaper {
  readonly #program: ChildProcess;

  constructor(folder: string) {
    this.#program = spawn(binary("landfast-reaper"), [folder], { stdio: ["pipe", "ignore", "inherit"] });
  }

  async close(): Promise<void> {
    const exit = once(this.#program, "exit");
    this.#program.stdin?.end();
    await exit;
  }
}

/** One process of the cell. */
export class Role {
  readonly #folder: string;
  readonly #arguments: string[];
  #program: ChildProcess | undefined;

  constructor(folder: string, ...args: string[]) {
    this.#folder = folder;
    this.#arguments = args;
  }

  /** Starts it, and returns once it has said that it is up. */
  async start(): Promise<this> {
    const log = join(this.#folder, `${this.#arguments[0]}.log`);
    const args = [...this.#arguments, "--data", this.#folder];
    this.#program = spawn(binary(), args, { stdio: ["ignore", "pipe", openSync(log, "a")], env: ENVIRONMENT });
    assert.ok(await firstLine(this.#program), readFileSync(log, "utf8"));
    return this;
  }

  /** Lets it stand still: its sockets stay, and nothing answers. */
  async freeze(): Promise<void> {
    const { pid } = this.#running;
    process.kill(pid, "SIGSTOP");
    // The kernel stops one thread and tells the others; until they have heard it, they serve.
    while (!readdirSync(`/proc/${pid}/task`).every((task) => stateOf(pid, task) === "T")) await sleep(1);
  }

  /** Kills it. */
  async kill(): Promise<void> {
    const program = this.#running;
    const exit = once(program, "exit");
    process.kill(program.pid, "SIGKILL");
    await exit;
  }

  /** Asks it to stop, and returns once it has. */
  async stop(): Promise<void> {
    const program = this.#running;
    const exit = once(program, "exit");
    process.kill(program.pid, "SIGTERM");
    await exit;
  }

  /** Kills it, and starts it again after so many seconds; the test may go on meanwhile. */
  async isAway(seconds: number): Promise<void> {
    await this.kill();
    await sleep(seconds * 1000);
    await this.start();
  }

  get #running(): ChildProcess & { pid: number } {
    assert.ok(this.#program?.pid, `${this.#arguments[0]} is not running`);
    return this.#program as ChildProcess & { pid: number };
  }
}

/** A cell on free ports in a folder of its own; everything that it started ends with it. */
export class Cell {
  readonly url: string;
  readonly apiKey: string;
  readonly gateway: Role;
  readonly #folder: string;
  readonly #roles: Role[];
  readonly #reaper: Reaper;

  private constructor(folder: string, url: string, apiKey: string, gateway: Role, roles: Role[], reaper: Reaper) {
    this.#folder = folder;
    this.url = url;
    this.apiKey = apiKey;
    this.gateway = gateway;
    this.#roles = roles;
    this.#reaper = reaper;
  }

  static async start(): Promise<Cell> {
    const folder = newFolder();
    const reaper = new Reaper(folder);
    const url = await nowhere();
    const roles = [
      await new Role(folder, "api", "--listen", "127.0.0.1:0").start(),
      await new Role(folder, "gateway", "--listen", url.slice("http://".length)).start(),
      await new Role(folder, "node", "--name", "a", "--listen", "127.0.0.1:0").start(),
    ] as const;
    const apiKey = readFileSync(join(folder, "api-key"), "utf8").trim();
    return new Cell(folder, url, apiKey, roles[1], [...roles], reaper);
  }

  /** Starts another gateway with these settings, and says where it is. */
  async anotherGateway(settings = "drain_timeout_ms = 500"): Promise<[string, Role]> {
    const url = await nowhere();
    const config = join(this.#folder, "another.toml");
    writeFileSync(config, `[gateway]\n${settings}\n`);
    const role = new Role(this.#folder, "gateway", "--listen", url.slice("http://".length), "--config", config);
    return [url, await role.start()];
  }

  /** A client of it. */
  client(options: LandfastOptions = {}): Landfast {
    return new Landfast({ url: this.url, apiKey: this.apiKey, ...options });
  }

  /** What its roles have said so far, and the agents of instances that are still there. */
  logs(): string {
    const files = readdirSync(this.#folder, { recursive: true, withFileTypes: true });
    // What programs wrote in an instance's home is theirs.
    const logs = files.filter((file) => file.name.endsWith(".log") && !file.parentPath.includes("/home"));
    return logs.map((file) => readFileSync(join(file.parentPath, file.name), "utf8")).join("");
  }

  async close(): Promise<void> {
    for (const role of this.#roles) await role.kill();
    await this.#reaper.close();
  }
}

/** The first line that a program says; undefined if it ends before. */
export async function firstLine(program: ChildProcess): Promise<string | undefined> {
  assert.ok(program.stdout);
  const lines = createInterface({ input: program.stdout });
  const [line] = (await Promise.race([once(lines, "line"), once(lines, "close")])) as [string?];
  return line;
}

/** The state of one thread as the kernel letters it; a thread that has ended stands as still as any. */
function stateOf(pid: number, task: string): string {
  try {
    const stat = readFileSync(`/proc/${pid}/task/${task}/stat`, "utf8");
    return stat.slice(stat.lastIndexOf(")") + 1).trim()[0] ?? "";
  } catch {
    return "T";
  }
}
