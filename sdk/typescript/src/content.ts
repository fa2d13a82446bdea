/**
 * How far a file's content has come, without waiting for anything: which version it is of, and where it goes on.
 *
 * Connections come and go; what the next one brings is of the same version, or all that came is void.
 *
 * @module
 */

import { FileChanged } from "./errors.js";
import { type LandfastError, ProtocolFailure } from "./failure.js";

/** How often a content is begun anew: a file that is another one at each of so many cuts is written all the time. */
export const RESTARTS = 8;

/** The bookkeeping of a file, or of its bytes from `start` to before `end`, over any number of answers. */
export class Content {
  readonly #start: number;
  readonly #end: number | undefined;
  #restarts: number;
  #hasBegun = false;
  #version: string | undefined;
  #at: number;

  constructor(start: number, end: number | undefined, restarts: number) {
    this.#start = start;
    this.#end = end;
    this.#restarts = restarts;
    this.#at = start;
  }

  /** The offset of the next byte; it goes back when what came is void. */
  get at(): number {
    return this.#at;
  }

  /** What the next request says. */
  headers(): Record<string, string> {
    const headers: Record<string, string> = {};
    if (this.#at > 0 || this.#end !== undefined) {
      headers["Range"] = `bytes=${this.#at}-${this.#end === undefined ? "" : this.#end - 1}`;
    }
    if (this.#at > this.#start && this.#version !== undefined) headers["If-Range"] = this.#version;
    return headers;
  }

  /**
   * Takes the head of an answer, and says whether its body goes on at `at`; if not, ask anew.
   *
   * Throws `FileChanged` if it is of another version, and `ProtocolFailure` for what was not asked for.
   */
  begin(status: number, headers: Headers): boolean {
    this.#hasBegun = true;
    // An offset in what somebody in between has compressed is none in the file.
    const version = headers.has("content-encoding") ? undefined : strong(headers.get("etag"));
    if (this.#at > this.#start && (status !== 206 || version !== this.#version)) {
      this.#void(new FileChanged("It was replaced while it was read."));
      if (this.#start > 0 || this.#end !== undefined || status !== 200) return false;
    }
    const first = /^bytes (\d+)-/.exec(headers.get("content-range") ?? "")?.[1];
    if (status === 206 && first !== String(this.#at)) {
      throw new ProtocolFailure(`The content begins at ${first ?? "no offset"}, and not at ${this.#at}.`);
    }
    this.#version = version;
    return true;
  }

  /** Takes so many bytes of the body. */
  take(count: number): void {
    this.#at += count;
  }

  /** Takes that the connection is gone. Throws the failure if what came cannot be gone on with, nor begun anew. */
  lose(failure: LandfastError): void {
    if (!this.#hasBegun) throw failure;
    if (this.#at > this.#start && this.#version === undefined) this.#void(failure);
  }

  #void(failure: LandfastError): void {
    if (this.#restarts === 0) throw failure;
    this.#restarts -= 1;
    this.#at = this.#start;
  }
}

/** A name that no other version has (RFC 9110, section 8.8.1); undefined if it may be two versions' name, or is none. */
function strong(etag: string | null): string | undefined {
  return etag?.startsWith('"') ? etag : undefined;
}
