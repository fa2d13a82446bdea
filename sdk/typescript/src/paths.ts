/**
 * What a request to the control plane is about, read from its path; decided without sending anything.
 *
 * @module
 */

import { variable } from "./settings.js";

/** The sub-resources of an instance that its own agent answers. */
export const DIRECT: readonly string[] = [
  "browser",
  "devtools",
  "exec",
  "files",
  "json",
  "processes",
  "services",
  "telemetry",
];

/** The variable that names other ones, with commas between them; empty for none. */
export const DIRECT_VARIABLE = "LANDFAST_DIRECT";

/** What the control plane still knows of an instance that is gone. */
const FALLBACKS: readonly string[] = ["telemetry/events"];

/** The codes by which an instance says that it is gone. */
const GONE_CODES: readonly unknown[] = ["browser_gone", "instance.gone"];

/** What the control plane itself does with an instance. */
const OWN_POSTS: readonly string[] = ["acquire", "move", "release", "sleep", "stop", "tokens", "wake"];

/** A path of the control plane, taken apart. */
export class Target {
  /** The path below `/v1`, decoded. */
  readonly segments: readonly string[];
  /** What follows the instance's id, as it was written, with the query. */
  readonly tail: string;

  constructor(segments: readonly string[], tail = "") {
    this.segments = segments;
    this.tail = tail;
  }

  /** The id of the instance, if the path names one. */
  get instance(): string | undefined {
    return this.segments[0] === "instances" ? this.segments[1]?.trim() || undefined : undefined;
  }

  /** The sub-resource of the instance and what follows. */
  get below(): readonly string[] {
    return this.segments.slice(2);
  }

  /** Whether it is one of these sub-resources or in one, segment by segment. */
  isBelow(subresources: readonly string[]): boolean {
    const below = this.below;
    return subresources.some((name) => name.split("/").every((segment, at) => segment === below[at]));
  }

  /** Whether the control plane may still know it when the instance is gone. */
  get fallsBack(): boolean {
    return FALLBACKS.includes(this.below.join("/"));
  }

  /** Whether the answer holds instances with their routes: create, list, get, change, acquire. */
  hasRoutes(method: string): boolean {
    if (this.segments.at(-1) === "acquire") return method === "POST";
    if (this.segments.length === 1 && this.segments[0] === "instances") return method === "GET" || method === "POST";
    return this.instance !== undefined && this.below.length === 0 && (method === "GET" || method === "PATCH");
  }

  /** Whether its success means that the instance is no longer the caller's. */
  endsInstance(method: string): boolean {
    if (this.instance === undefined) return false;
    const below = this.below.join("/");
    return (method === "DELETE" && below === "") || (method === "POST" && below === "release");
  }

  /** Whether it is a POST of the control plane's own: what agents answer knows no such keys. */
  takesIdempotencyKey(method: string): boolean {
    const isCreate = this.segments.length === 1 && this.segments[0] === "instances";
    return method === "POST" && (isCreate || OWN_POSTS.includes(this.below.join("/")));
  }
}

/** Where the control plane is. */
export class ControlPlane {
  readonly url: URL;
  readonly #prefix: string;

  constructor(url: string | URL) {
    this.url = new URL(url);
    this.#prefix = `${this.url.pathname.replace(/\/+$/, "")}/v1/`;
  }

  /** Takes a URL of the control plane apart; undefined for every other URL. */
  target(url: URL): Target | undefined {
    if (url.origin !== this.url.origin || !url.pathname.startsWith(this.#prefix)) return undefined;
    const parts = url.pathname.slice(this.#prefix.length).split("/");
    const segments = parts.map(decoded);
    // Whoever reads such a path next may read it differently: not for an instance.
    if (segments.some((segment) => segment === "." || segment === "..")) return new Target([]);
    while (segments.at(-1) === "") segments.pop();
    return new Target(segments, parts.slice(2).join("/") + url.search);
  }

  /** The URL of an instance's record. */
  instance(instance: string): URL {
    return new URL(`${this.#prefix}instances/${encodeURIComponent(instance)}`, this.url);
  }
}

/** Where an instance answers what the target asks for. */
export function directUrl(baseUrl: string, target: Target): URL {
  return new URL(`${baseUrl}/${target.tail}`);
}

/** Whether a URL is one of the instance's own. */
export function isBelow(url: URL, baseUrl: string): boolean {
  const base = new URL(baseUrl);
  return url.origin === base.origin && `${url.pathname}/`.startsWith(`${base.pathname.replace(/\/+$/, "")}/`);
}

/** Whether an answer says that the instance is gone: only a code does, a bare 404 may be anything. */
export function isGone(status: number, problem: unknown): boolean {
  if ((status !== 404 && status !== 410) || typeof problem !== "object" || problem === null) return false;
  return !Array.isArray(problem) && GONE_CODES.includes((problem as Record<string, unknown>)["code"]);
}

/** The sub-resources to go directly to: as said, else as the variable says, else the usual ones. */
export function directSubresources(said: Iterable<string> | undefined): readonly string[] {
  const names = said ?? variable(DIRECT_VARIABLE)?.split(",") ?? DIRECT;
  return [...names].map((name) => name.trim().replace(/^\/+|\/+$/g, "")).filter((name) => name !== "");
}

function decoded(part: string): string {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}
