/**
 * A WebSocket that is read like a queue, and how much of what was sent over it has arrived at its far end.
 *
 * Browsers' WebSockets can be neither pinged nor slowed down, nor do they take headers. So whoever sends asks for a mark
 * behind it, which the agent gives back; the agent sends no more than a window beyond what it was told is taken; and the
 * token goes as a subprotocol.
 *
 * @module
 */

import { ProtocolFailure, Unreachable, WebSocketMissing } from "./failure.js";

/** A WebSocket as browsers have it; those of the `ws` package can also be thrown away. */
export interface WebSocketLike {
  binaryType: string;
  readonly readyState: number;
  send(data: string | Uint8Array<ArrayBuffer>): void;
  close(code?: number): void;
  addEventListener(type: "open" | "error" | "close" | "message", listener: (event: never) => void): void;
  terminate?(): void;
}

/** What makes WebSockets: `globalThis.WebSocket`, or that of the `ws` package. */
export type WebSocketConstructor = new (url: string, protocols: string[], options?: object) => WebSocketLike;

/** What a connection says. */
export type Message = string | Uint8Array;

/** How a connection has ended; 1006 if nobody said. */
export interface Closed {
  readonly code: number;
  readonly reason: string;
}

/** Bytes of output that the agent sends beyond what was taken: enough for a long and wide way. */
export const WINDOW = 4 * 1024 * 1024;

/** Bytes that wait for being taken, far more than the window and what goes beside it. Who sends more than that is cut. */
const WAITING_MAX = 16 * 1024 * 1024;

/** Bytes that were sent and may not have arrived; beyond it who sends has to wait. */
const UNDERWAY_MAX = 1024 * 1024;

/** Bytes of one message: far more than the agent puts into one. */
const MESSAGE_MAX = 4 * 1024 * 1024;

/** Milliseconds of silence after which the far end is asked whether it is there, and for how long it may be silent then. */
const SILENCE = 20_000;

/** Milliseconds that the far end may take to say goodbye. */
const GOODBYE = 2_000;

/** Beside its length, what a message costs that waits. */
const MESSAGE_COST = 64;

const OPEN = 1;

const TOKEN_PREFIX = "landfast.token.";

/** Finds out what makes WebSockets here. Throws `WebSocketMissing` if nothing does. */
export async function webSocketHere(said: WebSocketConstructor | undefined): Promise<WebSocketConstructor> {
  const found = said ?? (globalThis.WebSocket as WebSocketConstructor | undefined);
  if (found !== undefined) return found;
  try {
    // Named by a variable, so that who bundles for browsers does not look for it.
    const name = "ws";
    return ((await import(name)) as { WebSocket: WebSocketConstructor }).WebSocket;
  } catch (cause) {
    throw new WebSocketMissing("", { cause });
  }
}

/** How a connection is made. */
export interface Dial {
  webSocket: WebSocketConstructor;
  url: string;
  subprotocol: string;
  /** The access token. */
  token: string;
  /** Milliseconds that it may take. */
  timeout: number;
  signal: AbortSignal;
}

/** A connection. */
export class Link {
  /** Whether the caller was told that input of this connection may be lost. */
  isDoubtTold = false;
  /** Whether it was ended because nothing came any more. */
  wasSilent = false;
  readonly #socket: WebSocketLike;
  readonly #waiting: Message[] = [];
  #waitingBytes = 0;
  #taken = 0;
  #closed: Closed | undefined;
  #lastMark = 0;
  readonly #underway = new Map<number, number>();
  #underwayBytes = 0;
  #changed = new Signal();
  #hasHeard = true;
  #isAsked = false;
  readonly #watch: ReturnType<typeof setInterval>;

  private constructor(socket: WebSocketLike) {
    this.#socket = socket;
    this.#watch = setInterval(() => this.#checkSilence(), SILENCE);
    // What keeps a program running is who waits, not who watches. Browsers have numbers for timers.
    (this.#watch as { unref?: () => void }).unref?.();
  }

  /** Connects. Throws `Unreachable`, for whatever reason, or the signal's reason. */
  static async open({ webSocket, url, subprotocol, token, timeout, signal }: Dial): Promise<Link> {
    signal.throwIfAborted();
    const options = { perMessageDeflate: false, maxPayload: MESSAGE_MAX };
    const socket = made(() => new webSocket(url, [subprotocol, `${TOKEN_PREFIX}${token}`], options));
    socket.binaryType = "arraybuffer";
    const link = new Link(socket);
    socket.addEventListener("message", ({ data }: { data: unknown }) => link.#take(data));
    socket.addEventListener("close", ({ code, reason }: Closed) => link.#end({ code, reason }));
    let wasRefused = "The WebSocket was refused.";
    let hasOpened = false;
    socket.addEventListener("open", () => {
      hasOpened = true;
      link.#changed.give();
    });
    // Behind an error comes a close, but not everywhere if it never stood; only `ws` says what it was.
    socket.addEventListener("error", ({ message }: { message?: string }) => {
      wasRefused = message || wasRefused;
      if (!hasOpened) link.close();
    });
    const timer = setTimeout(() => link.close(), timeout);
    const abort = () => link.close();
    signal.addEventListener("abort", abort, { once: true });
    while (!link.#isOpen() && link.#closed === undefined) await link.#changed.next;
    clearTimeout(timer);
    signal.removeEventListener("abort", abort);
    signal.throwIfAborted();
    if (link.#closed !== undefined) throw new Unreachable(wasRefused);
    return link;
  }

  /** How it has ended; undefined while it stands. */
  get closed(): Closed | undefined {
    return this.#closed;
  }

  /** Whether something was sent of which it is not known that it has arrived. */
  get isUnsure(): boolean {
    return this.#underway.size > 0;
  }

  /** The next message; undefined after the last one. */
  async next(): Promise<Message | undefined> {
    for (;;) {
      const message = this.#waiting.shift();
      if (message !== undefined) {
        this.#waitingBytes -= sizeOf(message);
        return message;
      }
      if (this.#closed !== undefined) return undefined;
      await this.#changed.next;
    }
  }

  /** Everything before this offset was taken. */
  took(offset: number): void {
    if (Math.abs(offset - this.#taken) < WINDOW / 4 || !this.#isOpen()) return;
    this.#taken = offset;
    this.#socket.send(JSON.stringify({ taken: offset }));
  }

  /**
   * Sends a message, and returns once there is room for another. Says whether it was sent, which it was not if the
   * connection had ended before; rejects with the signal's reason, and then it was sent.
   */
  async send(message: string | Uint8Array<ArrayBuffer>, signal: AbortSignal): Promise<boolean> {
    if (!this.#isOpen()) return false;
    this.#socket.send(message);
    this.#underway.set(this.#askForMark(), sizeOf(message));
    this.#underwayBytes += sizeOf(message);
    const aborted = new Signal();
    const abort = () => aborted.give();
    signal.addEventListener("abort", abort, { once: true });
    while (this.#underwayBytes > UNDERWAY_MAX && this.#isOpen() && !signal.aborted) {
      await Promise.race([this.#changed.next, aborted.next]);
    }
    signal.removeEventListener("abort", abort);
    signal.throwIfAborted();
    return true;
  }

  /** Closes it, however it is. What has come and was not taken is dropped. */
  close(): void {
    this.#waiting.length = 0;
    this.#end({ code: 1006, reason: "" });
  }

  #isOpen(): boolean {
    return this.#closed === undefined && this.#socket.readyState === OPEN;
  }

  /** Sends a mark, which comes back once everything before it has arrived. */
  #askForMark(): number {
    this.#lastMark += 1;
    this.#socket.send(JSON.stringify({ mark: this.#lastMark }));
    return this.#lastMark;
  }

  #take(data: unknown): void {
    if (this.#closed !== undefined) return;
    this.#hasHeard = true;
    this.#isAsked = false;
    const message = typeof data === "string" ? data : new Uint8Array(data as ArrayBuffer);
    const mark = typeof message === "string" ? markIn(message) : undefined;
    if (mark === undefined) {
      this.#waiting.push(message);
      this.#waitingBytes += sizeOf(message);
      if (this.#waitingBytes > WAITING_MAX) this.#end({ code: 1006, reason: "" });
    } else {
      this.#arrived(mark);
    }
    this.#changed.give();
  }

  #arrived(mark: number): void {
    for (const [earlier, size] of this.#underway) {
      if (earlier > mark) return;
      this.#underway.delete(earlier);
      this.#underwayBytes -= size;
    }
  }

  /** Ends a connection whose far end is not there any more, which nobody would tell who only listens. */
  #checkSilence(): void {
    const hasHeard = this.#hasHeard;
    this.#hasHeard = false;
    // A process that does not read its input keeps the mark behind it; and what is under way is missed by TCP itself.
    if (hasHeard || this.isUnsure || !this.#isOpen()) return;
    if (this.#isAsked) {
      this.wasSilent = true;
      this.#end({ code: 1006, reason: "" });
    } else {
      this.#isAsked = true;
      this.#askForMark();
    }
  }

  #end(closed: Closed): void {
    if (this.#closed !== undefined) return;
    this.#closed = closed;
    clearInterval(this.#watch);
    this.#socket.close();
    const timer = setTimeout(() => this.#socket.terminate?.(), GOODBYE);
    this.#socket.addEventListener("close", () => clearTimeout(timer));
    this.#changed.give();
  }
}

/** Tells whoever waits that something has changed. */
class Signal {
  #give: () => void = () => undefined;
  #next: Promise<void> = this.#made();

  get next(): Promise<void> {
    return this.#next;
  }

  give(): void {
    const give = this.#give;
    this.#next = this.#made();
    give();
  }

  #made(): Promise<void> {
    return new Promise((resolve) => {
      this.#give = resolve;
    });
  }
}

function made(make: () => WebSocketLike): WebSocketLike {
  try {
    return make();
  } catch (cause) {
    throw new ProtocolFailure(`No WebSocket can be made of the instance's URL and token: ${String(cause)}.`, { cause });
  }
}

function markIn(text: string): number | undefined {
  if (!text.startsWith('{"mark":')) return undefined;
  const mark = Number(text.slice('{"mark":'.length, -1));
  return Number.isInteger(mark) ? mark : undefined;
}

function sizeOf(message: Message): number {
  return message.length + MESSAGE_COST;
}

/** Input as bytes of its own: what is changed after it was given is not what was meant. */
export function inputOf(channel: number, data: string | Uint8Array): Uint8Array<ArrayBuffer> {
  const bytes = typeof data === "string" ? new TextEncoder().encode(data) : data;
  const frame = new Uint8Array(bytes.length + 1);
  frame[0] = channel;
  frame.set(bytes, 1);
  return frame;
}
