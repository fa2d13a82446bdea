/** Attachments to processes of a real cell whose gateway is killed and frozen, over both kinds of WebSockets. */

import assert from "node:assert/strict";
import { after, test } from "node:test";
import { WebSocket } from "ws";
import { type ProcessEvent, Unreachable, type WebSocketConstructor } from "../src/index.js";
import { Cell } from "./support/cell.js";
import { allOf, readUntil, saidBy, text } from "./support/text.js";

const cell = await Cell.start();
after(() => cell.close());

/** Lines that a process says in about eight seconds: longer than the gateway is away. */
const LINES = 700;
const WRITER = `i=0; while [ $i -lt ${LINES} ]; do i=$((i+1)); echo line $i; sleep 0.01; done; exit 7`;

const KILLS = 3;
const INPUTS = 300;
const ECHO = "while read line; do [ $line = end ] && exit; echo got $line; done";

const KINDS: [string, WebSocketConstructor][] = [["of the ws package", WebSocket as unknown as WebSocketConstructor]];
if (globalThis.WebSocket !== undefined) {
  KINDS.push(["of browsers", globalThis.WebSocket as unknown as WebSocketConstructor]);
}

for (const [kind, made] of KINDS) {
  const client = cell.client({ WebSocket: made });

  test(`a terminal outlives its gateway byte for byte, over a WebSocket ${kind}`, async () => {
    const { processes } = await client.instances.create();
    await using terminal = await processes.terminal(WRITER);
    const events: ProcessEvent[] = [];
    let away: Promise<void> | undefined;
    for await (const event of terminal) {
      events.push(event);
      if (saidBy(events.slice(0, 100)).split("\n").length > 50) away ??= cell.gateway.isAway(5);
    }
    await away;
    assert.ok(away);
    const wanted = Array.from({ length: LINES }, (_, number) => `line ${number + 1}\r\n`).join("");
    assert.equal(saidBy(events), wanted);
    assert.deepEqual(
      events.filter(({ type }) => type !== "output").map(({ type }) => type),
      ["replayEnd", "exited"],
    );
    assert.deepEqual([terminal.exit?.status, terminal.connections], [7, 2]);
  });

  test(`input at a cut is told and never typed twice, over a WebSocket ${kind}`, async () => {
    const { processes } = await client.instances.create();
    const process = await processes.start("while read line; do echo got $line; done");
    await using attachment = await process.attach();
    await attachment.send("first\n");
    await readUntil(attachment, "got first\n");
    await cell.gateway.freeze();
    await attachment.send("second\n");
    await cell.gateway.isAway(0);
    assert.deepEqual((await attachment.next()).value, { type: "inputUnsure" });
    await attachment.send("third\n");
    await attachment.endInput();
    const events = await allOf(attachment);
    assert.deepEqual(events.at(-1), { type: "exited", status: 0 });
    assert.ok(!events.some(({ type }) => type === "inputUnsure"));
    assert.ok(["got second\ngot third\n", "got third\n"].includes(saidBy(events)), saidBy(events));
  });

  test(`a writer and a reader share an attachment over kills, over a WebSocket ${kind}`, async () => {
    const { processes } = await client.instances.create();
    await using attachment = await (await processes.start(ECHO)).attach();
    let isOver = false;
    const reading = allOf(attachment).finally(() => {
      isOver = true;
    });
    for (let number = 0; number < INPUTS; number += 1) {
      await attachment.send(`${number}\n`);
      if (number % (INPUTS / KILLS) === INPUTS / KILLS / 2) await cell.gateway.isAway(0.2);
    }
    // As often as it takes: the first may be lost in the last kill.
    while (!isOver) {
      await attachment.send("end\n").catch(() => undefined);
      await Promise.race([reading, processes.run("sleep 0.3")]);
    }
    judge(await reading);
  });
}

test("input that was sent long before a cut is no longer in doubt", async () => {
  const { processes } = await cell.client().instances.create();
  await using attachment = await (await processes.start(["cat"])).attach();
  await attachment.send("hello\n");
  await readUntil(attachment, "hello\n");
  await attachment.resize(1, 1);
  // Marks come in order: that of the next input means that all before have come.
  await attachment.send("there\n");
  await readUntil(attachment, "there\n");
  await processes.run(["true"]);
  await cell.gateway.isAway(0);
  await attachment.endInput();
  assert.deepEqual(
    (await allOf(attachment)).map(({ type }) => type),
    ["exited"],
  );
});

test("patience ends", async () => {
  const { processes } = await cell.client().instances.create();
  const process = await processes.start(["cat"]);
  await using attachment = await process.attach({ patience: 0.1 });
  await cell.gateway.kill();
  await assert.rejects(attachment.read(), Unreachable);
  await cell.gateway.start();
  await using again = await process.attach();
  await again.endInput();
  assert.equal(text(await again.read()), "");
});

/** Every line came at most once and in order; where one is missing, the caller was told so. */
function judge(events: readonly ProcessEvent[]): void {
  const said = saidBy(events);
  const numbers = [...said.matchAll(/got (\d+)\n/g)].map(([, number]) => Number(number));
  assert.equal(numbers.map((number) => `got ${number}\n`).join(""), said);
  assert.ok(numbers.every((number, at) => at === 0 || number > (numbers[at - 1] ?? Number.NaN)));
  const doubts = events.filter(({ type }) => type === "inputUnsure").length;
  assert.ok(numbers.length === INPUTS || doubts > 0, `${numbers.length} lines and no doubt`);
  assert.ok(doubts <= KILLS + 1);
  assert.equal(events.filter(({ type }) => type === "exited").length, 1);
  assert.deepEqual(events.at(-1), { type: "exited", status: 0 });
}
