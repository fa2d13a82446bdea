/**
 * What happens in an instance, as it happens and afterwards.
 *
 * @module
 */

import { PATIENCE_SECONDS } from "./attachment.js";
import { type Abortable, type Caller, jsonOf, partsOf } from "./caller.js";
import { mayPass } from "./endings.js";
import { LandfastError, ProtocolFailure } from "./failure.js";
import { type Event, type EventGap, type EventPage, itemsOf, readEvent } from "./records.js";
import { pauseBefore, sleep } from "./retry.js";
import { Decoder, type Frame } from "./sse.js";

/** Seconds of silence after which a stream counts as cut: three times what the agent keeps. */
export const SILENCE_SECONDS = 45;

/** How events are followed. */
export interface StreamOptions extends Abortable {
  /** Only events of these types. */
  types?: readonly string[];
  /** The id of the event to go on after. */
  after?: string;
  /** Begins with the oldest event that is remembered, and not with the next one. */
  replay?: boolean;
  /** Seconds without a connection after which it is given up; 600 if not said. */
  patience?: number;
}

/** Which stored events are read. */
export interface PageOptions extends Abortable {
  /** Microseconds since 1970, RFC 3339, or how long ago, such as `"5m"`. */
  since?: string | number;
  until?: string | number;
  limit?: number;
  /** Where the page begins: the `nextOffset` of the one before. */
  offset?: string;
  order?: "asc" | "desc";
  types?: readonly string[];
  categories?: readonly string[];
}

/** Which events of a browser's pages are wanted. */
export interface Watched {
  console: boolean;
  network: boolean;
  page: boolean;
}

/** The events of one instance. */
export class Events {
  readonly #caller: Caller;
  readonly #path: string;

  constructor(caller: Caller, instance: string) {
    this.#caller = caller;
    this.#path = `/instances/${instance}/telemetry`;
  }

  /**
   * Goes through events as they happen: from now on, `after` an id, or with `replay` from the oldest remembered.
   *
   * Disconnects are hidden: the next connection goes on after the last event; what was lost is an `EventGap`. Throws how
   * the instance ended, what kept it from being reached for `patience` seconds, or the signal's reason. Who leaves the
   * loop ends the stream; who waits for an event in it needs the signal for that.
   */
  async *stream(options: StreamOptions = {}): AsyncGenerator<Event | EventGap, void, undefined> {
    const { types = [], after, replay = false, patience = PATIENCE_SECONDS, signal } = options;
    let [last, attempt, deadline] = [after, 0, performance.now() + patience * 1000];
    for (;;) {
      try {
        for await (const frame of this.#frames(types, last, replay, signal)) {
          [last, attempt, deadline] = [frame?.id ?? last, 0, 0];
          if (frame?.data !== undefined) yield eventOf(frame);
        }
      } catch (failure) {
        // What keeps a stream that stood from standing again is given its whole patience.
        deadline = deadline || performance.now() + patience * 1000;
        if (!(failure instanceof LandfastError) || !mayPass(failure) || performance.now() >= deadline) throw failure;
      }
      // Nobody can say what happened between the two connections.
      if (last === undefined && !replay) yield { kind: "gap", start: undefined, end: undefined };
      if (attempt > 0) await sleep(pauseBefore(attempt - 1), signal);
      attempt += 1;
    }
  }

  /** The frames of one connection; undefined stands for bytes that came, whatever they mean. */
  async *#frames(
    types: readonly string[],
    last: string | undefined,
    replay: boolean,
    signal: AbortSignal | undefined,
  ): AsyncGenerator<Frame | undefined> {
    const params = { type: types.join(",") || undefined, replay: replay && last === undefined ? "all" : undefined };
    const headers = { Accept: "text/event-stream", ...(last === undefined ? {} : { "Last-Event-ID": last }) };
    const ask = { params, headers, seconds: SILENCE_SECONDS, signal };
    const response = await this.#caller.stream(`${this.#path}/stream`, ask);
    const decoder = new Decoder();
    for await (const part of partsOf(response)) {
      yield undefined;
      yield* decoder.feed(part);
    }
  }

  /** Reads events that were stored; of an instance that is gone, for 30 days. Safe to repeat. */
  async page(options: PageOptions = {}): Promise<EventPage> {
    const { types = [], categories = [], since, until, limit, offset, order, signal } = options;
    const lists = { type: types.join(",") || undefined, category: categories.join(",") || undefined };
    const params = { since, until, limit, offset, order, ...lists };
    const response = await this.#caller.call("GET", `${this.#path}/events`, { params, signal });
    const items = itemsOf({ events: await jsonOf(response) }, "events").map((item) => readEvent(item));
    const nextOffset = response.headers.get("x-next-offset") ?? "0";
    return { items, nextOffset, hasMore: response.headers.get("x-has-more") === "true" };
  }

  /** Says an event of the caller's own. After `Broken` it may have been said. */
  async say(
    type: string,
    data: unknown = null,
    options: Abortable & { source?: Readonly<Record<string, unknown>> } = {},
  ): Promise<Event> {
    const body = { type, data, source: options.source };
    const path = `${this.#path}/events`;
    const event = readEvent(await this.#caller.json("POST", path, { body, direct: true, signal: options.signal }));
    if (event.kind === "gap") throw new ProtocolFailure("An event was expected.");
    return event;
  }

  /** Says which events of the browser's pages are wanted; what is not said stays as it is. Safe to repeat. */
  async watch(wanted: Partial<Watched>, options: Abortable = {}): Promise<Watched> {
    return (await this.#caller.json("PATCH", this.#path, { body: wanted, direct: true, ...options })) as Watched;
  }
}

function eventOf({ data = "", id }: Frame): Event | EventGap {
  let envelope: unknown;
  try {
    envelope = JSON.parse(data);
  } catch (cause) {
    throw new ProtocolFailure(`An event that is no JSON: ${String(cause)}.`, { cause });
  }
  return readEvent(envelope, id);
}
