/**
 * One call each: sends it, waits for the whole answer, and turns a no into an error.
 *
 * @module
 */

import type { DirectFetch, DirectInit } from "./direct.js";
import { fromAnswer, ProtocolFailure, TABLE } from "./errors.js";
import type { Gateways } from "./gateways.js";
import { readInstance } from "./records.js";
import type { Route, RouteCache } from "./routes.js";
import type { WebSocketConstructor } from "./socket.js";

/** Seconds that an ordinary call may take: longer than the control plane waits for a moving instance. */
export const DEADLINE_SECONDS = 30;

/** Seconds that a connection may take to be made. */
export const CONNECT_SECONDS = 10;

/** How an instance has ended, as an error. */
const ENDS: Readonly<Record<string, string>> = {
  stopped: "instance.stopped",
  failed: "instance.failed",
  lost: "instance.lost",
  deleted: "instance.gone",
};

/** What goes into a query; what is undefined is not said. */
export type Params = Record<string, string | number | boolean | readonly string[] | Uint8Array | undefined>;

/** What every method takes. */
export interface Abortable {
  /** Gives up once it is aborted; what was thrown then is its reason. What was begun may have run. */
  signal?: AbortSignal | undefined;
}

/** What one call asks for. */
export interface Ask extends Abortable {
  /** Is sent as JSON. */
  body?: unknown;
  /** Is sent as it is. */
  content?: Uint8Array | string | Blob | ReadableStream<Uint8Array> | undefined;
  params?: Params | undefined;
  headers?: Record<string, string> | undefined;
  /** Only the instance itself can answer. */
  direct?: boolean;
  /** Seconds without a byte after which it is given up. */
  seconds?: number;
}

/** Makes calls with one API key. */
export class Caller {
  readonly gateways: Gateways;
  readonly webSocket: WebSocketConstructor | undefined;
  readonly #apiKey: string;
  readonly #fetch: DirectFetch;

  constructor(gateways: Gateways, apiKey: string, fetch: DirectFetch, webSocket: WebSocketConstructor | undefined) {
    this.gateways = gateways;
    this.webSocket = webSocket;
    this.#apiKey = apiKey;
    this.#fetch = fetch;
  }

  /** The routes that are known. */
  get routes(): RouteCache {
    return this.#fetch.routes;
  }

  /** The API key, for a program of ours. */
  get apiKey(): string {
    return this.#apiKey;
  }

  /** A plain `fetch` of a path, with the API key. */
  async fetch(path: string, init: DirectInit = {}): Promise<Response> {
    const headers = new Headers({ Authorization: `Bearer ${this.#apiKey}`, "User-Agent": "landfast-typescript" });
    for (const [name, value] of new Headers(init.headers)) headers.set(name, value);
    const landfast = { timeout: DEADLINE_SECONDS * 1000, ...init.landfast };
    return this.#fetch(`${this.gateways.first}${path}`, { ...init, headers, landfast });
  }

  /** Makes a call below `/v1` and returns its whole answer. Throws `LandfastError` if that is a no, or none comes. */
  async call(method: string, path: string, ask: Ask = {}): Promise<Response> {
    const { body, content, params, headers, direct = false, seconds = DEADLINE_SECONDS, signal } = ask;
    const said = body === undefined ? content : JSON.stringify(body);
    const response = await this.fetch(`/v1${path}${queryOf(params)}`, {
      method,
      headers: { ...(body === undefined ? {} : { "Content-Type": "application/json" }), ...headers },
      ...(said === undefined ? {} : { body: said as BodyInit }),
      signal: signal ?? null,
      landfast: { direct, whole: true, timeout: seconds * 1000 },
    });
    if (!response.ok) throw fromAnswer(response.status, response.headers, await response.text());
    return response;
  }

  /** Makes a call and reads the JSON of its answer. */
  async json(method: string, path: string, ask: Ask = {}): Promise<unknown> {
    return jsonOf(await this.call(method, path, ask));
  }

  /** Makes a call and returns the bytes of its answer. */
  async bytes(method: string, path: string, ask: Ask = {}): Promise<Uint8Array> {
    return new Uint8Array(await (await this.call(method, path, ask)).arrayBuffer());
  }

  /** Opens an answer that lasts; it is broken when nothing comes for `seconds`. */
  async stream(path: string, { params, headers, seconds = DEADLINE_SECONDS, signal }: Ask): Promise<Response> {
    const response = await this.fetch(`/v1${path}${queryOf(params)}`, {
      headers: { ...headers },
      signal: signal ?? null,
      landfast: { direct: true, timeout: seconds * 1000 },
    });
    if (!response.ok) throw fromAnswer(response.status, response.headers, await response.text());
    return response;
  }

  /** Where an instance is reached. Throws how the instance ended. */
  async route(instance: string, signal?: AbortSignal): Promise<Route> {
    const known = this.routes.get(instance);
    if (known !== undefined) return known;
    const record = readInstance(await this.json("GET", `/instances/${instance}`, { signal }));
    const learnt = this.routes.get(instance);
    if (learnt !== undefined) return learnt;
    const End = TABLE.get(ENDS[record.phase] ?? "") ?? ProtocolFailure;
    throw new End(record.reason ?? "The instance has no access token.");
  }
}

/** Reads the JSON of an answer. Throws `ProtocolFailure` if it is none. */
export async function jsonOf(response: Response): Promise<unknown> {
  const text = await response.text();
  try {
    return JSON.parse(text);
  } catch (cause) {
    throw new ProtocolFailure(`The answer is no JSON: ${String(cause)}.`, { cause });
  }
}

/** The parts of an answer as they come. Who leaves the loop ends the answer. */
export async function* partsOf(response: Response): AsyncGenerator<Uint8Array, void, undefined> {
  const reader = response.body?.getReader();
  try {
    for (let part = await reader?.read(); part?.value !== undefined; part = await reader?.read()) yield part.value;
  } finally {
    // What fails is about bytes that nobody wants any more.
    reader?.cancel().catch(() => undefined);
  }
}

/** A query; what is undefined is not in it. A path of a file may be bytes. */
export function queryOf(params: Params = {}): string {
  const pairs = Object.entries(params).flatMap(([name, value]) => {
    const values = value === undefined ? [] : Array.isArray(value) ? value : [value];
    return values.map((one) => `${name}=${quoted(one)}`);
  });
  return pairs.length === 0 ? "" : `?${pairs.join("&")}`;
}

function quoted(value: string | number | boolean | Uint8Array): string {
  if (!(value instanceof Uint8Array)) return encodeURIComponent(value);
  return [...value].map((byte) => `%${byte.toString(16).padStart(2, "0")}`).join("");
}
