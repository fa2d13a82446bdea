/**
 * Five hundred calls at once and a hundred instances that come and go: nobody is asked what was meant for another.
 *
 * Once with servers that count everything, and once with a real cell.
 */

import assert from "node:assert/strict";
import { randomInt } from "node:crypto";
import { after, test } from "node:test";
import { type Fetch, type Instance, InstanceGone, Landfast, RouteCache, UpstreamLost } from "../src/index.js";
import { PAUSES } from "../src/retry.js";
import { Cell } from "./support/cell.js";
import { type Said, type Seen, Server } from "./support/servers.js";

PAUSES.first = 1;

const API_KEY = "the-api-key";
const AT_ONCE = 500;
const INSTANCES = 100;
const CALLS = 6;

/** Instances of the real cell that live at a time: each is processes of its own. */
const ALIVE = 8;
const MAKERS = 25;
const ASKED = 5;

/** Fewer than there are instances, so that routes are forgotten and learnt again all the time. */
const ROUTES = 60;

/** A control plane and its instances, which refuse whatever is not exactly for them. */
class Cloud {
  readonly faults: string[] = [];
  direct = 0;
  /** Where its instances are. */
  url = "";
  readonly #live = new Map<string, number>();

  control(request: Seen): Said {
    let id = (request.path.split("?")[0] ?? "").replace("/v1/instances", "").replaceAll("/", "");
    if (request.token !== API_KEY) this.faults.push(`the control plane saw the token ${request.token}`);
    if (request.method === "POST") {
      id = (JSON.parse(request.body) as { labels: { name: string } }).labels.name;
      this.#live.set(id, (this.#live.get(id) ?? 0) + 1);
    }
    if (request.method === "DELETE") this.#live.delete(id);
    const generation = this.#live.get(id);
    if (generation === undefined) return refusal(410, "instance.gone");
    const record = { id, kind: "sandbox", phase: "running", desired: "running", generation, created_at: 1 };
    return said({ ...record, base_url: `${this.url}/i/${id}`, token: `token of ${id} ${generation}` });
  }

  instance(request: Seen): Said {
    const id = request.path.split("/")[2] ?? "";
    const meant = request.headers["x-meant-for"];
    if (request.raw.includes(API_KEY)) this.faults.push("an instance saw the API key");
    if (meant !== id) this.faults.push(`${id} was asked what ${meant} was meant to be`);
    if (!request.token.startsWith(`token of ${id} `)) this.faults.push(`${id} saw ${request.token}`);
    this.direct += 1;
    const generation = this.#live.get(id);
    if (generation === undefined) return refusal(410, "instance.gone");
    if (request.token !== `token of ${id} ${generation}`) return refusal(401, "auth.invalid");
    return said({ processes: [], of: id });
  }
}

test("no call reaches an instance it was not meant for", async (context) => {
  const luck = seeded(context);
  const cloud = new Cloud();
  await using instance = await Server.start((request) => cloud.instance(request));
  cloud.url = instance.url;
  await using control = await Server.start((request) => cloud.control(request));
  const client = new Landfast({ url: control.url, apiKey: API_KEY, routes: new RouteCache(ROUTES) });
  await Promise.all(Array.from({ length: AT_ONCE }, () => live(client, luck)));
  assert.deepEqual(cloud.faults.slice(0, 3), []);
  assert.ok(client.routes.size <= ROUTES && cloud.direct > (AT_ONCE * CALLS) / 4, `${cloud.direct} direct calls`);
});

async function live(client: Landfast, luck: () => number): Promise<void> {
  for (let count = 0; count < CALLS; count += 1) {
    const id = `ins_${Math.floor(luck() * INSTANCES)}`;
    const choice = luck();
    if (choice < 0.15) {
      await client.instances.create({ labels: { name: id }, wait: 0 });
    } else if (choice < 0.25) {
      await client.fetch(`/v1/instances/${id}`, { method: "DELETE" });
    } else {
      const path = `/v1/instances/${id}/processes` as const;
      const answer = await client.fetch(path, { headers: { "X-Meant-For": id }, landfast: { direct: true } });
      const { of } = (await answer.json()) as { of?: string };
      assert.ok([401, 410].includes(answer.status) || of === id, `${answer.status} of ${of}`);
    }
  }
}

test("instances of a real cell come and go under a crowd", async (context) => {
  const cell = await Cell.start();
  after(() => cell.close());
  const luck = seeded(context);
  const heads: [string, string][] = [];
  const recorded: Fetch = (input, init) => {
    heads.push([new URL(String(input)).pathname, JSON.stringify([input, ...new Headers(init?.headers)])]);
    return fetch(input, init);
  };
  const client = cell.client({ fetch: recorded, routes: new RouteCache(ALIVE / 2) });
  const crowd = new Crowd(
    client,
    await Promise.all(Array.from({ length: ALIVE }, () => client.instances.create())),
    luck,
  );
  await Promise.all(Array.from({ length: MAKERS }, () => crowd.live()));
  assert.deepEqual(crowd.faults, []);
  assert.ok(crowd.made === INSTANCES && crowd.answered > INSTANCES, `${crowd.made} made, ${crowd.answered} answered`);
  assert.ok(client.routes.size <= ALIVE / 2);
  const direct = heads.filter(([path]) => path.startsWith("/i/"));
  assert.ok(direct.length > 0 && !direct.some(([, head]) => head.includes(cell.apiKey)));
  const logs = cell.logs();
  assert.ok(logs.includes("agent started") && !logs.includes(cell.apiKey) && !logs.includes("eyJ"), "a key in a log");
});

/** A few living instances, of which one after another is replaced while everybody asks them who they are. */
class Crowd {
  made = ALIVE;
  answered = 0;
  readonly faults: string[] = [];
  readonly #client: Landfast;
  readonly #alive: Instance[];
  /** Those whose deletion was asked for. */
  readonly #deleted = new Set<Instance>();
  readonly #luck: () => number;

  constructor(client: Landfast, alive: Instance[], luck: () => number) {
    this.#client = client;
    this.#alive = alive;
    this.#luck = luck;
  }

  /** Replaces an instance as long as there are any to make, and asks some. */
  async live(): Promise<void> {
    while (this.made < INSTANCES) {
      this.made += 1;
      const instance = await this.#client.instances.create();
      const slot = this.#slot();
      const before = this.#alive[slot];
      this.#alive[slot] = instance;
      if (before !== undefined) this.#deleted.add(before);
      await before?.delete();
      await Promise.all(Array.from({ length: ASKED }, () => this.#ask(this.#alive[this.#slot()] ?? instance)));
    }
  }

  #slot(): number {
    return Math.floor(this.#luck() * ALIVE);
  }

  async #ask(instance: Instance): Promise<void> {
    try {
      const { text } = await instance.processes.run("echo $LANDFAST_INSTANCE");
      this.answered += 1;
      if (text.trim() !== instance.id) this.faults.push(`${text} was asked what ${instance.id} was meant to be`);
    } catch (failure) {
      // An instance that is being deleted may be caught at any step of that, and nobody else may fail.
      const isEnding = failure instanceof InstanceGone || failure instanceof UpstreamLost;
      if (!isEnding || !this.#deleted.has(instance)) this.faults.push(`${instance.id}: ${String(failure)}`);
    }
  }
}

/** Numbers from 0 to 1 by a seed that is told. */
function seeded(context: { diagnostic: (text: string) => void }): () => number {
  let state = randomInt(2 ** 32);
  context.diagnostic(`seed ${state}`);
  return () => {
    // Mulberry32.
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

function said(answer: object): Said {
  return { status: 200, headers: { "Content-Type": "application/json" }, body: JSON.stringify(answer) };
}

function refusal(status: number, code: string): Said {
  const headers = { "Content-Type": "application/problem+json", "landfast-error": code };
  return { status, headers, body: JSON.stringify({ code }) };
}
