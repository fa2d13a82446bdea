/** Event streams that are cut where it hurts, by a server that does as it is told. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { type Event, type EventGap, InstanceGone, Landfast, ProtocolFailure, TimedOut } from "../src/index.js";
import { PAUSES } from "../src/retry.js";
import { type Said, Server } from "./support/servers.js";

PAUSES.first = 1;

const GONE: Said = {
  status: 410,
  headers: { "landfast-error": "instance.gone", "Content-Type": "application/problem+json" },
  body: '{"code":"instance.gone"}',
};

const RECORD = { id: "ins_1", kind: "sandbox", phase: "running", desired: "running", generation: 1, created_at: 1 };

test("a stream goes on after the last whole event", async () => {
  await using server = await saying(
    cut(frame(1) + frame(2) + frame(3).slice(0, -1)),
    cut(frame(3)),
    cut(""),
    whole(frame(4)),
    GONE,
  );
  const found = await allOf(server, ["custom"]);
  assert.deepEqual(
    found.map((event) => (event.kind === "event" ? event.data : event)),
    [1, 2, 3, 4],
  );
  const lasts = server.seen.slice(1).map(({ headers }) => headers["last-event-id"]);
  assert.deepEqual(lasts, [undefined, "7.2", "7.3", "7.3", "7.4"]);
  assert.ok(server.seen.slice(1).every(({ path }) => path === "/i/ins_1/telemetry/stream?type=custom"));
});

test("an id without an event moves a stream on", async () => {
  await using server = await saying(cut("id: 7.9\n\n"), GONE);
  assert.deepEqual(await allOf(server), []);
  assert.equal(server.seen[2]?.headers["last-event-id"], "7.9");
});

test("a gap is told", async () => {
  await using server = await saying(
    cut(frame(2)),
    cut('id: 8.4\ndata: {"type":"gap","from":"7.3","to":"8.5"}\n\n'),
    GONE,
  );
  assert.deepEqual((await allOf(server)).slice(1), [{ kind: "gap", start: "7.3", end: "8.5" }]);
});

test("a stream that is cut before its first event says that nobody knows", async () => {
  await using server = await saying(cut(":\n\n"), cut(frame(5)), GONE);
  const found = await allOf(server);
  assert.deepEqual(found[0], { kind: "gap", start: undefined, end: undefined });
  assert.deepEqual([found.length, found[1]?.kind], [2, "event"]);
});

test("what is no event is an error", async () => {
  for (const body of ["id: 1.1\ndata: {\n\n", "id: 1.1\ndata: {}\n\n", "id: 1.1\ndata: []\n\n"]) {
    await using server = await saying(cut(body));
    await assert.rejects(allOf(server), ProtocolFailure);
  }
});

test("a stream that is left, or aborted, ends its connection", async () => {
  await using server = await saying(cut(frame(1)), cut(frame(1)));
  const client = new Landfast({ url: server.url, apiKey: "key" });
  const { events } = await client.instances.get("ins_1");
  for await (const event of events.stream()) {
    assert.equal(event.kind, "event");
    break;
  }
  const stop = new AbortController();
  const reading = (async () => {
    for await (const _ of events.stream({ signal: stop.signal })) stop.abort(new Error("enough"));
  })();
  await assert.rejects(reading, /enough/);
});

test("an answer that stops in the middle is an error and no answer", async () => {
  let isOver: () => void = () => undefined;
  const over = new Promise<void>((resolve) => {
    isOver = resolve;
  });
  await using server = await Server.start(async () => {
    await over;
    return undefined;
  });
  const client = new Landfast({ url: server.url, apiKey: "key", retries: 0 });
  const asking = client.fetch("/v1/nodes", { landfast: { timeout: 50 } });
  await assert.rejects(asking, TimedOut);
  isOver();
});

/** A server that first tells of an instance, and then says this, one after another. */
async function saying(...answers: Said[]): Promise<Server> {
  let count = 0;
  const server: Server = await Server.start(() => {
    count += 1;
    if (count > 1) return answers[count - 2] ?? { status: 500 };
    const record = { ...RECORD, base_url: `${server.url}/i/ins_1`, token: "t1" };
    return { status: 200, headers: { "Content-Type": "application/json" }, body: JSON.stringify(record) };
  });
  return server;
}

/** Everything that a stream says until its instance is gone. */
async function allOf(server: Server, types: string[] = []): Promise<(Event | EventGap)[]> {
  const client = new Landfast({ url: server.url, apiKey: "key" });
  const found: (Event | EventGap)[] = [];
  try {
    const { events } = await client.instances.get("ins_1");
    for await (const event of events.stream({ types })) found.push(event);
  } catch (failure) {
    if (!(failure instanceof InstanceGone)) throw failure;
  }
  return found;
}

function frame(number: number): string {
  const event = { ts: 1, type: "custom", category: "custom", source: { kind: "test" }, data: number };
  return `id: 7.${number}\ndata: ${JSON.stringify({ seq: number, event })}\n\n`;
}

/** An answer that ends in the middle. */
function cut(body: string): Said {
  return { status: 200, headers: { "Content-Type": "text/event-stream", "Content-Length": "100000" }, body };
}

function whole(body: string): Said {
  return { status: 200, headers: { "Content-Type": "text/event-stream" }, body };
}
