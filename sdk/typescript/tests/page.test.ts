/** The SDK in a page of a real browser, whose origin is none of the cell's. */

import assert from "node:assert/strict";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import type { AddressInfo } from "node:net";
import { after, test } from "node:test";
import { chromium, type Page } from "playwright-core";
import type * as Sdk from "../src/index.js";
import { Cell } from "./support/cell.js";
import { SDK } from "./support/places.js";

const cell = await Cell.start();
after(() => cell.close());

/** Serves the built package, and an empty page that may load it. */
const server = createServer((request, answer) => {
  const isModule = request.url?.endsWith(".js");
  answer.setHeader("Content-Type", isModule ? "text/javascript" : "text/html");
  answer.end(isModule ? readFileSync(`${SDK}/dist${request.url}`) : "<!doctype html>");
}).listen(0, "127.0.0.1");
await once(server, "listening");
after(() => server.close());
const origin = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;

const browser = await chromium.launch({ executablePath: "/usr/bin/chromium", args: ["--no-sandbox"] });
after(() => browser.close());

async function page(): Promise<Page> {
  const opened = await browser.newPage();
  await opened.goto(origin);
  return opened;
}

test("a page that the operator has named uses a cell as any program does", async () => {
  const [url, gateway] = await cell.anotherGateway(`cors_origins = ["${origin}"]`);
  const opened = await page();
  await opened.exposeFunction("away", () => gateway.isAway(0));
  const told = await opened.evaluate(use, { url, apiKey: cell.apiKey });
  assert.deepEqual(told, {
    run: "hello\n",
    said: "typed\n",
    connections: 2,
    size: 30_000_000,
    isSame: true,
    code: "process.unknown",
    hasRequestId: true,
    event: "mine",
  });
  await gateway.kill();
});

test("without that word its browser keeps it from the cell", async () => {
  const opened = await page();
  const told = await opened.evaluate(refused, { url: cell.url, apiKey: cell.apiKey });
  assert.deepEqual(told, [true, "broken"]);
});

interface Where {
  url: string;
  apiKey: string;
}

/** Runs in the page. */
async function use(where: Where): Promise<object> {
  const landfast = (await import(`${location.origin}/index.js`)) as typeof Sdk;
  const { away } = globalThis as unknown as { away: () => Promise<void> };
  const client = new landfast.Landfast(where);
  const instance = await client.instances.create();
  const { text: run } = await instance.processes.run("cat", { input: "hello\n" });
  const process = await instance.processes.start("read line; echo $line");
  const attachment = await process.attach();
  const { files } = instance;
  const made = await instance.processes.run("head -c 30000000 /dev/urandom > large; sleep 0.2; sha256sum large");
  const pieces: Uint8Array[] = [];
  for await (const piece of files.chunks("large")) {
    pieces.push(piece);
    // It goes on by names and offsets that a page is shown only if it is let.
    if (pieces.length === 1) await away();
  }
  const whole = await new Blob(pieces as Uint8Array<ArrayBuffer>[]).arrayBuffer();
  const digest = new Uint8Array(await crypto.subtle.digest("SHA-256", whole));
  const hex = [...digest].map((byte) => byte.toString(16).padStart(2, "0")).join("");
  await attachment.send("typed\n");
  const said = new TextDecoder().decode(await attachment.read());
  const failure = await instance.processes.get("prc_00000000000000000000000000").catch((error: unknown) => error);
  const { code, requestId } = failure as Sdk.LandfastError;
  const { type: event } = await instance.events.say("mine", {});
  await instance.delete();
  const { connections } = attachment;
  const [size, isSame, hasRequestId] = [whole.byteLength, made.text.startsWith(hex), requestId !== undefined];
  return { run, said, connections, size, isSame, code, hasRequestId, event };
}

/** Runs in the page. */
async function refused(where: Where): Promise<unknown> {
  const landfast = (await import(`${location.origin}/index.js`)) as typeof Sdk;
  const client = new landfast.Landfast({ ...where, retries: 0 });
  const failure = await client.instances.create().catch((error: unknown) => error);
  return [failure instanceof landfast.LandfastError, (failure as Sdk.LandfastError).code];
}
