/** What is decided without sending anything: pauses, the memory of routes, frames, and the error table. */

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";
import { inspect } from "node:util";
import { Conversation } from "../src/conversation.js";
import { endingOf } from "../src/endings.js";
import * as landfast from "../src/index.js";
import { InstanceGone, Landfast, Misused, ProtocolFailure, UnknownRefusal, UpstreamChanged } from "../src/index.js";
import { readInstance, readToken } from "../src/records.js";
import { askedBy, LONGEST_ASKED, pauseBefore, Retries } from "../src/retry.js";
import { ROUTES_MAX, RouteCache } from "../src/routing.js";
import { Decoder } from "../src/sse.js";
import { SDK } from "./support/places.js";

test("pauses double to eight seconds, less up to a quarter", () => {
  for (const [attempt, whole] of [500, 1000, 2000, 4000, 8000, 8000, 8000].entries()) {
    const pauses = Array.from({ length: 200 }, () => pauseBefore(attempt));
    assert.ok(pauses.every((pause) => pause >= whole * 0.75 && pause <= whole));
    assert.ok(new Set(pauses).size > 1);
  }
});

test("two more attempts, and no more", () => {
  const retries = new Retries();
  assert.deepEqual(
    [1, 2, 3].map(() => retries.after("safe", false, 0)),
    [0, 0, undefined],
  );
  assert.equal(new Retries().after("if idempotent", false), undefined);
  assert.equal(new Retries().after("never", true), undefined);
  assert.equal(new Retries().after("safe", true, LONGEST_ASKED + 1), undefined);
});

test("a wait is asked for in seconds, in milliseconds, or as a date", () => {
  const soon = new Date(Date.now() + 30_000).toUTCString();
  const asked = askedBy(new Headers({ "Retry-After": soon })) ?? 0;
  assert.ok(asked >= 28_000 && asked <= 30_000);
  assert.equal(askedBy(new Headers({ "Retry-After": "3", "Retry-After-Ms": "250" })), 250);
  const answers = ["2", "-1", "soon", "inf", ""].map((text) => askedBy(new Headers({ "Retry-After": text })));
  assert.deepEqual(answers, [2000, undefined, undefined, undefined, undefined]);
});

test("the memory of routes is bounded, and forgets what was not used", () => {
  assert.equal(ROUTES_MAX, 10_000);
  const routes = new RouteCache(2);
  for (const token of ["a", "b"]) routes.put(token, { baseUrl: "http://x", token });
  assert.equal(routes.get(" a ")?.token, "a");
  routes.put("c", { baseUrl: "http://x", token: "c" });
  assert.deepEqual(
    ["a", "b", "c"].map((name) => routes.has(name)),
    [true, false, true],
  );
  const many = new RouteCache();
  for (let number = 0; number < ROUTES_MAX + 50; number += 1)
    many.put(`ins_${number}`, { baseUrl: "http://x", token: "t" });
  assert.equal(many.size, ROUTES_MAX);
});

test("only the route that was used is forgotten", () => {
  const routes = new RouteCache();
  const [old, recent] = [
    { baseUrl: "http://x", token: "old" },
    { baseUrl: "http://x", token: "new" },
  ];
  routes.put("a", recent);
  routes.forget("a", old);
  assert.equal(routes.get("a"), recent);
  routes.forget("a", { ...recent });
  assert.equal(routes.get("a"), undefined);
});

test("server-sent events come whole, however they are cut", () => {
  const text = ': alive\n\nid: 1.1\ndata: {"a":"ü"}\n\nid: 1.2\r\n\r\ndata: x\ndata: y\n\nid: 1.3\ndata: cut';
  const bytes = new TextEncoder().encode(text);
  for (const size of [1, 2, 5, 1000]) {
    const decoder = new Decoder();
    const frames: unknown[] = [];
    for (let at = 0; at < bytes.length; at += size) {
      for (const { id, data } of decoder.feed(bytes.subarray(at, at + size))) frames.push([id, data]);
    }
    assert.deepEqual(frames, [
      ["1.1", '{"a":"ü"}'],
      ["1.2", undefined],
      [undefined, "x\ny"],
    ]);
  }
});

test("a server-sent event that never ends is an error", () => {
  const line = new TextEncoder().encode(`data: ${"x".repeat(1000)}\n`);
  const decoder = new Decoder();
  assert.throws(() => {
    for (let count = 0; count < 3000; count += 1) [...decoder.feed(line)];
  }, ProtocolFailure);
  assert.throws(() => [...new Decoder().feed(new Uint8Array(3_000_000))], ProtocolFailure);
});

test("a conversation counts output, and not a redraw", () => {
  const conversation = new Conversation("screen");
  conversation.take(frame(1, "redrawn"));
  assert.equal(conversation.resumeFrom, "screen");
  assert.deepEqual(conversation.take(numbers(4, 100)), { type: "replayEnd", offset: 100 });
  conversation.take(frame(2, "more"));
  assert.equal(conversation.resumeFrom, 104);
  conversation.connected();
  assert.equal(conversation.take(numbers(4, 104)), undefined);
  assert.deepEqual(conversation.take(numbers(5, 104, 200)), { type: "gap", start: 104, end: 200 });
  assert.deepEqual(conversation.take(Uint8Array.of(3, 0, 0, 0, 137)), { type: "exited", status: 137 });
  assert.deepEqual(conversation.exit, { type: "exited", status: 137 });
  assert.throws(() => conversation.take(Uint8Array.of(3, 0, 0, 0, 0)), ProtocolFailure);
});

test("what no agent says is an error", () => {
  for (const message of ["", "[]", '{"offset":5}', new Uint8Array(), Uint8Array.of(9), Uint8Array.of(3, 0)]) {
    assert.throws(() => new Conversation("start").take(message), ProtocolFailure, inspect(message));
  }
});

test("a cut does not end a conversation, and authority does", () => {
  const passing: [number, string][] = [
    [1006, ""],
    [1001, ""],
    [1012, "gateway.draining"],
    [1013, "instance.moving"],
    [1001, "client.lost x"],
  ];
  for (const [code, reason] of passing) assert.equal(endingOf(code, reason), undefined, `${code} ${reason}`);
  assert.ok(endingOf(4410, "instance.gone") instanceof InstanceGone);
  assert.equal(endingOf(1012, "upstream.changed asleep now")?.detail, "asleep now");
  assert.ok(endingOf(1012, "upstream.changed") instanceof UpstreamChanged);
  assert.ok(endingOf(1008, "policy") instanceof UnknownRefusal);
});

test("every row of the error table is a class", () => {
  const rows = JSON.parse(readFileSync(`${SDK}/../errors.json`, "utf8")) as Record<string, string>[];
  assert.deepEqual(
    [...landfast.TABLE.keys()],
    rows.map(({ code }) => code),
  );
  for (const row of rows) {
    const Row = landfast.TABLE.get(row["code"] ?? "");
    assert.ok(Row);
    const made = new Row("what exactly", { requestId: "req_1" });
    assert.equal(Object.entries(landfast).find(([, value]) => value === Row)?.[0], row["name"]);
    assert.deepEqual(
      [made.name, made.code, made.status ?? null, made.closeCode ?? null, made.retry, made.sentence, made.advice],
      [row["name"], row["code"], row["status"], row["close"], row["retry"], row["sentence"], row["advice"]],
    );
    assert.deepEqual([made.requestId, made.retryable], ["req_1", row["retry"] === "safe"]);
    assert.equal(made.message, `${row["sentence"]} what exactly ${row["advice"]}`);
  }
});

test("an answer that says no is told as its row, or as what nobody knows", () => {
  const headers = new Headers({ "landfast-error": "instance.gone", "landfast-request-id": "req_1, req_2" });
  const gone = landfast.fromAnswer(410, headers, '{"detail":"It ended."}');
  assert.ok(gone instanceof InstanceGone);
  assert.deepEqual([gone.requestId, gone.detail], ["req_1", "It ended."]);
  const unknown = landfast.fromAnswer(418, new Headers(), "<html>");
  assert.ok(unknown instanceof UnknownRefusal);
  assert.deepEqual([unknown.status, unknown.code, unknown.retryable], [418, "unknown", false]);
});

test("secrets are not printed", () => {
  const instance = { id: "ins_1", kind: "sandbox", phase: "running", desired: "running", generation: 1, created_at: 1 };
  const record = readInstance({ ...instance, base_url: "http://x", token: "SECRET", cdp_url: "ws://x?token=SECRET" });
  const token = readToken({ id: "tok_1", token: "SECRET", scopes: ["all"], expires_at: 1 });
  const client = new Landfast({ url: "http://127.0.0.1:9", apiKey: "SECRET" });
  client.routes.put("ins_1", { baseUrl: "http://x", token: "SECRET" });
  assert.deepEqual([record.token, token.token], ["SECRET", "SECRET"]);
  for (const thing of [record, token, client, client.routes]) {
    assert.ok(!inspect(thing, { depth: 9 }).includes("SECRET") && !JSON.stringify(thing).includes("SECRET"));
  }
});

test("a record that is none is an error", () => {
  for (const answer of [undefined, null, [], "x", {}, { id: 5 }, { id: "ins_1", kind: [] }]) {
    assert.throws(() => readInstance(answer), ProtocolFailure);
  }
});

test("a client is told at once what it lacks", () => {
  assert.throws(() => new Landfast({ url: "nowhere", apiKey: "key" }), Misused);
  assert.throws(() => new Landfast({ url: "ftp://x", apiKey: "key" }), Misused);
});

function frame(channel: number, text: string): Uint8Array {
  return Uint8Array.of(channel, ...new TextEncoder().encode(text));
}

function numbers(channel: number, ...values: number[]): Uint8Array {
  const view = new DataView(new ArrayBuffer(1 + 8 * values.length));
  view.setUint8(0, channel);
  for (const [at, value] of values.entries()) view.setBigUint64(1 + 8 * at, BigInt(value));
  return new Uint8Array(view.buffer);
}
