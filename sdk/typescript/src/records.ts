/**
 * What Landfast tells of instances, processes and events, as values. Times are Unix milliseconds unless said otherwise.
 *
 * Fields that a newer release adds are left out; ones that an older release lacks have the values written here.
 *
 * @module
 */

import { ProtocolFailure } from "./failure.js";

/** What an instance is, or was. */
export type Phase =
  | "pending"
  | "starting"
  | "running"
  | "moving"
  | "sleeping"
  | "stopped"
  | "failed"
  | "lost"
  | "deleted"
  | (string & {});

/** An instance as the control plane tells it. */
export interface InstanceRecord {
  readonly id: string;
  /** `sandbox`, `actor` or `browser`. */
  readonly kind: string;
  readonly phase: Phase;
  /** What should be. */
  readonly desired: string;
  /** The number of its placements so far. */
  readonly generation: number;
  /** Where its data plane is. */
  readonly baseUrl: string;
  readonly createdAt: number;
  readonly spec: Record<string, unknown>;
  readonly labels: Readonly<Record<string, string>>;
  readonly node: string | undefined;
  readonly host: string | undefined;
  /** Why it ended, why its last move was given up, or why no node takes it. */
  readonly reason: string | undefined;
  readonly endedAt: number | undefined;
  readonly tokenExpiresAt: number | undefined;
  /** Not among what is printed or made JSON of, and neither is `token`. */
  readonly cdpUrl: string | undefined;
  readonly token: string | undefined;
}

/** An access token for one instance. It is shown once; `token` itself is not printed. */
export interface Token {
  readonly id: string;
  readonly token: string;
  readonly scopes: readonly string[];
  readonly expiresAt: number;
}

/** How a process ended: by a code, or by a signal. */
export class Exit {
  readonly code: number | undefined;
  readonly signal: number | undefined;

  constructor(code?: number, signal?: number) {
    this.code = code;
    this.signal = signal;
  }

  /** As a shell says it: the code, or 128 and the signal's number. */
  get status(): number {
    return this.code ?? 128 + (this.signal ?? 0);
  }
}

/** A process as its agent tells it. */
export interface ProcessRecord {
  readonly id: string;
  readonly argv: readonly string[];
  readonly startedAt: number;
  /** `running`, `exited`, or `unknown` if the agent died with it. */
  readonly state: "running" | "exited" | "unknown" | (string & {});
  /** The offsets of the output that is kept: `from`, and `to` after the newest byte. */
  readonly log: { readonly from: number; readonly to: number };
  readonly pid: number | undefined;
  readonly tty: { readonly rows: number; readonly cols: number } | undefined;
  readonly exit: Exit | undefined;
  readonly killedBy: string | undefined;
}

/** What came of a command that was run to its end. */
export class Completed {
  /** How it ended; undefined if nobody knows. */
  readonly exit: Exit | undefined;
  readonly stdout: Uint8Array;
  readonly stderr: Uint8Array;
  /** Whether it said more than is kept: then the oldest is missing. */
  readonly truncated: boolean;
  /** `timeout`, `detach` or `request` if the agent killed it. */
  readonly killedBy: string | undefined;

  constructor(fields: Pick<Completed, "exit" | "stdout" | "stderr" | "truncated" | "killedBy">) {
    this.exit = fields.exit;
    this.stdout = fields.stdout;
    this.stderr = fields.stderr;
    this.truncated = fields.truncated;
    this.killedBy = fields.killedBy;
  }

  /** Whether it exited with code 0. */
  get ok(): boolean {
    return this.exit?.code === 0;
  }

  /** Standard output as UTF-8; what is none is replaced. */
  get text(): string {
    return new TextDecoder().decode(this.stdout);
  }
}

/** A part of a process's output, stdout and stderr in the order in which they were said. */
export interface LogPart {
  /** The offset of the first byte; later than was asked for if what is older was let go. */
  readonly offset: number;
  readonly data: Uint8Array;
  /** The offset after the last byte: where to go on. */
  readonly end: number;
}

/** A server inside an instance. */
export interface ServiceRecord {
  readonly name: string;
  /** `down`, `starting`, `up`, `backoff`, `failed` or `gave_up`. */
  readonly state: string;
  /** The number of its starts so far. */
  readonly start: number;
  readonly since: number;
  readonly pid: number | undefined;
  readonly exit: Exit | undefined;
  readonly error: string | undefined;
}

/** The browser of an instance. */
export interface BrowserRecord {
  readonly state: string;
  /** The number of its starts so far. */
  readonly start: number;
  readonly since: number;
  readonly flags: readonly string[];
  /** Whether Chromium's own sandbox is on (`enabled`), and if not, why (`reason`). */
  readonly sandbox: Readonly<Record<string, unknown>>;
  readonly pid: number | undefined;
  readonly version: string | undefined;
  readonly exit: Exit | undefined;
  readonly error: string | undefined;
}

/** Something that happened in an instance. */
export interface Event {
  readonly kind: "event";
  /** What a stream goes on after; undefined for one from a page. */
  readonly id: string | undefined;
  /** Its number since the agent's start, from 1 without holes. */
  readonly seq: number;
  /** Microseconds since 1970. */
  readonly ts: number;
  readonly type: string;
  readonly category: string;
  readonly source: Readonly<Record<string, unknown>>;
  readonly data: unknown;
  /** Whether `data` was dropped because it was too large. */
  readonly truncated: boolean;
}

/** Events that are gone: from this id to the first one after it; undefined where nobody can say what was missed. */
export interface EventGap {
  readonly kind: "gap";
  readonly start: string | undefined;
  readonly end: string | undefined;
}

/** Events that were stored, and where the next page begins. */
export interface EventPage {
  readonly items: readonly (Event | EventGap)[];
  /** What to ask for next, a number beyond what JavaScript counts to. A page may be empty although more follow. */
  readonly nextOffset: string;
  readonly hasMore: boolean;
}

/** A file of an instance, as it is without its content. */
export interface FileInfo {
  /** Its path; what is no UTF-8 in it is replaced, and then `rawPath` is what leads to it. */
  readonly path: string;
  /** The bytes of a path that is no UTF-8. */
  readonly rawPath: Uint8Array | undefined;
  readonly name: string;
  readonly kind: "file" | "directory" | "link" | "fifo" | "socket" | "device" | (string & {});
  readonly size: number;
  /** Who may do what, as for `chmod`. */
  readonly mode: number;
  /** When its content last changed. */
  readonly modified: number;
  readonly uid: number;
  readonly gid: number;
  /** Changes whenever its content may have. */
  readonly etag: string;
  /** Where a link leads, as it says. */
  readonly target: string | undefined;
}

/** Something that happened to a file of an instance. */
export interface FileChange {
  /** `gap` means that some was missed: look again. */
  readonly type: "created" | "modified" | "written" | "attributes" | "removed" | "moved" | "gap" | (string & {});
  /** Empty for a gap. */
  readonly path: string;
  /** Where it was before it was moved. */
  readonly source: string | undefined;
  readonly isDirectory: boolean;
}

/** What was put in place of a tree. */
export interface Unpacked {
  readonly files: number;
  readonly directories: number;
  readonly links: number;
  readonly bytes: number;
}

/** Reads an instance. Throws `ProtocolFailure` if it is something else, and so do all of these. */
export function readInstance(answer: unknown): InstanceRecord {
  const from = new Fields("an instance", answer);
  const record = {
    id: from.text("id"),
    kind: from.text("kind"),
    phase: from.text("phase"),
    desired: from.text("desired"),
    generation: from.number("generation"),
    baseUrl: from.text("base_url"),
    createdAt: from.number("created_at"),
    spec: from.object("spec"),
    labels: from.object("labels") as Record<string, string>,
    node: from.maybeText("node"),
    host: from.maybeText("host"),
    reason: from.maybeText("reason"),
    endedAt: from.maybeNumber("ended_at"),
    tokenExpiresAt: from.maybeNumber("token_expires_at"),
  };
  return secret(secret(record, "cdpUrl", from.maybeText("cdp_url")), "token", from.maybeText("token"));
}

/** Reads an access token. */
export function readToken(answer: unknown): Token {
  const from = new Fields("a token", answer);
  const record = { id: from.text("id"), scopes: from.texts("scopes"), expiresAt: from.number("expires_at") };
  return secret(record, "token", from.text("token"));
}

/** Reads a process. */
export function readProcess(answer: unknown): ProcessRecord {
  const from = new Fields("a process", answer);
  const log = new Fields("a log", from.object("log"));
  const tty = from.has("tty") ? new Fields("a size", from.object("tty")) : undefined;
  return {
    id: from.text("id"),
    argv: from.texts("argv"),
    startedAt: from.number("started_at"),
    state: from.text("state"),
    log: { from: log.number("from"), to: log.number("to") },
    pid: from.maybeNumber("pid"),
    tty: tty && { rows: tty.number("rows"), cols: tty.number("cols") },
    exit: from.exit(),
    killedBy: from.maybeText("killed_by"),
  };
}

/** Reads what came of a command. */
export function readCompleted(answer: unknown): Completed {
  const from = new Fields("the outcome of a command", answer);
  return new Completed({
    exit: from.exit(),
    stdout: from.output("stdout"),
    stderr: from.output("stderr"),
    truncated: from.flag("truncated"),
    killedBy: from.maybeText("killed_by"),
  });
}

/** Reads a server. */
export function readService(answer: unknown): ServiceRecord {
  const from = new Fields("a service", answer);
  return {
    name: from.text("name"),
    state: from.text("state"),
    start: from.number("start"),
    since: from.number("since"),
    pid: from.maybeNumber("pid"),
    exit: from.exit(),
    error: from.maybeText("error"),
  };
}

/** Reads a browser. */
export function readBrowser(answer: unknown): BrowserRecord {
  const from = new Fields("a browser", answer);
  return {
    state: from.text("state"),
    start: from.number("start"),
    since: from.number("since"),
    flags: from.texts("flags"),
    sandbox: from.object("sandbox"),
    pid: from.maybeNumber("pid"),
    version: from.maybeText("version"),
    exit: from.exit(),
    error: from.maybeText("error"),
  };
}

/** Reads the envelope of an event, or the record of a gap. */
export function readEvent(answer: unknown, id?: string): Event | EventGap {
  const from = new Fields("an event", answer);
  if (from.maybeText("type") === "gap")
    return { kind: "gap", start: from.maybeText("from"), end: from.maybeText("to") };
  const event = new Fields("an event", from.object("event"));
  return {
    kind: "event",
    id,
    seq: from.number("seq"),
    ts: event.number("ts"),
    type: event.text("type"),
    category: event.text("category"),
    source: event.object("source"),
    data: event.value("data"),
    truncated: event.flag("truncated"),
  };
}

/** Reads what is told of a file. */
export function readFile(answer: unknown): FileInfo {
  const from = new Fields("a file", answer);
  return {
    path: from.text("path"),
    rawPath: from.bytes("path_encoded"),
    name: from.text("name"),
    kind: from.text("kind"),
    size: from.number("size"),
    mode: Number.parseInt(from.text("mode"), 8),
    modified: from.number("modified"),
    uid: from.number("uid"),
    gid: from.number("gid"),
    etag: from.text("etag"),
    target: from.maybeText("target"),
  };
}

/** Reads what happened to a file. */
export function readChange(answer: unknown): FileChange {
  const from = new Fields("a change of a file", answer);
  const [path, source] = [from.maybeText("path") ?? "", from.maybeText("from")];
  return { type: from.text("type"), path, source, isDirectory: from.flag("directory") };
}

/** Reads what was put in place of a tree. */
export function readUnpacked(answer: unknown): Unpacked {
  const from = new Fields("what was unpacked", answer);
  const [files, directories] = [from.number("files"), from.number("directories")];
  return { files, directories, links: from.number("links"), bytes: from.number("bytes") };
}

/** The list of this name in an answer. */
export function itemsOf(answer: unknown, name: string): unknown[] {
  const items = new Fields(`a list of ${name}`, answer).value(name);
  if (!Array.isArray(items)) throw new ProtocolFailure(`A list of ${name} was expected.`);
  return items;
}

/** The fields of something that was answered; what is null counts as not said. */
class Fields {
  readonly #what: string;
  readonly #values: Record<string, unknown>;

  constructor(what: string, answer: unknown) {
    this.#what = what;
    if (typeof answer !== "object" || answer === null || Array.isArray(answer)) {
      throw new ProtocolFailure(`The answer is not ${what}.`);
    }
    this.#values = answer as Record<string, unknown>;
  }

  value(name: string): unknown {
    return this.#values[name] ?? undefined;
  }

  has(name: string): boolean {
    return this.value(name) !== undefined;
  }

  text(name: string): string {
    return this.maybeText(name) ?? this.#missing(name);
  }

  number(name: string): number {
    return this.maybeNumber(name) ?? this.#missing(name);
  }

  maybeText(name: string): string | undefined {
    const value = this.value(name);
    return value === undefined || typeof value === "string" ? value : this.#missing(name);
  }

  maybeNumber(name: string): number | undefined {
    const value = this.value(name);
    return value === undefined || typeof value === "number" ? value : this.#missing(name);
  }

  /** Bytes, each of which may stand as % and two digits. */
  bytes(name: string): Uint8Array | undefined {
    const text = this.maybeText(name);
    if (text === undefined) return undefined;
    const one = text.replace(/[^%]|%[0-9a-f]{2}/gi, (part) =>
      part.length === 1 ? `%${part.charCodeAt(0).toString(16).padStart(2, "0")}` : part,
    );
    return Uint8Array.from(one.split("%").slice(1), (digits) => Number.parseInt(digits, 16));
  }

  flag(name: string): boolean {
    return this.value(name) === true;
  }

  /** A list of texts; an empty one if it is not said. */
  texts(name: string): string[] {
    const value = this.value(name) ?? [];
    return Array.isArray(value) ? value.map(String) : this.#missing(name);
  }

  /** An object; an empty one if it is not said. */
  object(name: string): Record<string, unknown> {
    const value = this.value(name) ?? {};
    return typeof value === "object" && !Array.isArray(value)
      ? (value as Record<string, unknown>)
      : this.#missing(name);
  }

  exit(): Exit | undefined {
    if (!this.has("exit")) return undefined;
    const from = new Fields("an exit", this.object("exit"));
    return new Exit(from.maybeNumber("code"), from.maybeNumber("signal"));
  }

  /** Bytes, which are in base64 where they are no text. */
  output(name: string): Uint8Array {
    const encoded = this.maybeText(`${name}_base64`);
    if (encoded === undefined) return new TextEncoder().encode(this.maybeText(name) ?? "");
    return Uint8Array.from(atob(encoded), (character) => character.charCodeAt(0));
  }

  #missing(name: string): never {
    throw new ProtocolFailure(`The answer is not ${this.#what}: ${name} is not as it should be.`);
  }
}

/** Adds a field that is neither printed nor made JSON of. */
function secret<R extends object, N extends string, V>(record: R, name: N, value: V): R & Record<N, V> {
  return Object.defineProperty(record, name, { value, enumerable: false }) as R & Record<N, V>;
}
