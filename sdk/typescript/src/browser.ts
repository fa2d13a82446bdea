/**
 * The browser that an instance of kind `browser` is.
 *
 * @module
 */

import { type Abortable, type Caller, CONNECT_SECONDS } from "./caller.js";
import { ProtocolFailure } from "./failure.js";
import { type BrowserRecord, readBrowser, readInstance } from "./records.js";

/** Seconds that a call that starts Chromium may take: a start may take 90. */
const START_SECONDS = 120;

/** How a picture is taken. */
export interface ScreenshotOptions extends Abortable {
  /** `png` if not said. */
  format?: "png" | "jpeg" | "webp";
  /** From 0 to 100, of a jpeg or webp. */
  quality?: number;
  fullPage?: boolean;
  /** The id of the target; the page that was opened last if not said. */
  target?: string;
}

/** The browser of one instance. Its events are among the instance's. */
export class Browser {
  readonly #caller: Caller;
  readonly #instance: string;
  readonly #path: string;

  constructor(caller: Caller, instance: string) {
    this.#caller = caller;
    this.#instance = instance;
    this.#path = `/instances/${instance}/browser`;
  }

  /** Asks how it is. Safe to repeat. Throws `ServiceUnknown` if the instance is no browser. */
  async state(options: Abortable = {}): Promise<BrowserRecord> {
    return readBrowser(await this.#caller.json("GET", this.#path, { direct: true, ...options }));
  }

  /** Starts it anew, and returns once it is up; its pages are lost. Who asks meanwhile shares the restart. */
  async restart(options: Abortable = {}): Promise<BrowserRecord> {
    const ask = { direct: true, seconds: START_SECONDS, ...options };
    return readBrowser(await this.#caller.json("POST", `${this.#path}/restart`, ask));
  }

  /** Sets the flags of Chromium's command line, and returns once it is up with them. Safe to repeat. */
  async setFlags(flags: readonly string[], options: Abortable = {}): Promise<BrowserRecord> {
    const ask = { body: { flags }, direct: true, seconds: START_SECONDS, ...options };
    return readBrowser(await this.#caller.json("PATCH", `${this.#path}/flags`, ask));
  }

  /** Takes a picture of the page that was opened last, or of the target. Safe to repeat. */
  async screenshot(options: ScreenshotOptions = {}): Promise<Uint8Array> {
    const { format = "png", quality, fullPage, target, signal } = options;
    const params = { format, quality, full_page: fullPage ? true : undefined, target };
    const ask = { params, direct: true, seconds: START_SECONDS + CONNECT_SECONDS, signal };
    return this.#caller.bytes("GET", `${this.#path}/screenshot`, ask);
  }

  /**
   * The URL for Playwright (`connectOverCDP`), Puppeteer and other clients of CDP, with a fresh token in it.
   *
   * Whoever has it has the browser, for an hour; what is connected by then stays connected. Throws `ProtocolFailure` if
   * the instance is no browser, or has ended.
   */
  async cdpUrl(options: Abortable = {}): Promise<string> {
    const record = readInstance(await this.#caller.json("GET", `/instances/${this.#instance}`, options));
    if (record.cdpUrl !== undefined) return record.cdpUrl;
    throw new ProtocolFailure("The instance has no CDP URL: it is no browser, or it has ended.");
  }
}
