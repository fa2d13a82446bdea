/** Instances of a real cell: made, found, listed, and led through their lives. */

import assert from "node:assert/strict";
import { after, test } from "node:test";
import * as landfast from "../src/index.js";
import { Landfast, Misused } from "../src/index.js";
import { PAUSES } from "../src/retry.js";
import { evaluate } from "./support/cdp.js";
import { binary, Cell } from "./support/cell.js";
import { nowhere } from "./support/servers.js";
import { text } from "./support/text.js";

const cell = await Cell.start();
after(() => cell.close());
const client = cell.client();

test("an instance lives as it is told", async () => {
  const options = { labels: { test: "life" }, idempotencyKey: "life" };
  const instance = await client.instances.create(options);
  const again = await client.instances.create(options);
  assert.deepEqual([instance.phase, again.id, instance.labels], ["running", instance.id, { test: "life" }]);
  assert.equal((await instance.sleep()).phase, "sleeping");
  assert.equal((await instance.wake()).phase, "running");
  await assert.rejects(instance.move(), landfast.MoveRefused);
  assert.equal((await instance.stop()).record.desired, "stopped");
  await instance.delete();
  await instance.refresh();
  assert.ok(instance.hasEnded || instance.record.desired === "deleted");
  assert.ok(!client.routes.has(instance.id));
});

test("all pages are listed", async () => {
  const labels = { test: "pages" };
  const made = await Promise.all([0, 1, 2].map(() => client.instances.create({ labels, wait: 0 })));
  const listed: string[] = [];
  for await (const instance of client.instances.list({ labels, page: 1 })) listed.push(instance.id);
  assert.deepEqual(listed.sort(), made.map(({ id }) => id).sort());
});

test("what is not there says so", async () => {
  await assert.rejects(client.instances.get("ins_00000000000000000000000000"), (failure) => {
    assert.ok(failure instanceof landfast.InstanceUnknown);
    return failure.status === 404 && !failure.retryable && failure.requestId !== undefined;
  });
  const refused = client.instances.create({ spec: { services: { web: { port: 0 } } } });
  await assert.rejects(
    refused,
    (failure) => failure instanceof landfast.RequestInvalid && /services\.web/.test(failure.message),
  );
});

test("a name that climbs goes nowhere", async () => {
  for (const name of ["", "..", "../keys", "ins_1/../../keys", "ins_1?x", "ins 1", "%2e%2e"]) {
    await assert.rejects(client.instances.get(name), Misused);
    await assert.rejects(client.revokeToken(name), Misused);
  }
});

test("a token is made for others and taken back", async () => {
  const instance = await client.instances.create();
  const token = await instance.createToken({ scopes: ["process"], seconds: 60 });
  const ask = () =>
    fetch(`${instance.record.baseUrl}/processes`, { headers: { Authorization: `Bearer ${token.token}` } });
  assert.deepEqual([token.scopes, (await ask()).status], [["process"], 200]);
  await client.revokeToken(token.id);
  while ((await ask()).status === 200) {
    // The gateway hears of it.
  }
});

test("a server in an instance is asked", async () => {
  const argv = ["python3", "-m", "http.server", "--bind", "127.0.0.1", "8732"];
  const spec = { services: { web: { argv, port: 8732 } } };
  const { id, services } = await client.instances.create({ kind: "actor", spec });
  const response = await services.request("web", "GET", "/no-such-file?x=1");
  assert.deepEqual([response.status, response.headers.has("landfast-error")], [404, false]);
  const [web] = await services.list();
  assert.deepEqual([web?.name, web?.state], ["web", "up"]);
  assert.match(text(await services.output("web")), /no-such-file\?x=1/);
  await services.restart("web");
  assert.ok((await services.url("web")).endsWith(`/i/${id}/web/`));
  await assert.rejects(services.restart("db"), landfast.ServiceUnknown);
  for (const path of ["/../../ins_2/processes", "/%2e%2e/x", "\\..\\x", "/.\t./x"]) {
    await assert.rejects(services.request("web", "GET", path), Misused);
  }
});

test("a copy of a client knows the same routes", async () => {
  const instance = await client.instances.create();
  const copy = client.copy({ retries: 0 });
  assert.ok(copy.routes === client.routes && copy.routes.has(instance.id));
  assert.ok((await (await copy.instances.get(instance.id)).processes.run(["true"])).ok);
  await instance.delete();
  assert.ok(!copy.routes.has(instance.id));
});

test("a cell that is not there is unreachable", async () => {
  const { first } = PAUSES;
  PAUSES.first = 1;
  after(() => {
    PAUSES.first = first;
  });
  const asking = new Landfast({ url: await nowhere(), apiKey: "key" }).instances.get("ins_1");
  await assert.rejects(asking, (failure) => {
    assert.ok(failure instanceof landfast.Unreachable);
    return failure.code === "unreachable" && failure.retryable && failure.requestId === undefined;
  });
  // A port that `fetch` refuses by itself.
  await assert.rejects(new Landfast({ url: "http://127.0.0.1:9", apiKey: "key" }).instances.get("ins_1"), Misused);
});

test("a browser is driven, restarted, looked at and forwarded", async () => {
  const instance = await client.instances.create({ kind: "browser" });
  const { browser } = instance;
  assert.equal(await evaluate(await browser.cdpUrl(), "6 * 7"), 42);
  const before = await browser.state();
  assert.ok(before.state === "up" && before.version !== undefined);
  assert.equal(text(await browser.screenshot()).slice(1, 4), "PNG");
  const later = await browser.restart();
  assert.deepEqual([later.state, later.start], ["up", before.start + 1]);
  assert.ok((await browser.setFlags(["--user-agent=other"])).flags.includes("--user-agent=other"));
  assert.equal(await evaluate(await browser.cdpUrl(), "navigator.userAgent"), "other");
  for await (const event of instance.events.stream({ types: ["cdp_connect"], replay: true })) {
    assert.equal(event.kind, "event");
    break;
  }
  await using forward = await client.forward(instance, "cdp", { binary: binary() });
  const told = (await (await fetch(`${forward.address}/json/version`)).json()) as { webSocketDebuggerUrl: string };
  assert.equal(await evaluate(told.webSocketDebuggerUrl, "1 + 1"), 2);
});

test("a sandbox is no browser, and a program that is not there is no forward", async () => {
  const instance = await client.instances.create();
  await assert.rejects(instance.browser.cdpUrl(), landfast.ProtocolFailure);
  await assert.rejects(instance.browser.state(), landfast.LandfastError);
  await assert.rejects(client.forward(instance, "cdp", { binary: "/no/such/program" }), Misused);
  await assert.rejects(
    client.forward("ins_00000000000000000000000000", "cdp", { binary: binary() }),
    landfast.Unreachable,
  );
});
