/** What `directFetch` does beyond the cases: what is `fetch`'s own, such as redirects, cookies and `Request`s. */

import assert from "node:assert/strict";
import { test } from "node:test";
import { Broken, Misused } from "../src/index.js";
import { PAUSES } from "../src/retry.js";
import { cameBy, directFetch, RouteCache } from "../src/routing.js";
import { type Said, type Seen, Server } from "./support/servers.js";

PAUSES.first = 1;

const HEADERS = { Authorization: "Bearer the-api-key", Cookie: "mine=1" };

test("an instance's cookies are kept from jars, and it is told who answered", async () => {
  await using instance = await saying({ status: 200, headers: { "Set-Cookie": "its=1" } }, { status: 404 });
  await using control = await saying({ status: 200, headers: { "Set-Cookie": "its=2" } });
  const routes = new RouteCache();
  routes.put("ins_1", { baseUrl: `${instance.url}/i/ins_1`, token: "t1" });
  const fetch = directFetch(control.url, { routes });
  const direct = await fetch(`${control.url}/v1/instances/ins_1/processes`, { headers: HEADERS });
  assert.deepEqual([direct.headers.get("set-cookie"), cameBy(direct)], [null, "instance"]);
  assert.equal(cameBy(await fetch(`${control.url}/v1/instances/ins_1/processes`, { headers: HEADERS })), "instance");
  const other = await fetch(`${control.url}/v1/nodes`, { headers: HEADERS });
  assert.deepEqual([other.headers.get("set-cookie"), cameBy(other)], ["its=2", "control"]);
});

test("who is sent to another place leaves its credentials behind for good", async () => {
  await using control = await Server.start(({ path }) =>
    redirect(307, path === "/v1/nodes" ? `${away.url}/a` : "/end"),
  );
  await using away: Server = await saying(redirect(307, `${control.url}/v1/back`));
  const fetch = directFetch(control.url);
  await assert.rejects(fetch(`${control.url}/v1/nodes`, { headers: HEADERS }), Misused);
  for (const { headers, raw } of [...away.seen, ...control.seen.slice(1)]) {
    assert.ok(!("cookie" in headers || "authorization" in headers) && !raw.includes("the-api-key"));
  }
  assert.deepEqual([away.seen.length, control.seen.length], [1, 20]);
});

test("a redirect is followed as fetch does it", async () => {
  await using server = await saying(
    redirect(303, "/v1/a"),
    { status: 200 },
    redirect(307, "/v1/b"),
    { status: 200 },
    redirect(307, "/v1/c"),
    redirect(302, "/v1/d"),
  );
  const fetch = directFetch(server.url);
  const post = (body: BodyInit) => fetch(`${server.url}/v1/x`, { method: "POST", headers: HEADERS, body });
  assert.equal((await post("one")).url, `${server.url}/v1/a`);
  await post("two");
  assert.deepEqual(
    server.seen.map(({ method, path, body }) => [method, path, body]),
    [
      ["POST", "/v1/x", "one"],
      ["GET", "/v1/a", ""],
      ["POST", "/v1/x", "two"],
      ["POST", "/v1/b", "two"],
    ],
  );
  // A stream that was sent cannot be sent where the redirect leads.
  await assert.rejects(post(new Blob(["three"]).stream()), /\/v1\/c, and the body, a stream, was sent/);
  await assert.rejects(fetch(`${server.url}/v1/x`, { redirect: "error" }), /redirect to \/v1\/d/);
});

test("the body of a Request is a stream, and is sent once", async () => {
  const refusal = { status: 503, headers: { "landfast-error": "instance.starting", "retry-after-ms": "1" } };
  await using server = await saying(refusal, refusal, { status: 200 });
  const fetch = directFetch(server.url);
  const asked = new Request(`${server.url}/v1/instances/ins_1/exec`, {
    method: "POST",
    headers: HEADERS,
    body: "once",
  });
  assert.equal((await fetch(asked)).status, 503);
  const { headers } = asked;
  assert.equal((await fetch(asked.url, { method: "POST", headers, body: "again" })).status, 200);
  assert.deepEqual(
    server.seen.map(({ body, token }) => [body, token]),
    [
      ["once", "the-api-key"],
      ["again", "the-api-key"],
      ["again", "the-api-key"],
    ],
  );
});

test("a stream of which nothing was taken is sent once it can be", async () => {
  await using server = await saying({ status: 200 });
  let attempts = 0;
  const fetch = directFetch(server.url, {
    fetch: async (input, init) => {
      attempts += 1;
      if (attempts === 1) {
        // What a runtime does and says when a connection cannot be made.
        await (init?.body as ReadableStream | undefined)?.cancel();
        throw new TypeError("fetch failed", { cause: Object.assign(new Error(), { code: "ECONNREFUSED" }) });
      }
      return globalThis.fetch(input, init);
    },
  });
  const body = new Blob(["whole"]).stream();
  assert.equal((await fetch(`${server.url}/v1/x`, { method: "POST", headers: HEADERS, body })).status, 200);
  assert.deepEqual([attempts, server.seen[0]?.body], [2, "whole"]);
});

test("a body that is cut is an error also where it is read piece by piece", async () => {
  await using server = await saying({ status: 200, headers: { "Content-Length": "100" }, body: "half" });
  const response = await directFetch(server.url)(`${server.url}/v1/x`, { headers: HEADERS });
  const reader = response.body?.getReader();
  let said = "";
  const reading = (async () => {
    for (let part = await reader?.read(); part?.value !== undefined; part = await reader?.read()) {
      said += new TextDecoder().decode(part.value);
    }
  })();
  await assert.rejects(reading, Broken);
  assert.equal(said, "half");
});

test("an aborted signal throws its reason, also in a pause", async () => {
  const refusal = { status: 429, headers: { "landfast-error": "limit.rate", "Retry-After": "30" } };
  await using server = await saying(refusal);
  const stop = new AbortController();
  const asking = directFetch(server.url)(`${server.url}/v1/nodes`, { headers: HEADERS, signal: stop.signal });
  while (server.seen.length === 0) await new Promise((resolve) => setImmediate(resolve));
  stop.abort(new Error("enough"));
  await assert.rejects(asking, /enough/);
  const aborted = { signal: AbortSignal.abort(new Error("before")) };
  await assert.rejects(directFetch(server.url)(`${server.url}/v1/nodes`, aborted), /before/);
  assert.equal(server.seen.length, 1);
});

/** A server that says this, one after another, and the last of it for ever. */
async function saying(...answers: Said[]): Promise<Server> {
  let count = 0;
  return Server.start((_: Seen) => {
    count += 1;
    return answers[Math.min(count, answers.length) - 1];
  });
}

function redirect(status: number, to: string): Said {
  return { status, headers: { Location: to } };
}
