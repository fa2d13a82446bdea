/**
 * Instances: the stateful things that clients want.
 *
 * @module
 */

import { Browser } from "./browser.js";
import { type Abortable, type Caller, DEADLINE_SECONDS } from "./caller.js";
import { Events } from "./events.js";
import { Files } from "./files.js";
import { plain } from "./names.js";
import { Processes } from "./processes.js";
import { type InstanceRecord, itemsOf, type Phase, readInstance, readToken, type Token } from "./records.js";
import { Services } from "./services.js";

/** Instances asked for at once when all are listed. */
const PAGE = 200;

/** How an instance is to be, in the words of the API reference. */
export interface InstanceSpec {
  env?: Record<string, string>;
  services?: Record<string, object>;
  browser?: { flags?: string[] };
  /** Seconds without traffic after which it is put to sleep; never if not said. */
  idle_timeout?: number;
  restart?: unknown;
  network?: unknown;
  limits?: object;
  node_labels?: Record<string, string>;
  [more: string]: unknown;
}

/** What is created. */
export interface CreateOptions extends Abortable {
  /** `sandbox` if not said. */
  kind?: "sandbox" | "actor" | "browser";
  labels?: Readonly<Record<string, string>>;
  spec?: InstanceSpec;
  /** Seconds to wait until it runs or has ended, 60 at most; 60 if not said. */
  wait?: number;
  /** With the same key within 24 hours the same instance is answered. */
  idempotencyKey?: string;
}

/** Which instances are listed. */
export interface ListOptions extends Abortable {
  labels?: Readonly<Record<string, string>>;
  phase?: Phase;
  /** Instances asked for at once, 200 if not said. */
  page?: number;
}

/** How long is waited for a change. */
export interface WaitOptions extends Abortable {
  /** Seconds; 30 if not said. */
  wait?: number;
}

/** One instance. What it does is below `processes`, `files`, `services`, `browser` and `events`. */
export class Instance {
  readonly id: string;
  readonly processes: Processes;
  readonly services: Services;
  readonly files: Files;
  readonly browser: Browser;
  readonly events: Events;
  readonly #caller: Caller;
  #record: InstanceRecord;

  constructor(caller: Caller, record: InstanceRecord) {
    this.id = plain(record.id);
    this.#caller = caller;
    this.#record = record;
    this.processes = new Processes(caller, this.id);
    this.services = new Services(caller, this.id);
    this.files = new Files(caller, this.id);
    this.browser = new Browser(caller, this.id);
    this.events = new Events(caller, this.id);
  }

  /** What was told of it last; `refresh` asks again. */
  get record(): InstanceRecord {
    return this.#record;
  }

  /** What it was when it was last asked for: `running`, `sleeping`, … */
  get phase(): Phase {
    return this.#record.phase;
  }

  /** Its labels. */
  get labels(): Readonly<Record<string, string>> {
    return this.#record.labels;
  }

  /** Whether it was over for good when it was last asked for. */
  get hasEnded(): boolean {
    return ["stopped", "failed", "lost", "deleted"].includes(this.phase);
  }

  /** Asks how it is. Safe to repeat. */
  async refresh(options: Abortable = {}): Promise<this> {
    return this.#told("GET", "", options);
  }

  /** Deletes it with everything in it. What happened in it can be read for 30 days. Safe to repeat. */
  async delete(options: Abortable = {}): Promise<void> {
    await this.#caller.call("DELETE", `/instances/${this.id}`, options);
  }

  /** Stops it and keeps its record. Safe to repeat. */
  async stop(options: Abortable = {}): Promise<this> {
    return this.#told("POST", "/stop", options);
  }

  /**
   * Moves it to the node of this name or id, or to the best other one, and waits for that.
   *
   * Throws `MoveRefused`, or `MoveFailed` if it stays where it was.
   */
  async move(options: WaitOptions & { node?: string } = {}): Promise<this> {
    return this.#told("POST", "/move", { wait: 30, ...options }, { node: options.node ?? null });
  }

  /** Puts it to sleep, and waits until it does. Safe to repeat. Throws `SleepRefused`. */
  async sleep(options: WaitOptions = {}): Promise<this> {
    return this.#told("POST", "/sleep", { wait: 30, ...options });
  }

  /** Wakes it, and waits until it runs. Safe to repeat; every request to it wakes it too. */
  async wake(options: WaitOptions = {}): Promise<this> {
    return this.#told("POST", "/wake", { wait: 30, ...options });
  }

  /** Makes an access token for it, for others: `all`, `process`, `browser` or `files`; for so many seconds, a day at most. */
  async createToken(options: Abortable & { scopes?: readonly string[]; seconds?: number } = {}): Promise<Token> {
    const { scopes = ["all"], seconds = 3600, signal } = options;
    const body = { scopes, ttl_seconds: seconds };
    return readToken(await this.#caller.json("POST", `/instances/${this.id}/tokens`, { body, signal }));
  }

  async #told(method: string, verb: string, { wait, signal }: WaitOptions, body?: unknown): Promise<this> {
    const ask = { body, params: { wait }, seconds: DEADLINE_SECONDS + (wait ?? 0), signal };
    this.#record = readInstance(await this.#caller.json(method, `/instances/${this.id}${verb}`, ask));
    return this;
  }
}

/** Makes, finds and lists instances. */
export class Instances {
  readonly #caller: Caller;

  constructor(caller: Caller) {
    this.#caller = caller;
  }

  /** Creates an instance and waits until it runs or has ended; look at its `phase`. */
  async create(options: CreateOptions = {}): Promise<Instance> {
    const { kind = "sandbox", labels = {}, spec = {}, wait = 60, idempotencyKey, signal } = options;
    const headers = idempotencyKey === undefined ? {} : { "Idempotency-Key": idempotencyKey };
    const ask = { body: { kind, labels, spec }, params: { wait }, headers, seconds: DEADLINE_SECONDS + wait, signal };
    return new Instance(this.#caller, readInstance(await this.#caller.json("POST", "/instances", ask)));
  }

  /** Finds the instance of this id; for 24 hours also one that was deleted. Throws `InstanceUnknown`. */
  async get(instance: string, options: Abortable = {}): Promise<Instance> {
    const answer = await this.#caller.json("GET", `/instances/${plain(instance)}`, options);
    return new Instance(this.#caller, readInstance(answer));
  }

  /** Goes through all instances with these labels and in this phase, oldest first, over all pages. */
  async *list(options: ListOptions = {}): AsyncGenerator<Instance, void, undefined> {
    const { labels = {}, phase, page: limit = PAGE, signal } = options;
    const label = Object.entries(labels).map(([name, value]) => `${name}=${value}`);
    let cursor: string | undefined;
    do {
      const page = await this.#caller.json("GET", "/instances", { params: { limit, cursor, label, phase }, signal });
      for (const item of itemsOf(page, "items")) yield new Instance(this.#caller, readInstance(item));
      const { next_cursor: next } = page as { next_cursor?: unknown };
      cursor = typeof next === "string" ? next : undefined;
    } while (cursor !== undefined);
  }
}
