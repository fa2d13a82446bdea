/** Events of a real cell: as they happen over a gateway that is killed, and after their instance is gone. */

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { type Event, type EventGap, type Fetch, InstanceGone } from "../src/index.js";
import { Cell } from "./support/cell.js";

const cell = await Cell.start();
after(() => cell.close());
const client = cell.client();

test("a stream outlives its gateway without a hole", async () => {
  const instance = await client.instances.create();
  // Exits that come while the gateway is away, and after it.
  for (const seconds of [0, 1, 2, 3, 6, 7]) await instance.processes.start(["sleep", String(seconds)]);
  const seen: Event[] = [];
  let away: Promise<void> | undefined;
  for await (const event of instance.events.stream({ replay: true })) {
    assert.equal(event.kind, "event");
    if (event.kind === "event") seen.push(event);
    const exits = seen.filter(({ type }) => type === "process_exit").length;
    if (exits > 0) away ??= cell.gateway.isAway(5);
    if (exits === 6) break;
  }
  await away;
  assert.deepEqual(
    seen.map(({ seq }) => seq),
    seen.map((_, at) => at + 1),
  );
  assert.equal(new Set(seen.map(({ id }) => id)).size, seen.length);
});

test("a stream goes on after an event, and says only what is wanted", async () => {
  const { events } = await client.instances.create();
  const first = await events.say("wanted", { n: 1 });
  await events.say("other");
  await events.say("wanted", { n: 2 }, { source: { kind: "test" } });
  const [one, two] = await take(events.stream({ types: ["wanted"], replay: true }), 2);
  assert.ok(one?.kind === "event" && two?.kind === "event");
  assert.deepEqual([one.seq, one.data, one.category], [first.seq, { n: 1 }, "custom"]);
  assert.deepEqual(await take(events.stream({ types: ["wanted"], after: one.id ?? "" }), 1), [two]);
});

test("a stream that comes back too late is told of the gap", async () => {
  const { events } = await client.instances.create();
  const said = await events.say("custom");
  const [gap] = await take(events.stream({ after: `1.${said.seq}` }), 1);
  assert.ok(gap?.kind === "gap" && gap.start !== undefined && gap.end !== undefined);
});

test("stored events are read page by page", async () => {
  const { events } = await client.instances.create();
  for (let number = 0; number < 5; number += 1) await events.say("counted", number);
  const found: unknown[] = [];
  let page = await events.page({ types: ["counted"], limit: 2 });
  for (;;) {
    for (const event of page.items) found.push(event.kind === "event" ? event.data : event);
    if (!page.hasMore) break;
    page = await events.page({ types: ["counted"], limit: 2, offset: page.nextOffset });
  }
  assert.deepEqual(found, [0, 1, 2, 3, 4]);
});

test("what pages do can be watched", async () => {
  const { events } = await client.instances.create();
  assert.deepEqual(await events.watch({ console: true }), { console: true, network: false, page: false });
  assert.deepEqual(await events.watch({ page: true }), { console: true, network: false, page: true });
});

test("events of a deleted browser take one direct attempt, and one request of the control plane", async () => {
  const sent: [string, string, string][] = [];
  const recorded: Fetch = (input, init) => {
    const token = new Headers(init?.headers).get("authorization") ?? "";
    sent.push([init?.method ?? "", new URL(String(input)).pathname, token.replace("Bearer ", "")]);
    return fetch(input, init);
  };
  const recording = cell.client({ fetch: recorded });
  const instance = await recording.instances.create({ kind: "browser" });
  const said = await instance.events.say("last", "farewell");
  const [streamed] = await take(instance.events.stream({ types: ["last"], replay: true }), 1);
  const route = recording.routes.get(instance.id);
  assert.ok(route !== undefined && streamed?.kind === "event" && streamed.seq === said.seq);
  // Deleted by somebody else: the client still knows the way to it.
  const found = await client.instances.get(instance.id);
  await found.delete();
  while (found.phase !== "deleted") await found.refresh();
  sent.length = 0;
  const page = await instance.events.page({ types: ["last"] });
  const path = `/${instance.id}/telemetry/events`;
  assert.deepEqual(sent, [
    ["GET", `/i${path}`, route.token],
    ["GET", `/v1/instances${path}`, cell.apiKey],
  ]);
  assert.deepEqual(
    page.items.map((event) => event.kind === "event" && event.data),
    ["farewell"],
  );
  assert.equal(recording.routes.get(instance.id), undefined);
  await assert.rejects(take(instance.events.stream({ after: streamed.id ?? "" }), 1), InstanceGone);
});

async function take(stream: AsyncIterable<Event | EventGap>, count: number): Promise<(Event | EventGap)[]> {
  const found: (Event | EventGap)[] = [];
  for await (const event of stream) {
    found.push(event);
    if (found.length === count) break;
  }
  return found;
}
