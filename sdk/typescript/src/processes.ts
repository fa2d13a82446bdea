/**
 * Processes of an instance: started, run to their end, looked at, and spoken with.
 *
 * @module
 */

import { Attachment, type AttachOptions } from "./attachment.js";
import { type Abortable, type Caller, DEADLINE_SECONDS } from "./caller.js";
import { Misused } from "./failure.js";
import { plain } from "./names.js";
import {
  type Completed,
  type Exit,
  itemsOf,
  type LogPart,
  type ProcessRecord,
  readCompleted,
  readProcess,
} from "./records.js";

/** Seconds that a command without a timeout may take before its answer is given up; start and attach to what runs longer. */
export const RUN_SECONDS = 600;

/** A program and its arguments, or a line for `/bin/sh -c`. */
export type Command = string | readonly string[];

/** How a command is run. */
export interface CommandOptions extends Abortable {
  env?: Readonly<Record<string, string>>;
  /** The directory it begins in. */
  cwd?: string;
  /** Seconds after which it is killed. */
  timeout?: number;
}

/** How a process is started. */
export interface StartOptions extends CommandOptions {
  /** The size of its terminal; without it, it has none. */
  tty?: { rows: number; cols: number };
  stdin?: "open" | "closed";
  /** Seconds without anybody attached after which it is killed. */
  maxRunAfterDetach?: number;
  /** It is held back, as by a full pipe, rather than that its first viewer misses a byte. */
  lossless?: boolean;
}

/** How a command is run to its end. */
export interface RunOptions extends CommandOptions {
  /** Its standard input. */
  input?: string;
}

/** How a command is started on a terminal. */
export interface TerminalOptions extends CommandOptions {
  rows?: number;
  cols?: number;
  /** Seconds without a connection after which it is given up; 600 if not said. */
  patience?: number;
}

/** One process. */
export class Process {
  readonly id: string;
  readonly #caller: Caller;
  readonly #instance: string;
  readonly #path: string;
  #record: ProcessRecord;

  constructor(caller: Caller, instance: string, record: ProcessRecord) {
    this.id = record.id;
    this.#caller = caller;
    this.#instance = instance;
    this.#path = `/instances/${instance}/processes/${plain(record.id)}`;
    this.#record = record;
  }

  /** What was told of it last; `refresh` asks again. */
  get record(): ProcessRecord {
    return this.#record;
  }

  /** How it ended, when it was last asked for; undefined while it runs, and if nobody knows. */
  get exit(): Exit | undefined {
    return this.#record.exit;
  }

  /** Asks how it is. Safe to repeat. Throws `ProcessUnknown`. */
  async refresh(options: Abortable = {}): Promise<this> {
    this.#record = readProcess(await this.#caller.json("GET", this.#path, { direct: true, ...options }));
    return this;
  }

  /**
   * Sends a signal, by its name without SIG, to its group; on a terminal to the one in the foreground.
   *
   * Throws `ProcessNotRunning`. After `Broken` it may have been sent.
   */
  async signal(name: string, options: Abortable = {}): Promise<void> {
    await this.#caller.call("POST", `${this.#path}/signal`, { body: { signal: name }, direct: true, ...options });
  }

  /** Sets the size of its terminal. Safe to repeat. Throws `ProcessNoTerminal`. */
  async resize(rows: number, cols: number, options: Abortable = {}): Promise<void> {
    await this.#caller.call("POST", `${this.#path}/resize`, { body: { rows, cols }, direct: true, ...options });
  }

  /** Writes to its standard input. Throws `ProcessStdinClosed`. After `Broken` it may have been written. */
  async write(data: string | Uint8Array, options: Abortable = {}): Promise<void> {
    await this.#caller.call("POST", `${this.#path}/stdin`, { content: data, direct: true, ...options });
  }

  /** Ends its standard input. Safe to repeat. */
  async endInput(options: Abortable = {}): Promise<void> {
    await this.#caller.call("POST", `${this.#path}/eof`, { direct: true, ...options });
  }

  /** Reads what it has said, from this offset to the newest byte. Safe to repeat. `attach` waits for more. */
  async output(start = 0, options: Abortable = {}): Promise<LogPart> {
    const params = { from: start };
    const response = await this.#caller.call("GET", `${this.#path}/output`, { params, direct: true, ...options });
    const data = new Uint8Array(await response.arrayBuffer());
    const offset = Number(response.headers.get("landfast-offset") ?? start);
    return { offset, data, end: offset + data.length };
  }

  /**
   * Follows it: everything it says from `start` on, once and in order, over any number of connections.
   *
   * Returns once it is attached; iterate over it, and `close` it or declare it with `await using`. Throws
   * `ProcessUnknown`, `ProcessNoTerminal` for a screen where there is none, and `WebSocketMissing`.
   */
  async attach(options: AttachOptions = {}): Promise<Attachment> {
    return new Attachment(this.#caller, this.#instance, this.id, options).connect();
  }

  /** Kills everything in its session and forgets it. Safe to repeat: then it throws `ProcessUnknown`. */
  async delete(options: Abortable = {}): Promise<void> {
    await this.#caller.call("DELETE", this.#path, { direct: true, ...options });
  }
}

/** The processes of one instance. */
export class Processes {
  readonly #caller: Caller;
  readonly #instance: string;
  readonly #path: string;

  constructor(caller: Caller, instance: string) {
    this.#caller = caller;
    this.#instance = instance;
    this.#path = `/instances/${instance}/processes`;
  }

  /** Starts a process. Throws `ProcessSpawn`. After `Broken` it may run: list the processes before starting it again. */
  async start(command: Command, options: StartOptions = {}): Promise<Process> {
    const { tty, stdin, maxRunAfterDetach, lossless, signal } = options;
    const body = { ...wishOf(command, options), tty, stdin, max_run_after_detach: maxRunAfterDetach, lossless };
    const answer = await this.#caller.json("POST", this.#path, { body, direct: true, signal });
    return new Process(this.#caller, this.#instance, readProcess(answer));
  }

  /**
   * Runs a command to its end and returns its exit and what it said.
   *
   * A command that fails is no error: look at `exit`. Throws `ProcessSpawn`. After `Broken` it may have run, or run still;
   * it is never run twice by this.
   */
  async run(command: Command, options: RunOptions = {}): Promise<Completed> {
    const { input, timeout, signal } = options;
    const body = { ...wishOf(command, options), input: input || undefined };
    const seconds = timeout === undefined ? RUN_SECONDS : timeout + DEADLINE_SECONDS;
    const path = `/instances/${this.#instance}/exec`;
    return readCompleted(await this.#caller.json("POST", path, { body, direct: true, seconds, signal }));
  }

  /** Lists them, those that have exited too. Safe to repeat. */
  async list(options: Abortable = {}): Promise<Process[]> {
    const answer = await this.#caller.json("GET", this.#path, { direct: true, ...options });
    return itemsOf(answer, "processes").map((item) => new Process(this.#caller, this.#instance, readProcess(item)));
  }

  /** Finds the process of this id. Throws `ProcessUnknown`. */
  async get(process: string, options: Abortable = {}): Promise<Process> {
    const answer = await this.#caller.json("GET", `${this.#path}/${plain(process)}`, { direct: true, ...options });
    return new Process(this.#caller, this.#instance, readProcess(answer));
  }

  /** Starts a command on a terminal, of 24 rows and 80 columns if not said, and follows it. Throws `ProcessSpawn`. */
  async terminal(command: Command = ["bash"], options: TerminalOptions = {}): Promise<Attachment> {
    const { rows = 24, cols = 80, patience, signal, ...more } = options;
    const process = await this.start(command, { ...more, signal, tty: { rows, cols } });
    return process.attach({ signal, ...(patience === undefined ? {} : { patience }) });
  }
}

function wishOf(command: Command, { env, cwd, timeout }: CommandOptions): Record<string, unknown> {
  if (command.length === 0) {
    throw new Misused("There is no command: give a program and its arguments, or a line for the shell.");
  }
  return { ...(typeof command === "string" ? { shell: command } : { argv: command }), env, cwd, timeout };
}
