/** Which gateway is asked next, what is never sent to two, and two of a real cell of which one goes away for good. */

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { Gateways } from "../src/gateways.js";
import { Broken, Landfast, Misused, type ProcessEvent, Unreachable } from "../src/index.js";
import { Cell } from "./support/cell.js";
import { type Answer, nowhere, Server } from "./support/servers.js";
import { allOf, readUntil, saidBy } from "./support/text.js";

const cell = await Cell.start();
after(() => cell.close());

const URLS = ["http://a:1", "http://b:2/cell", "https://c"];

/** Lines that a process says in about four seconds. */
const LINES = 400;
const WRITER = `i=0; while [ $i -lt ${LINES} ]; do i=$((i+1)); echo line $i; sleep 0.01; done; exit 7`;

const fine: Answer = () => ({ status: 200, headers: { "Content-Type": "application/json" }, body: '{"items": []}' });
const draining: Answer = () => ({ status: 503, headers: { "landfast-error": "gateway.draining" } });
const hangsUp: Answer = () => undefined;

function hosts(gateways: Gateways, url = "http://a:1/v1/x?y=1"): string[] {
  return gateways.order(new URL(url)).map(({ hostname }) => hostname);
}

test("the same URL is asked for at each gateway", () => {
  const gateways = new Gateways(URLS);
  const wanted = ["http://a:1/v1/x?y=1", "http://b:2/cell/v1/x?y=1", "https://c/v1/x?y=1"];
  for (const url of wanted) {
    assert.deepEqual(gateways.order(new URL(url)).map(String).sort(), wanted);
  }
  const sockets = gateways.order(new URL("ws://b:2/cell/i/x")).map(String);
  assert.deepEqual(sockets.sort(), ["ws://a:1/i/x", "ws://b:2/cell/i/x", "wss://c/i/x"]);
  assert.deepEqual(gateways.order(new URL("http://else/i/x")).map(String), ["http://else/i/x"]);
});

test("who answered last comes first, and who failed last comes last", () => {
  let now = 0;
  const gateways = new Gateways(URLS, () => now);
  assert.ok(Array.from({ length: 20 }).every(() => hosts(gateways)[0] === "a"));
  assert.deepEqual(new Set(Array.from({ length: 100 }, () => hosts(gateways)[1])), new Set(["b", "c"]));
  gateways.answered(new URL("http://b:2/cell/v1/"));
  assert.equal(hosts(gateways)[0], "b");
  gateways.failed(new URL("http://b:2/cell/v1/"));
  now = 100;
  gateways.failed(new URL("http://a:1/"));
  assert.deepEqual(hosts(gateways), ["c", "b", "a"]);
  now = 5_000;
  assert.equal(hosts(gateways)[0], "b");
});

test("a gateway that drains rests longer", () => {
  let now = 0;
  const gateways = new Gateways(URLS.join(","), () => now);
  assert.ok(gateways.judge(new URL("http://a:1/"), "gateway.draining"));
  now = 20_000;
  assert.equal(hosts(gateways)[2], "a");
  now = 40_000;
  assert.equal(hosts(gateways)[0], "a");
  assert.ok(!gateways.judge(new URL("http://a:1/"), "instance.unknown"));
});

test("a list names somebody, and is said as it is read", () => {
  for (const where of [" , ", [], "a:1", "http://a,b"]) assert.throws(() => new Gateways(where), Misused);
  const client = new Landfast({ url: "http://a:1, http://b:2/", apiKey: "key" });
  assert.equal(client.url, "http://a:1,http://b:2");
  assert.equal(client.copy().url, client.url);
});

test("what was not taken goes to the next at once", async () => {
  await using first = await Server.start(draining);
  await using second = await Server.start(fine);
  const client = new Landfast({ url: [await nowhere(), first.url, second.url], apiKey: "key", retries: 0 });
  // No key goes with it: it may be sent once only.
  for (let count = 1; count <= 2; count += 1) {
    const response = await client.fetch("/v1/instances/x/exec", { method: "POST", body: "{}" });
    assert.equal(response.status, 200);
    assert.equal(second.seen.length, count);
  }
  assert.ok(first.seen.length <= 1);
});

test("what may have run and has no key is sent to nobody else", async () => {
  await using first = await Server.start(hangsUp);
  await using second = await Server.start(fine);
  const client = new Landfast({ url: [first.url, second.url], apiKey: "key" });
  await assert.rejects(client.fetch("/v1/instances/x/exec", { method: "POST", body: "{}" }), Broken);
  assert.deepEqual([first.seen.length, second.seen.length], [1, 0]);
});

test("what may run twice is sent to the next with the same key", async () => {
  await using first = await Server.start(hangsUp);
  await using second = await Server.start(fine);
  const client = new Landfast({ url: [first.url, second.url], apiKey: "key" });
  await client.fetch("/v1/instances", { method: "POST", body: "{}" });
  const keys = new Set([...first.seen, ...second.seen].map(({ headers }) => headers["idempotency-key"]));
  assert.deepEqual([first.seen.length, second.seen.length, keys.size], [1, 1, 1]);
});

test("that it may have run is not forgotten over a later failure", async () => {
  await using first = await Server.start(hangsUp);
  await using second = await Server.start(draining);
  const client = new Landfast({ url: [first.url, second.url], apiKey: "key", retries: 1 });
  await assert.rejects(client.fetch("/v1/instances", { method: "POST", body: "{}" }), Broken);
});

test("where no gateway is reached nothing was started", async () => {
  const client = new Landfast({ url: [await nowhere(), await nowhere()], apiKey: "key", retries: 0 });
  await assert.rejects(client.instances.create(), Unreachable);
});

for (const end of ["kill", "stop"] as const) {
  test(`a terminal and calls go on at the other gateway: ${end}`, async () => {
    const [url, first] = await cell.anotherGateway();
    const client = cell.client({ url: [url, cell.url] });
    const instance = await client.instances.create();
    const events: ProcessEvent[] = [];
    let gone: Promise<void> | undefined;
    await using terminal = await instance.processes.terminal(WRITER);
    for await (const event of terminal) {
      events.push(event);
      if (saidBy(events.slice(0, 100)).split("\n").length > 50) gone ??= first[end]();
    }
    await gone;
    assert.ok(gone);
    const wanted = Array.from({ length: LINES }, (_, number) => `line ${number + 1}\r\n`).join("");
    assert.equal(saidBy(events), wanted);
    assert.deepEqual([terminal.exit?.status, terminal.connections], [7, 2]);
    const done = await instance.processes.run("cat", { input: "direct" });
    assert.equal(new TextDecoder().decode(done.stdout), "direct");
    await instance.delete();
  });
}

test("input at a gateway's death is told, and never typed twice", async () => {
  const [url, first] = await cell.anotherGateway();
  const { processes } = await cell.client({ url: [url, cell.url] }).instances.create();
  const process = await processes.start("while read line; do echo got $line; done");
  await using attachment = await process.attach();
  await attachment.send("first\n");
  await readUntil(attachment, "got first\n");
  await first.freeze();
  await attachment.send("second\n");
  await first.kill();
  assert.deepEqual((await attachment.next()).value, { type: "inputUnsure" });
  await attachment.send("third\n");
  await attachment.endInput();
  const events = await allOf(attachment);
  assert.ok(["got second\ngot third\n", "got third\n"].includes(saidBy(events)), saidBy(events));
  assert.deepEqual(events.at(-1), { type: "exited", status: 0 });
});

test("events go on at the other gateway", async () => {
  const [url, first] = await cell.anotherGateway();
  const instance = await cell.client({ url: `${url},${cell.url}` }).instances.create();
  await instance.events.say("said", { number: 1 });
  const heard: unknown[] = [];
  for await (const event of instance.events.stream({ types: ["said"], replay: true })) {
    assert.ok("data" in event);
    heard.push(event.data);
    if (heard.length === 1) await first.kill();
    if (heard.length === 3) break;
    await instance.events.say("said", { number: heard.length + 1 });
  }
  assert.deepEqual(heard, [{ number: 1 }, { number: 2 }, { number: 3 }]);
});
