/** The cases that all SDKs share: reading them, playing their servers, and judging what came of them. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { parse } from "smol-toml";
import { type Route, RouteCache } from "../../src/routing.js";
import { SDK } from "./places.js";
import { type Headers, nowhere, type Said, type Seen, Server } from "./servers.js";

export const API_KEY = "the-api-key";

const FILES = ["routing", "fallback", "retries", "files"];
const WORDS = {
  case: "name known direct environment retries call control instance routes",
  call: "method path url headers body streams follows status answer takes error reads in_pieces start end",
  exchange: "status headers answer json cut silent same_key_as_before method path token body lacks has says",
};

export interface Call {
  method: string;
  path?: string;
  url?: string;
  headers?: Headers;
  body?: string;
  streams?: boolean;
  follows?: boolean;
  status?: number;
  answer?: string;
  takes?: number;
  error?: string;
  reads?: string;
  in_pieces?: boolean;
  start?: number;
  end?: number;
}

interface Exchange {
  status?: number;
  headers?: Headers;
  answer?: string;
  json?: unknown;
  cut?: "before" | "within";
  silent?: boolean;
  same_key_as_before?: boolean;
  method?: string;
  path?: string;
  token?: string;
  body?: string;
  lacks?: string[];
  has?: string[];
  says?: Headers;
}

export interface Case {
  name: string;
  known?: { id: string; token: string; base_url?: string }[];
  direct?: string[];
  environment?: Record<string, string>;
  retries?: number;
  call: Call[];
  control?: Exchange[];
  instance?: Exchange[];
  routes?: Record<string, string>;
}

type Name = "control" | "instance";

/** What a caller got. */
export interface Outcome {
  status?: number;
  answer?: string;
  error?: string;
}

/** Every case of every file, with the file's name before its own. */
export function allCases(): Case[] {
  return FILES.flatMap((file) => {
    const said = parse(readFileSync(`${SDK}/../cases/${file}.toml`, "utf8")) as unknown as { case: Case[] };
    return said.case.map((one) => ({ ...checked(one), name: `${file}: ${one.name}` }));
  });
}

/** One case: its two servers, and what they noticed. */
export class Play {
  readonly routes = new RouteCache();
  readonly faults: string[] = [];
  readonly #case: Case;
  readonly #places = new Map<string, string>();
  readonly #servers = new Map<Name, Server>();
  #end: () => void = () => undefined;
  readonly #over = new Promise<void>((resolve) => {
    this.#end = resolve;
  });

  private constructor(one: Case) {
    this.#case = one;
  }

  static async begin(one: Case): Promise<Play> {
    const play = new Play(one);
    for (const name of ["control", "instance"] as const) {
      const server = await Server.start((request) => play.#answer(name, request));
      play.#servers.set(name, server);
      play.#places.set(`{${name}}`, server.url);
    }
    play.#places.set("{nowhere}", await nowhere());
    for (const { id, token, base_url: url } of one.known ?? []) {
      play.routes.put(id, { baseUrl: play.#place(url ?? `{instance}/i/${id}`), token });
    }
    return play;
  }

  /** Where the control plane is. */
  get url(): string {
    return this.#place("{control}");
  }

  /** Where a call goes to. */
  urlOf(call: Call): string {
    return call.url === undefined ? `${this.url}${call.path}` : this.#place(call.url);
  }

  /** What the caller got is what it should get. */
  judgeCall(call: Call, outcome: Outcome, started: number): void {
    for (const key of ["status", "answer", "error"] as const) {
      if (call[key] !== undefined)
        assert.deepEqual(outcome[key], call[key], `the ${key} of ${JSON.stringify(outcome)}`);
    }
    assert.ok(performance.now() - started >= (call.takes ?? 0) * 1000, "the caller did not wait");
  }

  /** What the servers saw is what they should see, and the routes are what they should be. */
  async judge(): Promise<void> {
    assert.deepEqual(this.faults, []);
    for (const [name, server] of this.#servers) {
      const paths = server.seen.map((request) => request.path);
      assert.equal(paths.length, this.#case[name]?.length ?? 0, `${name} saw ${paths.join(" ")}`);
    }
    if (this.#case.routes === undefined) return;
    const names = new Set([...(this.#case.known ?? []).map(({ id }) => id), "ins_1", "ins_2", "ins_3"]);
    const known = [...names].map((name): [string, Route | undefined] => [name, this.routes.get(name)]);
    const tokens = known.flatMap(([name, route]) => (route === undefined ? [] : [[name, route.token]]));
    assert.deepEqual(Object.fromEntries(tokens), { ...this.#case.routes });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#end();
    for (const server of this.#servers.values()) await server.close();
  }

  #place(text: string): string {
    let placed = text;
    for (const [name, url] of this.#places) placed = placed.replaceAll(name, url);
    return placed;
  }

  async #answer(name: Name, request: Seen): Promise<Said | undefined> {
    const seen = this.#servers.get(name)?.seen ?? [];
    const exchange = this.#case[name]?.[seen.length - 1];
    if (exchange === undefined) {
      this.faults.push(`${name}: one request too many: ${request.method} ${request.path}`);
      return { status: 500 };
    }
    const faults = faultsOf(name, exchange, request, seen.at(-2));
    this.faults.push(...faults.map((fault) => `${name}, request ${seen.length}: ${fault}`));
    if (exchange.silent) await this.#over;
    return exchange.cut === "before" || exchange.silent ? undefined : this.#said(exchange);
  }

  #said({ status = 200, headers = {}, answer = "", json, cut }: Exchange): Said {
    const placed = Object.entries(headers).map(([key, value]) => [key, this.#place(value)]);
    const body = json === undefined ? answer : this.#place(JSON.stringify(json));
    const type =
      json === undefined ? {} : { "Content-Type": status >= 400 ? "application/problem+json" : "application/json" };
    const all: Headers = { ...type, ...Object.fromEntries(placed) };
    if (cut === "within") all["Content-Length"] ??= String(body.length + 1);
    return { status, headers: all, body };
  }
}

function faultsOf(name: Name, exchange: Exchange, request: Seen, before: Seen | undefined): string[] {
  const faults: string[] = [];
  for (const key of ["method", "path", "token", "body"] as const) {
    if (exchange[key] !== undefined && exchange[key] !== request[key]) faults.push(`its ${key} is ${request[key]}`);
  }
  const { headers } = request;
  faults.push(...(exchange.lacks ?? []).filter((header) => header in headers).map((header) => `it has ${header}`));
  faults.push(...(exchange.has ?? []).filter((header) => !(header in headers)).map((header) => `it lacks ${header}`));
  for (const [header, value] of Object.entries(exchange.says ?? {})) {
    if (headers[header.toLowerCase()] !== value) faults.push(`its ${header} is ${headers[header.toLowerCase()]}`);
  }
  if (exchange.same_key_as_before && headers["idempotency-key"] !== before?.headers["idempotency-key"]) {
    faults.push("its idempotency key is another one");
  }
  if (name === "instance" && request.raw.includes(API_KEY)) faults.push("it has the API key");
  if (name === "control" && ![API_KEY, ""].includes(request.token)) faults.push("it has an instance's token");
  return faults;
}

/** A word that is not known here would be a rule that is not tested. */
function checked(one: Case): Case {
  const exchanges = [...(one.control ?? []), ...(one.instance ?? [])];
  for (const [words, things] of [
    [WORDS.case, [one]],
    [WORDS.call, one.call],
    [WORDS.exchange, exchanges],
  ] as const) {
    for (const thing of things) {
      const unknown = Object.keys(thing).filter((key) => !words.split(" ").includes(key));
      assert.deepEqual(unknown, [], `words of the case ${one.name} that are not known`);
    }
  }
  return one;
}
