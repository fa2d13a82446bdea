/**
 * The client: one cell, one API key.
 *
 * @module
 */

import { type Abortable, Caller } from "./caller.js";
import { type DirectInit, directFetch } from "./direct.js";
import { Misused } from "./failure.js";
import { type Forward, type ForwardOptions, openForward } from "./forward.js";
import type { Where } from "./gateways.js";
import { type Instance, Instances } from "./instances.js";
import { plain } from "./names.js";
import { RETRIES } from "./retry.js";
import type { RouteCache } from "./routes.js";
import { apiKeyOf, gatewaysOf } from "./settings.js";
import type { WebSocketConstructor } from "./socket.js";
import type { Fetch } from "./wire.js";

/** How a client is made. */
export interface LandfastOptions {
  /**
   * Where the cell is; `LANDFAST_URL`, or where `landfast up` has listened on this machine, if not said. Several, in a list
   * or with commas between them, are gateways of one cell, any of which goes on with what another began.
   */
  url?: Where;
  /** The API key; `LANDFAST_API_KEY`, or that of this machine's own cell, if not said. */
  apiKey?: string;
  /** The sub-resources that are asked for at the instance itself; as `LANDFAST_DIRECT` says if not said here. */
  direct?: Iterable<string>;
  /** Further attempts; 2 if not said. */
  retries?: number;
  /** What requests are sent with; `globalThis.fetch` if not said. */
  fetch?: Fetch;
  /** What makes WebSockets; `globalThis.WebSocket`, or that of the `ws` package, if not said. */
  WebSocket?: WebSocketConstructor;
  /** The memory of routes, which others may share. */
  routes?: RouteCache;
}

/**
 * A client of one cell. It holds nothing that has to be closed.
 *
 * Every method throws `LandfastError`, or the reason of its signal. Calls that failed because nothing was started are made
 * again before that, and so are those that may run twice.
 */
export class Landfast {
  /** Makes, finds and lists instances. */
  readonly instances: Instances;
  readonly #options: LandfastOptions;
  readonly #caller: Caller;

  constructor(options: LandfastOptions = {}) {
    const gateways = gatewaysOf(options.url);
    const { direct, routes, fetch, retries = RETRIES } = options;
    const routed = directFetch(gateways, {
      retries,
      ...(direct === undefined ? {} : { direct }),
      ...(routes === undefined ? {} : { routes }),
      ...(fetch === undefined ? {} : { fetch }),
    });
    this.#options = options;
    this.#caller = new Caller(gateways, apiKeyOf(options.apiKey), routed, options.WebSocket);
    this.instances = new Instances(this.#caller);
  }

  /** Where the cell is; several gateways with commas between them. */
  get url(): string {
    return this.#caller.gateways.urls.join(",");
  }

  /** The routes that are known. */
  get routes(): RouteCache {
    return this.#caller.routes;
  }

  /** Makes another client of this cell that shares the known routes. */
  copy(options: Omit<LandfastOptions, "url" | "apiKey" | "routes"> = {}): Landfast {
    const { apiKey } = this.#caller;
    return new Landfast({ ...this.#options, ...options, url: this.url, apiKey, routes: this.routes });
  }

  /** Sends a request with the API key and all of the routing: for what this package has no word for. */
  async fetch(path: `/v1/${string}`, init: DirectInit = {}): Promise<Response> {
    if (!path.startsWith("/v1/")) throw new Misused("A path of the API begins with /v1/.");
    return this.#caller.fetch(path, init);
  }

  /** Takes the access token of this id back; what uses it ends. Safe to repeat. */
  async revokeToken(token: string, options: Abortable = {}): Promise<void> {
    await this.#caller.call("DELETE", `/tokens/${plain(token)}`, options);
  }

  /**
   * Opens a port of this machine that leads to a service, a port or `cdp` in an instance, over everything in between.
   *
   * Returns once it listens; `stop` it, or declare it with `await using`. It runs the `landfast` program. Throws `Misused`
   * if there is none, and `Unreachable`.
   */
  async forward(instance: string | Instance, place: string, options: ForwardOptions = {}): Promise<Forward> {
    const { apiKey } = this.#caller;
    const id = plain(typeof instance === "string" ? instance : instance.id);
    return openForward({ url: this.url, apiKey, instance: id, place }, options);
  }
}
