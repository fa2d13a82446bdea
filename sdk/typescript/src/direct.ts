/**
 * A `fetch` that goes to instances directly where it knows the way.
 *
 * Decisions are in `paths`, `routes` and `retry`; here they are carried out, one request at a time.
 *
 * @module
 */

import { Misused, type Retry, TransportFailure, Unreachable } from "./failure.js";
import { DRAINING, Gateways, type Where } from "./gateways.js";
import { ControlPlane, directSubresources, directUrl, isBelow, isGone, type Target } from "./paths.js";
import { askedBy, isIdempotent, RETRIES, Retries, saidBy, sleep } from "./retry.js";
import { type Route, RouteCache } from "./routes.js";
import { Body, copyOf, drop, type Fetch, jsonIn, lookInto, send, type Wire } from "./wire.js";

/** How a routed `fetch` is set up. */
export interface DirectOptions {
  /** What the requests are sent with; `globalThis.fetch` if not said. */
  fetch?: Fetch;
  /** The memory of routes, which others may share. */
  routes?: RouteCache;
  /** The sub-resources that are asked for at the instance itself; as `LANDFAST_DIRECT` says if not said here. */
  direct?: Iterable<string>;
  /** Further attempts, which only the error table allows; 2 if not said. */
  retries?: number;
  /** Milliseconds until an answer begins, and between two parts of it; as long as the `fetch` below waits if not said. */
  timeout?: number;
}

/** What one request may ask for beyond what `fetch` knows. */
export interface DirectInit extends RequestInit {
  landfast?: {
    /** Only the instance can answer: its route is asked for if it is not known. */
    direct?: boolean;
    /** The answer is read before it is returned, so that a cut one can be asked for again. */
    whole?: boolean;
    /** Milliseconds, as in `DirectOptions`, for this request. */
    timeout?: number | undefined;
  };
}

/** A `fetch` with routes. */
export interface DirectFetch {
  (input: string | URL | Request, init?: DirectInit): Promise<Response>;
  /** The routes that are known. */
  readonly routes: RouteCache;
}

/** Bytes of an answer that are looked at for the code that says gone. */
const GONE_BODY_MAX = 64 * 1024;

/** API keys of one `fetch` that are remembered, so that they can be kept from instances. */
const KEYS_MAX = 16;

/** Redirects that are followed, as many as `fetch` itself follows. */
const REDIRECTS_MAX = 20;

const REDIRECTS: readonly number[] = [301, 302, 303, 307, 308];
const STALE_CODES: readonly (string | null)[] = ["auth.expired", "auth.invalid"];
const CREDENTIALS: readonly string[] = ["authorization", "cookie", "proxy-authorization"];
const BODY_HEADERS: readonly string[] = ["content-encoding", "content-language", "content-location", "content-type"];

const answeredBy = new WeakMap<Response, "instance" | "control">();

/** Who gave an answer: the instance itself, or the control plane; undefined for answers of anybody else. */
export function cameBy(response: Response): "instance" | "control" | undefined {
  return answeredBy.get(response);
}

/**
 * Puts direct routing, its fallback and safe retries under whatever takes a `fetch`.
 *
 * Whatever asks the control plane at `url` for an instance teaches it the way there; from then on calls to the
 * instance's sub-resources go to the instance itself, with the instance's token in the place of the API key. Requests to
 * any other place pass unchanged, except that the API key is taken from them.
 *
 * Several URLs, in a list or with commas between them, are gateways of one cell: a request that one of them did not take
 * goes to the next. The first is the one that requests are addressed to.
 *
 * Redirects are followed here: the API key stays with the control plane, an instance's token with the instance. A body
 * that is a stream, as that of every `Request` is, is sent once; one that is said in `init` can be sent again.
 *
 * The `fetch` throws `Unreachable`, `Broken` and `TimedOut`, also out of an answer's body that is cut, and the reason of a
 * signal that is aborted.
 */
export function directFetch(url: Where | Gateways, options: DirectOptions = {}): DirectFetch {
  const router = new Router(url instanceof Gateways ? url : new Gateways(url), options);
  const fetch = (input: string | URL | Request, init?: DirectInit) => router.fetch(input, init);
  return Object.assign(fetch, { routes: router.routes });
}

/** A request of the caller, or what redirects have made of it. */
interface Call {
  readonly method: string;
  readonly url: URL;
  readonly headers: Headers;
  readonly body: Body;
  readonly signal: AbortSignal | null;
  readonly rest: RequestInit;
  readonly wants: NonNullable<DirectInit["landfast"]>;
  /** Where a redirect came from: an instance, by this route; or another place, after which nobody is trusted. */
  readonly sentBy: Route | "stranger" | undefined;
}

/** An answer, and where it came from. */
interface Answer {
  readonly response: Response;
  readonly url: URL;
  readonly route?: Route;
}

class Router {
  readonly routes: RouteCache;
  readonly #gateways: Gateways;
  readonly #control: ControlPlane;
  readonly #fetch: Fetch;
  readonly #direct: readonly string[];
  readonly #retries: number;
  readonly #timeout: number | undefined;
  readonly #keys: string[] = [];

  constructor(gateways: Gateways, options: DirectOptions) {
    this.routes = options.routes ?? new RouteCache();
    this.#gateways = gateways;
    this.#control = new ControlPlane(gateways.first);
    // Called as a function of nothing, as browsers insist.
    this.#fetch = options.fetch ?? ((input, init) => globalThis.fetch(input, init));
    this.#direct = directSubresources(options.direct);
    this.#retries = options.retries ?? RETRIES;
    this.#timeout = options.timeout;
  }

  /** Sends a request where it is answered best, again where that is safe, and follows where it is sent. */
  async fetch(input: string | URL | Request, init: DirectInit = {}): Promise<Response> {
    const redirect = init.redirect ?? (input instanceof Request ? input.redirect : "follow");
    let call = callOf(input, init);
    for (let count = 0; ; count += 1) {
      const answer = await this.#once(call);
      const { response } = answer;
      const location = REDIRECTS.includes(response.status) ? response.headers.get("location") : null;
      if (location === null || redirect === "manual") return response;
      await drop(response);
      if (redirect === "error") throw new Misused(`The answer is a redirect to ${location}.`);
      if (count === REDIRECTS_MAX) throw new Misused(`The answers are more than ${REDIRECTS_MAX} redirects.`);
      call = this.#redirected(call, answer, location);
    }
  }

  async #once(call: Call): Promise<Answer> {
    if (call.sentBy !== undefined) return this.#follow(call, call.sentBy);
    const target = this.#control.target(call.url);
    if (target === undefined) {
      return { response: await send(this.#fetch, this.#wire(call, call.url, "stranger")), url: call.url };
    }
    this.#rememberKey(call);
    const { instance } = target;
    const route = instance === undefined ? undefined : await this.#route(call, target, instance);
    if (instance === undefined || route === undefined) {
      return { response: await this.#askControl(call, target, this.#retries), url: call.url };
    }
    return this.#askInstance(call, target, instance, route);
  }

  async #route(call: Call, target: Target, instance: string): Promise<Route | undefined> {
    const isForced = call.wants.direct === true;
    if (!isForced && !target.isBelow(this.#direct)) return undefined;
    return this.routes.get(instance) ?? (isForced ? this.#ask(call, instance) : undefined);
  }

  async #askControl(call: Call, target: Target, retries: number): Promise<Response> {
    const hasRoutes = target.hasRoutes(call.method);
    const wire = { ...this.#wire(call, call.url), whole: hasRoutes || call.wants.whole === true };
    if (target.takesIdempotencyKey(call.method) && !wire.headers.has("idempotency-key")) {
      wire.headers.set("idempotency-key", newKey());
    }
    let response = await this.#attempts(wire, retries);
    if (response.ok && hasRoutes) {
      const text = await response.text();
      this.routes.learn(jsonIn(response.headers, text));
      response = copyOf(response, text, call.url.href);
    }
    if (response.ok && target.endsInstance(call.method) && target.instance !== undefined) {
      this.routes.forget(target.instance);
    }
    answeredBy.set(response, "control");
    return response;
  }

  async #askInstance(call: Call, target: Target, instance: string, known: Route): Promise<Answer> {
    let route = known;
    let answer = await this.#askDirectly(call, target, route);
    if (isStale(answer.response)) {
      this.routes.forget(instance, route);
      const fresh = call.body.canBeSent ? await this.#askAnew(call, instance, answer.response) : undefined;
      if (fresh === undefined) return answer;
      await drop(answer.response);
      route = fresh;
      answer = await this.#askDirectly(call, target, route);
    }
    if (answer.response.status !== 404 && answer.response.status !== 410) return answer;
    const [response, problem] = await lookInto(answer.response, GONE_BODY_MAX);
    answeredBy.set(response, "instance");
    if (!isGone(response.status, problem)) return { ...answer, response };
    this.routes.forget(instance, route);
    if (call.method !== "GET" || !target.fallsBack || !call.body.canBeSent) return { ...answer, response };
    await drop(response);
    return { response: await this.#askControl(call, target, 0), url: call.url };
  }

  async #askDirectly(call: Call, target: Target, route: Route): Promise<Answer> {
    const wire = this.#wire(call, directUrl(route.baseUrl, target), route);
    const response = cleaned(await this.#attempts(wire, this.#retries), wire.url);
    answeredBy.set(response, "instance");
    return { response, url: wire.url, route };
  }

  async #attempts(wire: Wire, most: number): Promise<Response> {
    const retries = new Retries(most);
    // An attempt that may have run: whatever later ones come to, it is what the caller has to know of.
    let unsure: TransportFailure | undefined;
    const pauseAfter = (retry: Retry, asked?: number) =>
      wire.body.canBeSent ? retries.after(retry, isIdempotent(wire.method, wire.headers), asked) : undefined;
    for (;;) {
      let pause: number | undefined;
      let response: Response | undefined;
      try {
        response = await this.#walk(wire);
      } catch (failure) {
        if (!(failure instanceof TransportFailure)) throw failure;
        if (failure.retry !== "safe") unsure = failure;
        pause = pauseAfter(failure.retry);
        if (pause === undefined) throw unsure ?? failure;
        if (this.#gateways.hasFresh(wire.url)) pause = 0;
      }
      if (response !== undefined) {
        const retry = saidBy(response.headers);
        pause = pauseAfter(retry, askedBy(response.headers));
        if (pause === undefined && (unsure === undefined || retry !== "safe")) return response;
        await drop(response);
        if (pause === undefined) throw unsure;
      }
      await sleep(pause ?? 0, wire.signal);
    }
  }

  /** Sends it to the first gateway that takes it. One that is not reached, or is shutting down, took nothing. */
  async #walk(wire: Wire): Promise<Response> {
    const places = this.#gateways.order(wire.url);
    for (const place of places.slice(0, -1)) {
      try {
        const response = await this.#sendTo(place, wire);
        const isDraining = response.headers.get("landfast-error") === DRAINING;
        if (!isDraining || !wire.body.canBeSent) return response;
        await drop(response);
      } catch (failure) {
        if (!(failure instanceof Unreachable) || !wire.body.canBeSent) throw failure;
      }
    }
    return this.#sendTo(places.at(-1) ?? wire.url, wire);
  }

  async #sendTo(place: URL, wire: Wire): Promise<Response> {
    let response: Response;
    try {
      response = await send(this.#fetch, { ...wire, url: place });
    } catch (failure) {
      if (failure instanceof TransportFailure) this.#gateways.failed(place);
      throw failure;
    }
    const isProgram = response.headers.get("landfast-origin") === "service";
    this.#gateways.judge(place, isProgram ? null : response.headers.get("landfast-error"));
    const location = response.headers.get("location");
    if (location !== null) response.headers.set("location", this.#gateways.like(location, wire.url));
    return response;
  }

  /** Asks for the way again after an answer that said no, which is let go of if that fails. */
  async #askAnew(call: Call, instance: string, refusal: Response): Promise<Route | undefined> {
    try {
      return await this.#ask(call, instance);
    } catch (failure) {
      await drop(refusal);
      throw failure;
    }
  }

  /** Asks the control plane for the way, unless somebody else has done so meanwhile. */
  async #ask(call: Call, instance: string): Promise<Route | undefined> {
    const known = this.routes.get(instance);
    if (known !== undefined) return known;
    const url = this.#control.instance(instance);
    const target = this.#control.target(url);
    if (target === undefined) return undefined;
    const kept = [...call.headers].filter(([name]) => name === "authorization" || name === "user-agent");
    const wants = { timeout: call.wants.timeout };
    const asked = { ...call, method: "GET", url, headers: new Headers(kept), body: new Body(null), wants };
    await drop(await this.#askControl(asked, target, this.#retries));
    return this.routes.get(instance);
  }

  /** Goes where a redirect points to: with an instance's own token if that is in the instance, with none if not. */
  async #follow(call: Call, sentBy: Route | "stranger"): Promise<Answer> {
    const isInside = sentBy !== "stranger" && isBelow(call.url, sentBy.baseUrl);
    const wire = this.#wire(call, call.url, isInside ? sentBy : "stranger");
    const response = cleaned(await send(this.#fetch, wire), wire.url);
    if (isInside) answeredBy.set(response, "instance");
    return sentBy === "stranger" ? { response, url: call.url } : { response, url: call.url, route: sentBy };
  }

  #redirected(call: Call, answer: Answer, location: string): Call {
    const { status } = answer.response;
    if (!URL.canParse(location, answer.url)) throw new Misused(`The answer is a redirect to ${location}.`);
    const url = new URL(location, answer.url);
    const isPost = call.method === "POST" && (status === 301 || status === 302);
    const isOther = status === 303 && call.method !== "GET" && call.method !== "HEAD";
    const becomesGet = isPost || isOther;
    const body = becomesGet ? new Body(null) : call.body;
    if (!body.canBeSent)
      throw new Misused(`The answer is a redirect to ${location}, and the body, a stream, was sent.`);
    const sentBy = answer.route ?? (this.#isTrusted(call, answer.url, url) ? undefined : "stranger");
    const isLeaving = sentBy === "stranger";
    const dropped = [...(becomesGet ? BODY_HEADERS : []), ...(isLeaving ? CREDENTIALS : [])];
    const headers = new Headers([...call.headers].filter(([name]) => !dropped.includes(name)));
    return { ...call, method: becomesGet ? "GET" : call.method, url, headers, body, sentBy };
  }

  /** Whether a redirect that no instance gave leads to whoever gave it. */
  #isTrusted(call: Call, from: URL, to: URL): boolean {
    return call.sentBy === undefined && from.origin === to.origin;
  }

  #rememberKey(call: Call): void {
    const key = credentialOf(call.headers);
    if (key === "" || this.#keys.includes(key)) return;
    this.#keys.push(key);
    if (this.#keys.length > KEYS_MAX) this.#keys.shift();
  }

  /** The request as it leaves: for the control plane as it is, for others without any API key. */
  #wire(call: Call, url: URL, to?: Route | "stranger"): Wire {
    const headers = new Headers(call.headers);
    if (to !== undefined) {
      const isRedirected = call.sentBy !== undefined;
      const keys = to !== "stranger" || isRedirected ? [...this.#keys, credentialOf(call.headers)] : this.#keys;
      const leaks = [...headers].filter(([, value]) => keys.some((key) => key !== "" && value.includes(key)));
      for (const [name] of leaks) headers.delete(name);
    }
    if (to !== undefined && to !== "stranger") headers.set("authorization", `Bearer ${to.token}`);
    const { method, body, signal, wants } = call;
    // Cookies of instances would be taken for the control plane's, and sent to all.
    const isForeign = to === "stranger" && call.sentBy === undefined;
    const rest = to === undefined || isForeign ? call.rest : { ...call.rest, credentials: "omit" as const };
    return {
      method,
      url,
      headers,
      body,
      signal,
      timeout: wants.timeout ?? this.#timeout,
      whole: wants.whole === true,
      rest,
    };
  }
}

function callOf(input: string | URL | Request, init: DirectInit): Call {
  const { method, headers, body, signal, redirect: _, landfast, ...rest } = init;
  const request = input instanceof Request ? input : undefined;
  const text = request?.url ?? input.toString();
  if (!URL.canParse(text)) throw new Misused(`${text} is no URL.`);
  return {
    method: (method ?? request?.method ?? "GET").toUpperCase(),
    url: new URL(text),
    headers: new Headers(headers ?? request?.headers),
    body: new Body(body ?? request?.body),
    signal: signal ?? request?.signal ?? null,
    rest,
    wants: landfast ?? {},
    sentBy: undefined,
  };
}

/** What an instance has answered: its redirects lead where it meant, and its cookies nowhere. */
function cleaned(response: Response, url: URL): Response {
  const location = response.headers.get("location");
  if (REDIRECTS.includes(response.status) && location !== null && URL.canParse(location, url)) {
    response.headers.set("location", new URL(location, url).href);
  }
  response.headers.delete("set-cookie");
  return response;
}

/** Whether Landfast itself, and not a program in the instance, says no to the token. */
function isStale(response: Response): boolean {
  const isProgram = response.headers.get("landfast-origin") === "service";
  const isRefusal = (response.status === 401 || response.status === 403) && !isProgram;
  return isRefusal && STALE_CODES.includes(response.headers.get("landfast-error"));
}

/** The API key of a request, without the word before it. */
function credentialOf(headers: Headers): string {
  return headers.get("authorization")?.split(" ").at(-1) ?? "";
}

function newKey(): string {
  // Not `randomUUID`, which browsers only have where the page came over TLS.
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
