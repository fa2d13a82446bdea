/**
 * One request and its answer as they go through a `fetch`: with a deadline, a body that is never sent twice by
 * accident, and an answer that is whole or an error.
 *
 * @module
 */

import { Broken, LandfastError, Misused, TimedOut, type TransportFailure, Unreachable } from "./failure.js";

/** What sends requests: `globalThis.fetch`, or anything that behaves like it. */
export type Fetch = (input: string | URL | Request, init?: RequestInit) => Promise<Response>;

/** A request as it leaves. */
export interface Wire {
  readonly method: string;
  readonly url: URL;
  readonly headers: Headers;
  readonly body: Body;
  readonly signal: AbortSignal | null;
  /** Milliseconds until the answer begins, and between two parts of it. */
  readonly timeout: number | undefined;
  /** Whether the answer is read before it is returned, so that a cut one can be asked for again. */
  readonly whole: boolean;
  /** What the caller said besides, for the `fetch` below. */
  readonly rest: RequestInit;
}

/** What fails before a connection stands, as runtimes name it. */
const NOT_CONNECTED: readonly string[] = [
  "ConnectionRefused",
  "EADDRNOTAVAIL",
  "EAI_AGAIN",
  "ECONNREFUSED",
  "EHOSTUNREACH",
  "ENETUNREACH",
  "ENOENT",
  "ENOTFOUND",
  "FailedToOpenSocket",
  "UND_ERR_CONNECT_TIMEOUT",
];

/** So does a server whose certificate is refused. */
const NOT_TRUSTED = /CERT|^ERR_(SSL|TLS)|UNABLE_TO_(GET|VERIFY)/;

const LATE: readonly string[] = ["UND_ERR_BODY_TIMEOUT", "UND_ERR_HEADERS_TIMEOUT"];

/** How deep the causes of a failure are looked at. */
const CAUSES_MAX = 4;

/** Statuses whose answers have no body, not even an empty one. */
const BODILESS: readonly number[] = [101, 204, 205, 304];

/** The body of a request. One that is not held whole is sent once: nobody can wind it back. */
export class Body {
  readonly #held: BodyInit | undefined;
  readonly #reader: ReadableStreamDefaultReader<Uint8Array> | undefined;
  #isBegun = false;

  constructor(body: BodyInit | null | undefined) {
    if (body instanceof ReadableStream) {
      this.#reader = body.getReader();
    } else {
      this.#held = body ?? undefined;
    }
  }

  /** Whether it can be sent now, be it again. */
  get canBeSent(): boolean {
    return !this.#isBegun;
  }

  /** Whether it is a stream, which `fetch` wants to be told. */
  get isStream(): boolean {
    return this.#reader !== undefined;
  }

  /** The body for one attempt; `onMove` is called whenever more of a stream is taken. */
  open(onMove: () => void): BodyInit | undefined {
    const reader = this.#reader;
    if (reader === undefined) return this.#held;
    return new ReadableStream<Uint8Array>(
      {
        pull: async (out) => {
          this.#isBegun = true;
          onMove();
          const { done, value } = await reader.read();
          if (done) {
            out.close();
          } else {
            out.enqueue(value);
          }
        },
        // An attempt that ended before anything was read leaves it for the next.
        cancel: (reason) => (this.#isBegun ? reader.cancel(reason) : undefined),
      },
      { highWaterMark: 0 },
    );
  }
}

/** Sends a request once. Throws `TransportFailure`, or the signal's reason. */
export async function send(fetch: Fetch, wire: Wire): Promise<Response> {
  const deadline = new Deadline(wire.signal, wire.timeout);
  const init: RequestInit = { ...wire.rest, method: wire.method, headers: wire.headers, signal: deadline.signal };
  const body = wire.body.open(() => deadline.start());
  if (body !== undefined) init.body = body;
  let response: Response;
  try {
    deadline.start();
    response = await fetch(wire.url.href, {
      ...init,
      redirect: "manual",
      ...(wire.body.isStream ? { duplex: "half" } : {}),
    });
  } catch (failure) {
    throw deadline.told(failure);
  }
  if (response.type === "opaqueredirect") {
    deadline.end();
    throw new Misused("The answer is a redirect, which browsers do not let a program look at; ask where it leads.");
  }
  const answer = copyOf(response, response.body === null ? null : guarded(response.body, deadline), wire.url.href);
  if (response.body === null) deadline.end();
  return wire.whole ? copyOf(answer, await answer.arrayBuffer(), wire.url.href) : answer;
}

/** Reads the JSON of an answer, if it has some and no more than so many bytes, and returns the answer unread. */
export async function lookInto(response: Response, most: number): Promise<[Response, unknown]> {
  if (response.body === null) return [response, undefined];
  const reader = response.body.getReader();
  const parts: Uint8Array[] = [];
  let size = 0;
  let isWhole = false;
  while (!isWhole && size <= most) {
    const { done, value } = await reader.read();
    isWhole = done;
    if (!done) {
      parts.push(value);
      size += value.length;
    }
  }
  const text = isWhole ? textOf(parts) : "";
  const again = new ReadableStream<Uint8Array>(
    {
      pull: async (out) => {
        const next = parts.shift() ?? (await reader.read()).value;
        if (next === undefined) {
          out.close();
        } else {
          out.enqueue(next);
        }
      },
      cancel: (reason) => reader.cancel(reason),
    },
    { highWaterMark: 0 },
  );
  return [copyOf(response, again, response.url), jsonIn(response.headers, text)];
}

/** The JSON of a text, if the headers say that it is some. */
export function jsonIn(headers: Headers, text: string): unknown {
  if (!(headers.get("content-type") ?? "").includes("json")) return undefined;
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** The same answer with another body. */
export function copyOf(response: Response, body: BodyInit | null, url: string): Response {
  const { status, statusText, headers } = response;
  const copy = new Response(BODILESS.includes(status) ? null : body, { status, statusText, headers });
  Object.defineProperty(copy, "url", { value: url, configurable: true });
  return copy;
}

/** Lets an answer go that nobody reads: its connection is free for others then. */
export async function drop(response: Response): Promise<void> {
  // What fails is about bytes that nobody wants.
  await response.body?.cancel().catch(() => undefined);
}

/** Ends an attempt when nothing comes for too long, or when the caller's signal says so. */
class Deadline {
  readonly #controller = new AbortController();
  readonly #outer: AbortSignal | null;
  readonly #millis: number | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(outer: AbortSignal | null, millis: number | undefined) {
    this.#outer = outer;
    this.#millis = millis;
    if (outer?.aborted) this.#controller.abort(outer.reason);
    outer?.addEventListener("abort", this.#abort, { once: true });
  }

  get signal(): AbortSignal {
    return this.#controller.signal;
  }

  /** Somebody waits for the next bytes from now on. */
  start(): void {
    this.pause();
    if (this.#millis === undefined) return;
    const late = () => this.#controller.abort(new TimedOut(`Nothing came for ${this.#millis} ms.`));
    this.#timer = setTimeout(late, this.#millis);
  }

  /** Nobody waits now. */
  pause(): void {
    clearTimeout(this.#timer);
  }

  /** The attempt is over. */
  end(): void {
    this.pause();
    this.#outer?.removeEventListener("abort", this.#abort);
  }

  /** The attempt has failed: why, in our words. */
  told(failure: unknown): unknown {
    this.end();
    return this.signal.aborted ? this.signal.reason : toldOf(failure);
  }

  readonly #abort = () => this.#controller.abort(this.#outer?.reason);
}

/** The body of an answer. If it is cut, that is an error of ours. */
function guarded(body: ReadableStream<Uint8Array>, deadline: Deadline): ReadableStream<Uint8Array> {
  const reader = body.getReader();
  deadline.pause();
  return new ReadableStream<Uint8Array>(
    {
      pull: async (out) => {
        deadline.start();
        try {
          const { done, value } = await reader.read();
          deadline.pause();
          if (!done) return out.enqueue(value);
        } catch (failure) {
          return out.error(deadline.told(failure));
        }
        deadline.end();
        out.close();
      },
      cancel: async (reason) => {
        deadline.end();
        await reader.cancel(reason);
      },
    },
    { highWaterMark: 0 },
  );
}

function toldOf(failure: unknown): TransportFailure | LandfastError {
  if (failure instanceof LandfastError) return failure;
  const codes: string[] = [];
  let cause = failure;
  for (let depth = 0; depth < CAUSES_MAX && typeof cause === "object" && cause !== null; depth += 1) {
    const { code, cause: next } = cause as { code?: unknown; cause?: unknown };
    if (typeof code === "string") codes.push(code);
    cause = next;
  }
  const text = [String(failure), ...codes].join(" ");
  if (codes.some((code) => NOT_CONNECTED.includes(code) || NOT_TRUSTED.test(code))) {
    return new Unreachable(text, { cause: failure });
  }
  const isRefused = codes.includes("ERR_INVALID_URL") || (failure as Error)?.cause?.toString() === "Error: bad port";
  if (isRefused) return new Misused(text, { cause: failure });
  const isLate = codes.some((code) => LATE.includes(code));
  return isLate ? new TimedOut(text, { cause: failure }) : new Broken(text, { cause: failure });
}

function textOf(parts: readonly Uint8Array[]): string {
  const decoder = new TextDecoder();
  return parts.map((part) => decoder.decode(part, { stream: true })).join("") + decoder.decode();
}
