/**
 * Servers inside an instance.
 *
 * @module
 */

import type { Abortable, Caller } from "./caller.js";
import { innerPath, plain } from "./names.js";
import { itemsOf, readService, type ServiceRecord } from "./records.js";

/** The servers of one instance. */
export class Services {
  readonly #caller: Caller;
  readonly #instance: string;
  readonly #path: string;

  constructor(caller: Caller, instance: string) {
    this.#caller = caller;
    this.#instance = instance;
    this.#path = `/instances/${instance}/services`;
  }

  /** Lists them. Safe to repeat. */
  async list(options: Abortable = {}): Promise<ServiceRecord[]> {
    const answer = await this.#caller.json("GET", this.#path, { direct: true, ...options });
    return itemsOf(answer, "services").map(readService);
  }

  /** Starts one anew; returns once that was begun. Throws `ServiceUnknown`. */
  async restart(name: string, options: Abortable = {}): Promise<void> {
    await this.#caller.call("POST", `${this.#path}/${plain(name)}/restart`, { direct: true, ...options });
  }

  /** Reads what one has said, from this offset of its output log. Safe to repeat. */
  async output(name: string, start = 0, options: Abortable = {}): Promise<Uint8Array> {
    const ask = { params: { from: start }, direct: true, ...options };
    return this.#caller.bytes("GET", `${this.#path}/${plain(name)}/output`, ask);
  }

  /**
   * Sends a request to one, by its name or its port, and returns whatever it answers.
   *
   * Takes what `fetch` takes. A request that may have run is not sent again unless it is safe.
   */
  async request(name: string | number, method: string, path = "/", init: RequestInit = {}): Promise<Response> {
    const url = `/v1/instances/${this.#instance}/${plain(name)}/${innerPath(path)}`;
    return this.#caller.fetch(url, { ...init, method, landfast: { direct: true } });
  }

  /** Where one is, for other programs; they need a token (`Instance.createToken`). */
  async url(name: string | number, options: Abortable = {}): Promise<string> {
    const route = await this.#caller.route(this.#instance, options.signal);
    return `${route.baseUrl}/${plain(name)}/`;
  }
}
