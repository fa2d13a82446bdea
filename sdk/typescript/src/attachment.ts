/**
 * Staying attached to a process while connections come and go.
 *
 * One may read and another write. Who finds the connection gone makes the next one, which all then share; what the old
 * one still held is dropped, because the new one begins at the first byte that was not told.
 *
 * @module
 */

import { type Abortable, type Caller, CONNECT_SECONDS } from "./caller.js";
import { Conversation, type Exited, type ProcessEvent, type Start, SUBPROTOCOL } from "./conversation.js";
import { endingOf, mayPass } from "./endings.js";
import { LandfastError, Misused, ProcessNoTerminal, ProcessNotRunning, RequestInvalid, Unreachable } from "./errors.js";
import { readProcess } from "./records.js";
import { pauseBefore, sleep } from "./retry.js";
import type { Route } from "./routes.js";
import { inputOf, Link, WINDOW, webSocketHere } from "./socket.js";

/** Seconds for which a connection is tried to be made anew: as long as somebody who restarts a cell may take. */
export const PATIENCE_SECONDS = 600;

const STDIN = 0x00;

/** How a process is followed. */
export interface AttachOptions extends Abortable {
  /** Where to begin: with the oldest output that is kept (`start`), or as `Start` says. */
  start?: Start;
  /** Whether it can be typed into; true if not said. */
  input?: boolean;
  /** Seconds without a connection after which it is given up; 600 if not said. */
  patience?: number;
}

/**
 * A process that is followed: iterate over it for what it says, until its exit, which is told once and last.
 *
 * Disconnects are hidden: the next connection goes on at the very byte; only what the process's log no longer keeps is
 * told, as a `gap`. Input that was under way at a disconnect is never sent twice; that it may not have arrived is told as
 * `inputUnsure`. Throws `LandfastError` when it cannot go on: the instance is gone, or nothing was reached for
 * `patience` seconds. Leaving a loop does not end it: another may go on, and `close` ends it.
 */
export class Attachment implements AsyncIterable<ProcessEvent> {
  readonly processId: string;
  readonly #caller: Caller;
  readonly #instance: string;
  readonly #takesInput: boolean;
  readonly #patience: number;
  readonly #start: Start;
  readonly #conversation: Conversation;
  readonly #outer: AbortSignal | undefined;
  /** Ends all waiting when the attachment ends; its reason is why. */
  readonly #over = new AbortController();
  readonly #told: ProcessEvent[] = [];
  #link: Link | undefined;
  /** Where the last connection led. */
  #place: URL | undefined;
  #connecting: Promise<Link> | undefined;
  #attempt = 0;
  #connections = 0;

  constructor(caller: Caller, instance: string, process: string, options: AttachOptions) {
    this.#caller = caller;
    this.#instance = instance;
    this.processId = process;
    this.#takesInput = options.input ?? true;
    this.#patience = options.patience ?? PATIENCE_SECONDS;
    this.#start = options.start ?? "start";
    this.#conversation = new Conversation(this.#start);
    this.#outer = options.signal;
    if (this.#outer?.aborted) this.#end(this.#outer.reason);
    this.#outer?.addEventListener("abort", this.#abort, { once: true });
  }

  /** How many connections it has taken so far. */
  get connections(): number {
    return this.#connections;
  }

  /** The offset of the next output byte; undefined until it is known. */
  get offset(): number | undefined {
    return this.#conversation.offset;
  }

  /** How the process ended, once that was told. */
  get exit(): Exited | undefined {
    return this.#conversation.exit;
  }

  /** Connects, if it is not connected. */
  async connect(): Promise<this> {
    try {
      await this.#connected();
    } catch (failure) {
      this.#end(failure);
      throw failure;
    }
    return this;
  }

  /**
   * Types this. Returns once it was handed to the connection and there is room for more, which there is not while the
   * process reads nothing; see `InputUnsure`.
   */
  async send(data: string | Uint8Array): Promise<void> {
    this.#checkInput();
    await this.#say(inputOf(STDIN, data));
  }

  /** Sets the size of the terminal. */
  async resize(rows: number, cols: number): Promise<void> {
    await this.#say(JSON.stringify({ resize: { rows, cols } }));
  }

  /** Sends a signal, by its name without SIG. */
  async signal(name: string): Promise<void> {
    await this.#say(JSON.stringify({ signal: name }));
  }

  /** Ends the input; on a terminal this is the key that means it. */
  async endInput(): Promise<void> {
    this.#checkInput();
    await this.#say(JSON.stringify({ eof: true }));
  }

  /** Everything it says until its exit, both streams in the order of the log. Iterate to be told of gaps. */
  async read(): Promise<Uint8Array> {
    const parts: Uint8Array[] = [];
    for await (const event of this) {
      if (event.type === "output") parts.push(event.data);
    }
    return joined(parts);
  }

  /** Leaves. The process goes on. */
  close(): void {
    this.#end(undefined);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close();
  }

  [Symbol.asyncIterator](): AsyncIterator<ProcessEvent> {
    return { next: () => this.next() };
  }

  /** What it says next. */
  async next(): Promise<IteratorResult<ProcessEvent, undefined>> {
    for (;;) {
      const told = this.#told.shift();
      if (told !== undefined) return { done: false, value: told };
      if (this.#isOver) return this.#ended();
      const link = await this.#connected().catch((failure: unknown) => this.#failed(failure));
      const message = await link?.next();
      // Who writes may have found it gone meanwhile, and the next one begins before this message.
      if (link === undefined || (message !== undefined && link !== this.#link)) continue;
      if (message === undefined) {
        this.#lost(link);
        continue;
      }
      this.#attempt = 0;
      const event = this.#taken(message);
      if (this.offset !== undefined) link.took(this.offset);
      if (event !== undefined) return { done: false, value: event };
    }
  }

  get #isOver(): boolean {
    return this.#over.signal.aborted;
  }

  #taken(message: string | Uint8Array): ProcessEvent | undefined {
    try {
      const event = this.#conversation.take(message);
      if (event?.type === "exited") this.close();
      return event;
    } catch (failure) {
      this.#end(failure);
      throw failure;
    }
  }

  /** Says why it is over, if that is not how it should be. */
  #ended(): IteratorReturnResult<undefined> {
    if (!(this.#over.signal.reason instanceof Left)) throw this.#over.signal.reason;
    return { done: true, value: undefined };
  }

  /** A connection could not be made: that is the end, unless it was the end that kept it from being made. */
  #failed(failure: unknown): undefined {
    this.#end(failure);
    return undefined;
  }

  async #say(message: string | Uint8Array<ArrayBuffer>): Promise<void> {
    for (;;) {
      const link = await this.#connected();
      const wasSent = await link.send(message, this.#over.signal);
      if (link.closed !== undefined || !wasSent) this.#lost(link);
      if (wasSent) return;
    }
  }

  #lost(link: Link): void {
    if (this.#isOver) return;
    if (link.isUnsure && !link.isDoubtTold) {
      link.isDoubtTold = true;
      this.#told.push({ type: "inputUnsure" });
    }
    if (link !== this.#link) return;
    this.#link = undefined;
    // Others are asked before one that fell silent.
    if (link.wasSilent && this.#place !== undefined) this.#caller.gateways.failed(this.#place);
    const { code, reason } = link.closed ?? { code: 1006, reason: "" };
    link.close();
    const failure = endingOf(code, reason);
    if (failure !== undefined) this.#end(failure);
  }

  async #connected(): Promise<Link> {
    if (this.#isOver) throw this.#over.signal.reason;
    if (this.#link !== undefined) return this.#link;
    this.#connecting ??= this.#connectAnew().finally(() => {
      this.#connecting = undefined;
    });
    return this.#connecting;
  }

  async #connectAnew(): Promise<Link> {
    const link = await this.#dialUntil(performance.now() + this.#patience * 1000);
    if (this.#isOver) {
      link.close();
      throw this.#over.signal.reason;
    }
    this.#link = link;
    this.#conversation.connected();
    this.#connections += 1;
    return link;
  }

  async #dialUntil(deadline: number): Promise<Link> {
    const { signal } = this.#over;
    let isTokenFresh = false;
    for (;;) {
      if (this.#attempt > 0 && !isTokenFresh) await sleep(pauseBefore(this.#attempt - 1), signal);
      this.#attempt += 1;
      const route = await this.#unless(deadline, () => this.#caller.route(this.#instance, signal));
      if (route === undefined) continue;
      const link = await this.#unless(deadline, () => this.#dial(route));
      if (link !== undefined) return link;
      // A token may turn out to be stale, and its successor is worth an attempt at once; but not one after another.
      isTokenFresh = !isTokenFresh && this.#caller.routes.get(this.#instance) !== route;
    }
  }

  /** Does it; undefined if that failed in a way that may pass, and there is time left. */
  async #unless<T>(deadline: number, act: () => Promise<T>): Promise<T | undefined> {
    try {
      return await act();
    } catch (failure) {
      const isOver = !(failure instanceof LandfastError) || !mayPass(failure) || performance.now() >= deadline;
      if (isOver) throw failure;
      return undefined;
    }
  }

  /** Connects through the first gateway that takes it. */
  async #dial(route: Route): Promise<Link> {
    const { gateways } = this.#caller;
    const places = gateways.order(new URL(this.#address(route)));
    for (const [at, place] of places.entries()) {
      try {
        const link = await this.#dialAt(place, route);
        gateways.answered(place);
        this.#place = place;
        return link;
      } catch (failure) {
        if (!(failure instanceof Unreachable)) throw failure;
        gateways.failed(place);
        await this.#explain(this.#over.signal);
        const isStale = this.#caller.routes.get(this.#instance) !== route;
        if (isStale || at === places.length - 1) throw failure;
      }
    }
    throw new Misused("There is no gateway.");
  }

  async #dialAt(place: URL, route: Route): Promise<Link> {
    const { signal } = this.#over;
    const webSocket = await webSocketHere(this.#caller.webSocket);
    const timeout = CONNECT_SECONDS * 1000;
    return Link.open({ webSocket, url: place.href, subprotocol: SUBPROTOCOL, token: route.token, timeout, signal });
  }

  /** Finds out why a WebSocket was refused, which browsers do not say. Throws the reason, if it is not the way there. */
  async #explain(signal: AbortSignal): Promise<void> {
    const path = `/instances/${this.#instance}/processes/${this.processId}`;
    // This also replaces a token that has expired.
    const record = readProcess(await this.#caller.json("GET", path, { direct: true, signal }));
    const from = this.#conversation.resumeFrom;
    if (record.state === "unknown") throw new ProcessNotRunning("The process was lost with its agent.");
    if (from === "screen" && record.tty === undefined) throw new ProcessNoTerminal();
    if (typeof from === "number" && from > record.log.to) {
      throw new RequestInvalid(`start is ${from}, and the log ends at ${record.log.to}.`);
    }
  }

  #address(route: Route): string {
    const query = new URLSearchParams({
      from: String(this.#conversation.resumeFrom),
      input: String(this.#takesInput),
      window: String(WINDOW),
    });
    return `${route.baseUrl.replace(/^http/, "ws")}/processes/${this.processId}/attach?${query}`;
  }

  readonly #abort = () => this.#end(this.#outer?.reason);

  /** It is over: by a failure, or because it was left. The first reason counts. */
  #end(failure: unknown): void {
    if (this.#isOver) return;
    this.#outer?.removeEventListener("abort", this.#abort);
    this.#over.abort(failure ?? new Left("The attachment has ended."));
    this.#link?.close();
    this.#link = undefined;
  }

  #checkInput(): void {
    if (!this.#takesInput) throw new Misused("The attachment was made without input.");
  }
}

/** The attachment was left, or the process has exited. */
class Left extends Misused {}

/** Parts as one. */
export function joined(parts: readonly Uint8Array[]): Uint8Array {
  const whole = new Uint8Array(parts.reduce((size, part) => size + part.length, 0));
  let at = 0;
  for (const part of parts) {
    whole.set(part, at);
    at += part.length;
  }
  return whole;
}
