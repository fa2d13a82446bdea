/**
 * Whether and when a failed request is sent again.
 *
 * Only the error table allows it. A status alone says nothing: a 503 that a program wrote may have done its work first.
 *
 * @module
 */

import type { Retry } from "./failure.js";
import { TABLE } from "./table.js";

/** Further attempts: enough for a restarted gateway, few enough that a person still waits for the answer. */
export const RETRIES = 2;

/** The pauses of our own choosing, in milliseconds: the first one, which doubles, and the longest. */
export const PAUSES = { first: 500, longest: 8_000 };

/** The longest pause a server may ask for, in milliseconds; beyond it the caller hears the refusal instead. */
export const LONGEST_ASKED = 60_000;

const IDEMPOTENT_METHODS: readonly string[] = ["GET", "HEAD", "PUT", "DELETE"];

/** How often one call was made again. */
export class Retries {
  readonly #most: number;
  #made = 0;

  constructor(most: number = RETRIES) {
    this.#most = most;
  }

  /** The milliseconds to wait before the call is made again, or undefined to give up. */
  after(retry: Retry, isIdempotent: boolean, asked?: number): number | undefined {
    const isAllowed = retry === "safe" || (retry === "if idempotent" && isIdempotent);
    if (!isAllowed || this.#made >= this.#most) return undefined;
    if (asked !== undefined && asked > LONGEST_ASKED) return undefined;
    const pause = asked ?? pauseBefore(this.#made);
    this.#made += 1;
    return pause;
  }
}

/** The milliseconds before the retry of this number, from 0: doubling, less up to a quarter so that callers spread. */
export function pauseBefore(attempt: number): number {
  return Math.min(PAUSES.first * 2 ** Math.min(attempt, 10), PAUSES.longest) * (1 - Math.random() / 4);
}

/** Whether the request may run twice. */
export function isIdempotent(method: string, headers: Headers): boolean {
  return IDEMPOTENT_METHODS.includes(method) || headers.has("idempotency-key");
}

/** What the error table says of an answer; nothing is sent again on any other word. */
export function saidBy(headers: Headers): Retry {
  return TABLE.get(headers.get("landfast-error") ?? "")?.row.retry ?? "never";
}

/** The milliseconds for which the server asks to wait. */
export function askedBy(headers: Headers): number | undefined {
  const millis = numberOf(headers.get("retry-after-ms"));
  if (millis !== undefined) return millis;
  const text = headers.get("retry-after");
  const seconds = numberOf(text);
  if (seconds !== undefined) return seconds * 1000;
  // A date has letters; what has none is a number that makes no sense.
  const date = text !== null && /[a-z]/i.test(text) ? Date.parse(text) : Number.NaN;
  return Number.isNaN(date) ? undefined : Math.max(date - Date.now(), 0);
}

/** Waits. Rejects with the signal's reason once that is aborted. */
export async function sleep(millis: number, signal?: AbortSignal | null): Promise<void> {
  signal?.throwIfAborted();
  await new Promise<void>((resolve, reject) => {
    const abort = () => {
      clearTimeout(timer);
      reject(signal?.reason);
    };
    const timer = setTimeout(() => {
      signal?.removeEventListener("abort", abort);
      resolve();
    }, millis);
    signal?.addEventListener("abort", abort, { once: true });
  });
}

function numberOf(text: string | null): number | undefined {
  if (text === null || !/^\s*\d+(\.\d+)?\s*$/.test(text)) return undefined;
  return Number(text);
}
