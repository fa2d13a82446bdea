/** The cases that all SDKs share, through `directFetch`. */

import { test } from "node:test";
import { Caller } from "../src/caller.js";
import { LandfastError } from "../src/errors.js";
import { Files } from "../src/files.js";
import { Gateways } from "../src/gateways.js";
import { PAUSES } from "../src/retry.js";
import { type DirectFetch, type DirectInit, type DirectOptions, directFetch } from "../src/routing.js";
import { API_KEY, allCases, type Call, type Case, type Outcome, Play } from "./support/cases.js";
import { text } from "./support/text.js";

/** Milliseconds of a call of which a case says that the server is silent. */
const TIMEOUT = 500;

PAUSES.first = 1;
const unset = { LANDFAST_DIRECT: process.env["LANDFAST_DIRECT"] };

for (const one of allCases()) {
  test(one.name, async () => {
    await using play = await Play.begin(one);
    const fetch = directFetch(play.url, optionsOf(one, play));
    const files = new Files(new Caller(new Gateways(play.url), API_KEY, fetch, undefined), "ins_1");
    for (const call of one.call) {
      const started = performance.now();
      const asked = call.reads === undefined ? ask(fetch, play.urlOf(call), call) : read(files, call);
      play.judgeCall(call, await outcome(asked), started);
    }
    await play.judge();
  });
}

/** The variables count when the client is made. */
function optionsOf({ direct, environment, retries }: Case, play: Play): DirectOptions {
  for (const name of Object.keys(unset)) delete process.env[name];
  Object.assign(process.env, environment);
  return {
    routes: play.routes,
    timeout: TIMEOUT,
    ...(direct === undefined ? {} : { direct }),
    ...(retries === undefined ? {} : { retries }),
  };
}

function initOf({ method, headers, body, streams, follows }: Call): DirectInit {
  const content = body === undefined ? null : streams ? streamOf(body) : body;
  const all = { Authorization: `Bearer ${API_KEY}`, ...headers };
  return { method, headers: all, body: content, redirect: follows ? "follow" : "manual" };
}

async function ask(fetch: DirectFetch, url: string, call: Call): Promise<Outcome> {
  const response = await fetch(url, initOf(call));
  return { status: response.status, answer: await response.text() };
}

async function read(files: Files, { reads = "", in_pieces: inPieces, start, end }: Call): Promise<Outcome> {
  const part = { ...(start === undefined ? {} : { start }), ...(end === undefined ? {} : { end }) };
  if (!inPieces) return { answer: text(await files.read(reads, part)) };
  let answer = "";
  for await (const piece of files.chunks(reads, part)) answer += text(piece);
  return { answer };
}

async function outcome(asked: Promise<Outcome>): Promise<Outcome> {
  try {
    return await asked;
  } catch (failure) {
    if (failure instanceof LandfastError) return { error: failure.code };
    throw failure;
  }
}

function streamOf(body: string): ReadableStream<Uint8Array> {
  const bytes = new TextEncoder().encode(body);
  let at = 0;
  return new ReadableStream({
    pull(out) {
      if (at === bytes.length) return out.close();
      out.enqueue(bytes.slice(at, at + 1));
      at += 1;
    },
  });
}
