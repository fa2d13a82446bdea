/**
 * Where instances are reached directly: a bounded memory that clients share.
 *
 * A route is knowledge that may be out of date at any time, so nobody is hurt by losing it, and it is only ever
 * forgotten by who can say which one turned out wrong.
 *
 * @module
 */

/** Instances of which one client remembers the route: a few megabytes. */
export const ROUTES_MAX = 10_000;

/** Where an instance is, and the access token for it. */
export interface Route {
  readonly baseUrl: string;
  readonly token: string;
}

/** The routes that are known, the least recently used one being forgotten first. */
export class RouteCache {
  readonly #most: number;
  // A map goes through its keys in the order in which they were put in: the first is the least recently used.
  readonly #routes = new Map<string, Route>();

  constructor(most: number = ROUTES_MAX) {
    this.#most = most;
  }

  /** How many are known. */
  get size(): number {
    return this.#routes.size;
  }

  /** Whether the route of an instance is known; that does not count as a use of it. */
  has(instance: string): boolean {
    return this.#routes.has(instance.trim());
  }

  /** The route of an instance, if it is known. */
  get(instance: string): Route | undefined {
    const key = instance.trim();
    const route = this.#routes.get(key);
    if (route !== undefined) this.put(key, route);
    return route;
  }

  /** Remembers a route, and forgets the oldest one if there are too many. */
  put(instance: string, route: Route): void {
    const key = instance.trim();
    this.#routes.delete(key);
    this.#routes.set(key, route);
    for (const oldest of this.#routes.keys()) {
      if (this.#routes.size <= this.#most) return;
      this.#routes.delete(oldest);
    }
  }

  /** Forgets the route of an instance; with `used`, only if it is still that one. */
  forget(instance: string, used?: Route): void {
    const key = instance.trim();
    const known = this.#routes.get(key);
    if (used === undefined || (known?.baseUrl === used.baseUrl && known.token === used.token)) this.#routes.delete(key);
  }

  /** Takes the routes out of the JSON of an instance, or of a page of them. */
  learn(answer: unknown): void {
    for (const instance of instancesOf(answer)) {
      const { id, base_url: url, token } = instance;
      const isOver = instance["deleted_at"] || instance["ended_at"] || instance["desired"] === "deleted";
      if (isOver || typeof id !== "string" || typeof url !== "string" || typeof token !== "string") continue;
      const route = { baseUrl: url.trim().replace(/\/+$/, ""), token: token.trim() };
      if (id.trim() !== "" && route.token !== "" && isUrl(route.baseUrl)) this.put(id, route);
    }
  }

  /** Says how many are known, and no token. */
  toJSON(): { routes: number } {
    return { routes: this.size };
  }
}

function instancesOf(answer: unknown): Record<string, unknown>[] {
  const items = isObject(answer) && Array.isArray(answer["items"]) ? answer["items"] : answer;
  return (Array.isArray(items) ? items : [items]).filter(isObject);
}

function isObject(value: unknown): value is Record<string, unknown> {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

function isUrl(text: string): boolean {
  return URL.canParse(text) && /^https?:$/.test(new URL(text).protocol);
}
