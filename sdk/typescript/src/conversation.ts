/**
 * What an attachment knows, without waiting for anything: how far into the output log it is, and what was told already.
 *
 * Connections come and go; a new one begins where this count stands, so the caller gets every byte once.
 *
 * @module
 */

import { ProtocolFailure } from "./failure.js";

export const SUBPROTOCOL = "landfast.process.v1";

/** Where an attachment begins: with the oldest output, with what comes next, with a redraw, or at an offset. */
export type Start = "start" | "now" | "screen" | number;

/** What a process said next. A redraw of the screen is output of the terminal too. */
export interface Output {
  readonly type: "output";
  /** A terminal has one: `stdout`. */
  readonly stream: "stdout" | "stderr";
  readonly data: Uint8Array;
}

/** Everything before this was said before the attachment began; what follows is live. Told once. */
export interface ReplayEnd {
  readonly type: "replayEnd";
  /** The offset of the next byte in the output log. */
  readonly offset: number;
}

/** Output that is no longer kept and cannot be had. */
export interface Gap {
  readonly type: "gap";
  /** The offset of the first byte lost. */
  readonly start: number;
  /** The offset of the first byte after the loss. */
  readonly end: number;
}

/**
 * Some input may not have reached the process: it was under way when the connection ended.
 *
 * It is not sent again, because that could type it twice.
 */
export interface InputUnsure {
  readonly type: "inputUnsure";
}

/** The process has exited. Told once, and last. */
export interface Exited {
  readonly type: "exited";
  /** As a shell says it: its exit code, or 128 and the signal's number. */
  readonly status: number;
}

/** What an attachment tells. */
export type ProcessEvent = Output | ReplayEnd | Gap | InputUnsure | Exited;

/** The bookkeeping of one attachment over any number of connections. */
export class Conversation {
  readonly #start: Start;
  #offset: number | undefined;
  #exit: Exited | undefined;
  #isRedrawing: boolean;
  #hasReplayed = false;

  constructor(start: Start) {
    this.#start = start;
    this.#offset = start === "start" ? 0 : typeof start === "number" ? start : undefined;
    this.#isRedrawing = start === "screen";
  }

  /** The offset of the next output byte; undefined until the agent tells. */
  get offset(): number | undefined {
    return this.#offset;
  }

  /** How the process ended, once that was told. */
  get exit(): Exited | undefined {
    return this.#exit;
  }

  /** Where the next connection has to begin. */
  get resumeFrom(): Start {
    return this.#offset ?? this.#start;
  }

  /** A new connection begins there. */
  connected(): void {
    this.#isRedrawing = this.resumeFrom === "screen";
  }

  /** Takes the next message. Throws `ProtocolFailure` for what no agent says. */
  take(message: string | Uint8Array): ProcessEvent | undefined {
    if (typeof message === "string") {
      this.#checkNote(message);
      return undefined;
    }
    const [channel] = message;
    const payload = message.subarray(1);
    switch (channel) {
      case 0x01:
      case 0x02:
        return this.#output(channel === 0x01 ? "stdout" : "stderr", payload);
      case 0x03:
        return this.#exited(payload);
      case 0x04:
        return this.#replayed(payload);
      case 0x05:
        return this.#gap(payload);
      default:
        throw new ProtocolFailure(`A frame of the unknown channel ${channel}.`);
    }
  }

  #checkNote(text: string): void {
    const offset = noteIn(text)["offset"];
    if (offset === undefined || this.#offset === undefined || this.#isRedrawing || offset === this.#offset) return;
    throw new ProtocolFailure(`The agent is at offset ${offset} of the output, and we are at ${this.#offset}.`);
  }

  #output(stream: Output["stream"], data: Uint8Array): Output {
    if (this.#offset !== undefined && !this.#isRedrawing) this.#offset += data.length;
    return { type: "output", stream, data };
  }

  #exited(payload: Uint8Array): Exited {
    const status = view(payload, 4).getInt32(0);
    if (this.#exit !== undefined) throw new ProtocolFailure("A second exit.");
    this.#exit = { type: "exited", status };
    return this.#exit;
  }

  #replayed(payload: Uint8Array): ReplayEnd | undefined {
    const offset = Number(view(payload, 8).getBigUint64(0));
    this.#offset = offset;
    this.#isRedrawing = false;
    const isFirst = !this.#hasReplayed;
    this.#hasReplayed = true;
    return isFirst ? { type: "replayEnd", offset } : undefined;
  }

  #gap(payload: Uint8Array): Gap {
    const numbers = view(payload, 16);
    const [start, end] = [Number(numbers.getBigUint64(0)), Number(numbers.getBigUint64(8))];
    this.#offset = end;
    return { type: "gap", start, end };
  }
}

/** What a text message says. Throws `ProtocolFailure` if it is no JSON object. */
export function noteIn(text: string): Record<string, unknown> {
  try {
    const note: unknown = JSON.parse(text);
    if (typeof note === "object" && note !== null && !Array.isArray(note)) return note as Record<string, unknown>;
  } catch {
    // Told below, as all that is no object.
  }
  throw new ProtocolFailure("A note that is no JSON object.");
}

function view(payload: Uint8Array, size: number): DataView {
  if (payload.length !== size) throw new ProtocolFailure(`A frame of ${payload.length} bytes where ${size} belong.`);
  return new DataView(payload.buffer, payload.byteOffset, payload.length);
}
