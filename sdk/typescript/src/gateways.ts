/**
 * Which of several gateways is asked next.
 *
 * Any gateway of a cell goes on with what another began. So one that cannot be reached, or that is shutting down, is left
 * for the next at once: it took nothing. Anything else may have been started, and is left to the rules for repeating.
 *
 * @module
 */

import { Misused } from "./failure.js";

/** Milliseconds for which one that failed is asked after all others; it doubles with each failure. */
const REST = 1_000;

/** The longest such rest, in milliseconds. */
const LONGEST_REST = 30_000;

/** Milliseconds for which one that is shutting down is asked after all others: so long it may take. */
const DRAINING_REST = 30_000;

/** How far a rest is spread in each direction. */
const JITTER = 0.2;

/** Refusals that another gateway may not give: this one can be the one that is cut off. */
const SUSPECTS: readonly (string | null)[] = ["node.unreachable", "registry.unavailable"];

/** What one says that is shutting down: it took nothing. */
export const DRAINING = "gateway.draining";

/** Where a cell is: a URL, several with commas between them, or a list of the gateways of one cell. */
export type Where = string | URL | readonly (string | URL)[];

interface Rest {
  readonly failures: number;
  readonly since: number;
  readonly until: number;
}

/** The gateways of one cell, and how they have fared. */
export class Gateways {
  /** Where they are, without a slash at the end. */
  readonly urls: readonly string[];
  readonly #bases: readonly URL[];
  readonly #now: () => number;
  readonly #rests = new Map<number, Rest>();
  #last = 0;

  /** Reads where they are. Throws `Misused`. */
  constructor(where: Where, now: () => number = () => performance.now()) {
    const listed = typeof where === "string" ? where.split(",") : where instanceof URL ? [where] : where;
    const urls = listed.map((url) => url.toString().trim().replace(/\/+$/, "")).filter((url) => url !== "");
    for (const url of urls) {
      if (!URL.canParse(url) || !/^https?:\/\//.test(url))
        throw new Misused(`${url} is no URL of a cell: http://HOST:PORT.`);
    }
    if (urls.length === 0) throw new Misused("No gateway is named: give http://HOST:PORT, or several.");
    this.urls = [...new Set(urls)];
    this.#bases = this.urls.map((url) => new URL(url));
    this.#now = now;
  }

  /** The first one: requests are addressed to it, whichever is asked. */
  get first(): string {
    return this.urls[0] ?? "";
  }

  /**
   * The same URL at each gateway, in the order in which they are asked; itself if it leads to none of them.
   *
   * Who answered last comes first, then the others at random, and behind them who failed lately, longest ago first.
   */
  order(url: URL): URL[] {
    const from = this.#find(url);
    if (from === undefined || this.urls.length === 1) return [url];
    const numbers = shuffled([...this.urls.keys()]).sort((one, other) => this.#turn(one) - this.#turn(other));
    return numbers.map((to) => this.#moved(url, from, to));
  }

  /** The gateway of this URL has answered. */
  answered(url: URL): void {
    const found = this.#find(url);
    if (found === undefined) return;
    this.#rests.delete(found);
    this.#last = found;
  }

  /** The gateway of this URL may be at fault, or is shutting down. */
  failed(url: URL, isDraining = false): void {
    const found = this.#find(url);
    if (found === undefined) return;
    const failures = (this.#rests.get(found)?.failures ?? 0) + 1;
    const rest = isDraining ? DRAINING_REST : Math.min(REST * 2 ** Math.min(failures - 1, 10), LONGEST_REST);
    const since = this.#now();
    const until = since + rest * (1 - JITTER + 2 * JITTER * Math.random());
    this.#rests.set(found, { failures, since, until });
  }

  /** Notes what a gateway has answered; says whether it took nothing, so that the next may be asked at once. */
  judge(url: URL, code: string | null): boolean {
    if (code === DRAINING || SUSPECTS.includes(code)) {
      this.failed(url, code === DRAINING);
    } else {
      this.answered(url);
    }
    return code === DRAINING;
  }

  /** Whether the URL leads to a gateway, and one of them has not failed lately. */
  hasFresh(url: URL): boolean {
    return this.#find(url) !== undefined && [...this.urls.keys()].some((number) => !this.#isResting(number));
  }

  /** The same URL, if both lead to gateways, as if the gateway of the other had said it. */
  like(text: string, url: URL): string {
    if (!URL.canParse(text)) return text;
    const said = new URL(text);
    const [from, to] = [this.#find(said), this.#find(url)];
    return from === undefined || to === undefined ? text : this.#moved(said, from, to).href;
  }

  #isResting(number: number): boolean {
    return this.#now() < (this.#rests.get(number)?.until ?? Number.NEGATIVE_INFINITY);
  }

  /** Where it stands in the order. */
  #turn(number: number): number {
    if (this.#isResting(number)) return this.#rests.get(number)?.since ?? 0;
    return number === this.#last ? Number.NEGATIVE_INFINITY : -Number.MAX_VALUE;
  }

  #find(url: URL): number | undefined {
    const found = this.#bases.findIndex(
      (base) => originOf(url) === originOf(base) && `${url.pathname}/`.startsWith(`${pathOf(base)}/`),
    );
    return found === -1 ? undefined : found;
  }

  #moved(url: URL, from: number, to: number): URL {
    const [old, base] = [this.#bases[from], this.#bases[to]];
    if (old === undefined || base === undefined || from === to) return url;
    const isSocket = url.protocol.startsWith("ws");
    const protocol = isSocket ? base.protocol.replace("http", "ws") : base.protocol;
    return new URL(`${protocol}//${base.host}${pathOf(base)}${url.pathname.slice(pathOf(old).length)}${url.search}`);
  }
}

function originOf(url: URL): string {
  return `${url.protocol.replace(/^ws/, "http")}//${url.host}`;
}

function pathOf(base: URL): string {
  return base.pathname.replace(/\/+$/, "");
}

/** Fisher and Yates. */
function shuffled(numbers: number[]): number[] {
  for (let last = numbers.length - 1; last > 0; last -= 1) {
    const other = Math.floor(Math.random() * (last + 1));
    [numbers[last], numbers[other]] = [numbers[other] as number, numbers[last] as number];
  }
  return numbers;
}
