/** Processes and terminals of a real cell. */

import assert from "node:assert/strict";
import { after, test } from "node:test";
import {
  Exit,
  type Gap,
  InstanceGone,
  LandfastError,
  Misused,
  ProcessNoTerminal,
  ProcessNotRunning,
  ProcessSpawn,
  ProcessUnknown,
  RequestInvalid,
} from "../src/index.js";
import { Cell } from "./support/cell.js";
import { allOf, readUntil, saidBy, text } from "./support/text.js";

const cell = await Cell.start();
after(() => cell.close());
const client = cell.client();
const instance = await client.instances.create({ labels: { test: "processes" } });
const { processes } = instance;

test("a command is run to its end", async () => {
  const done = await processes.run("cat; echo oops >&2; exit 3", { input: "hello" });
  assert.deepEqual(done.exit, new Exit(3));
  assert.deepEqual([done.text, text(done.stderr), done.ok, done.exit?.status], ["hello", "oops\n", false, 3]);
  assert.deepEqual((await processes.run(["printf", "\\377"])).stdout, Uint8Array.of(0xff));
  assert.equal((await processes.run("sleep 60", { timeout: 1 })).killedBy, "timeout");
  await assert.rejects(processes.run(""), Misused);
});

test("a command that cannot start says so", async () => {
  await assert.rejects(processes.start(["/no/such/program"]), (failure) => {
    assert.ok(failure instanceof ProcessSpawn);
    assert.deepEqual([failure.code, failure.status, failure.retryable], ["process.spawn", 422, false]);
    assert.match(failure.requestId ?? "", /^req_/);
    return failure.message.includes("/no/such/program");
  });
});

test("a process is fed, signalled and read by offset", async () => {
  const process = await processes.start(["cat"]);
  assert.ok((await processes.list()).some(({ id }) => id === process.id));
  await process.write("one\ntwo\n");
  await using looking = await process.attach({ input: false });
  await readUntil(looking, "one\ntwo\n");
  await assert.rejects(looking.send("three"), Misused);
  const part = await process.output(4);
  assert.deepEqual([part.offset, text(part.data), part.end], [4, "two\n", 8]);
  await process.signal("TERM");
  await using attachment = await process.attach();
  assert.equal(text(await attachment.read()), "one\ntwo\n");
  assert.deepEqual(attachment.exit, { type: "exited", status: 128 + 15 });
  assert.deepEqual((await process.refresh()).exit, new Exit(undefined, 15));
  await assert.rejects(process.signal("TERM"), ProcessNotRunning);
  await process.delete();
  await assert.rejects(processes.get(process.id), ProcessUnknown);
});

test("a terminal is typed into and resized", async () => {
  await using terminal = await processes.terminal(["sh"], { rows: 24, cols: 80 });
  await terminal.send("stty size; exit 4\n");
  assert.match(text(await terminal.read()), /24 80/);
  assert.equal(terminal.exit?.status, 4);
  const process = await processes.start(["sh"], { tty: { rows: 24, cols: 80 } });
  await process.resize(30, 100);
  await process.write("stty size; exit\n");
  await using attachment = await process.attach();
  assert.match(text(await attachment.read()), /30 100/);
});

test("a process is signalled, resized and ended over its attachment", async () => {
  const process = await processes.start("trap 'stty size' USR1; echo up; cat; while read l; do :; done", {
    tty: { rows: 24, cols: 80 },
  });
  await using attachment = await process.attach();
  await readUntil(attachment, "up");
  await attachment.resize(31, 101);
  await attachment.signal("INT");
  await attachment.endInput();
  for await (const event of attachment) assert.notEqual(event.type, "inputUnsure");
  assert.ok(attachment.exit);
});

test("large input arrives whole, and waits while the process reads nothing", async () => {
  const process = await processes.start("read go; sha256sum");
  await using attachment = await process.attach();
  const part = new Uint8Array(1_500_000).fill(0x61);
  const sent = attachment.send(part).then(() => "sent");
  const early = await Promise.race([sent, processes.run("sleep 0.3").then(() => "waiting")]);
  assert.equal(early, "waiting");
  // The first line of the input is what `read` takes: here all of it up to the line's end.
  const rest = Promise.all([attachment.send("\n"), attachment.send("abc"), attachment.endInput()]);
  const said = text(await attachment.read());
  await Promise.all([sent, rest]);
  assert.match(said, /^ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad/);
});

test("output that is no longer kept is told as a gap", async () => {
  const process = await processes.start("head -c 30000000 /dev/zero; echo end");
  await using first = await process.attach({ start: "now" });
  await first.read();
  await using second = await process.attach();
  const events = await allOf(second);
  const gap = events.find((event): event is Gap => event.type === "gap");
  assert.ok(gap?.start === 0 && gap.end + saidBy(events).length === 30_000_004, JSON.stringify(gap));
});

test("a lossless process loses nothing to a slow reader", async () => {
  const process = await processes.start("head -c 40000000 /dev/zero; echo end", { lossless: true });
  await using attachment = await process.attach();
  await processes.run("sleep 1");
  assert.equal((await attachment.read()).length, 40_000_004);
  assert.equal(attachment.connections, 1);
});

test("a token is replaced and no session notices", async () => {
  const stale = () => client.routes.put(instance.id, { baseUrl: instance.record.baseUrl, token: "stale" });
  const process = await processes.start(["cat"]);
  await using attachment = await process.attach();
  await attachment.send("before\n");
  stale();
  assert.ok((await processes.run(["true"])).ok);
  assert.ok(![undefined, "stale"].includes(client.routes.get(instance.id)?.token));
  stale();
  await attachment.send("after\n");
  await attachment.endInput();
  assert.equal(text(await attachment.read()), "before\nafter\n");
  assert.equal(attachment.connections, 1);
  stale();
  await using another = await process.attach();
  assert.equal(text(await another.read()), "before\nafter\n");
});

test("an attachment to what is not there says so", async () => {
  const process = await processes.start(["cat"]);
  await assert.rejects(process.attach({ start: "screen" }), ProcessNoTerminal);
  await assert.rejects(process.attach({ start: 10 }), RequestInvalid);
  await process.delete();
  await assert.rejects(process.attach(), ProcessUnknown);
});

test("an attachment to an instance that is deleted says so", async () => {
  const other = await client.instances.create();
  await using attachment = await (await other.processes.start(["cat"])).attach();
  await attachment.send("hello\n");
  await other.delete();
  await assert.rejects(attachment.read(), InstanceGone);
});

test("an attachment that is left ends whoever waits, and one that is aborted says why", async () => {
  const process = await processes.start(["cat"]);
  const attachment = await process.attach();
  const reading = attachment.read();
  attachment.close();
  assert.equal((await reading).length, 0);
  await assert.rejects(attachment.send("late"), LandfastError);
  const stop = new AbortController();
  await using aborted = await process.attach({ signal: stop.signal });
  const waiting = assert.rejects(aborted.read(), /enough/);
  stop.abort(new Error("enough"));
  await waiting;
  await assert.rejects(processes.run("sleep 5", { signal: AbortSignal.timeout(50) }), { name: "TimeoutError" });
});
