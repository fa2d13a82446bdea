/** A server that says what it is told to and writes down what it saw, on real sockets. */

import { once } from "node:events";
import { type AddressInfo, createServer, type Server as Listener, type Socket } from "node:net";

export type Headers = Record<string, string>;

/** What a server says: a body shorter than its `Content-Length` is a cut one, and the connection's end. */
export interface Said {
  status: number;
  headers?: Headers;
  body?: string;
}

/** A request as it came over the wire. */
export interface Seen {
  method: string;
  path: string;
  headers: Headers;
  body: string;
  raw: string;
  /** The bearer token, empty for none. */
  token: string;
}

/** What a server says to a request; undefined ends the connection instead. */
export type Answer = (request: Seen) => Said | undefined | Promise<Said | undefined>;

/** Serves until it is closed. `answer` is called in the order in which requests have arrived. */
export class Server {
  readonly seen: Seen[] = [];
  readonly url: string;
  readonly #listener: Listener;
  readonly #connections = new Set<Socket>();

  private constructor(listener: Listener, answer: Answer) {
    this.#listener = listener;
    this.url = urlOf(listener);
    listener.on("connection", (socket) => {
      this.#connections.add(socket);
      socket.on("close", () => this.#connections.delete(socket));
      // A client that cuts its connection is no fault of the server's.
      this.#serve(socket, answer).catch(() => undefined);
    });
  }

  static async start(answer: Answer): Promise<Server> {
    return new Server(await listening(), answer);
  }

  /** Ends the listener and every connection. */
  async close(): Promise<void> {
    for (const socket of this.#connections) socket.destroy();
    this.#listener.close();
    await once(this.#listener, "close");
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  async #serve(socket: Socket, answer: Answer): Promise<void> {
    const reader = new Reader(socket);
    for (;;) {
      const request = await reader.request();
      if (request === undefined) break;
      this.seen.push(request);
      const said = await answer(request);
      if (said === undefined || !(await say(socket, said))) break;
    }
    socket.destroy();
  }
}

/** The URL of a port where nothing listens. */
export async function nowhere(): Promise<string> {
  const listener = await listening();
  const url = urlOf(listener);
  listener.close();
  await once(listener, "close");
  return url;
}

class Reader {
  readonly #parts: AsyncIterator<Buffer>;
  #bytes = "";
  #raw = "";

  constructor(socket: Socket) {
    this.#parts = socket[Symbol.asyncIterator]();
  }

  async request(): Promise<Seen | undefined> {
    this.#raw = "";
    const head = await this.#until("\r\n\r\n");
    if (head === undefined) return undefined;
    const [first = "", ...lines] = head.split("\r\n");
    const [method = "", path = ""] = first.split(" ");
    const pairs = lines.map((line): [string, string] => {
      const colon = line.indexOf(":");
      return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()];
    });
    const headers = Object.fromEntries(pairs);
    const isChunked = "transfer-encoding" in headers;
    const body = isChunked ? await this.#chunks() : await this.#take(Number(headers["content-length"] ?? 0));
    const token = (headers["authorization"] ?? "").replace(/^Bearer /, "");
    return { method, path, headers, body, raw: this.#raw, token };
  }

  async #chunks(): Promise<string> {
    for (let body = ""; ; ) {
      const size = Number.parseInt((await this.#until("\r\n")) ?? "0", 16);
      const part = (await this.#take(size + 2)).slice(0, -2);
      if (part === "") return body;
      body += part;
    }
  }

  async #until(end: string): Promise<string | undefined> {
    while (!this.#bytes.includes(end)) {
      if (!(await this.#more())) return undefined;
    }
    return (await this.#take(this.#bytes.indexOf(end) + end.length)).slice(0, -end.length);
  }

  async #take(size: number): Promise<string> {
    while (this.#bytes.length < size && (await this.#more())) {
      // Until there is enough.
    }
    const part = this.#bytes.slice(0, size);
    this.#bytes = this.#bytes.slice(size);
    this.#raw += part;
    return part;
  }

  async #more(): Promise<boolean> {
    const { done, value } = await this.#parts.next();
    // One character for each byte.
    if (!done) this.#bytes += value.toString("latin1");
    return !done;
  }
}

async function say(socket: Socket, { status, headers = {}, body = "" }: Said): Promise<boolean> {
  const all: Headers = status === 204 ? headers : { "Content-Length": String(Buffer.byteLength(body)), ...headers };
  const lines = Object.entries(all).map(([name, value]) => `${name}: ${value}\r\n`);
  const text = `HTTP/1.1 ${status} As said\r\n${lines.join("")}\r\n${body}`;
  await new Promise((resolve) => socket.write(text, resolve));
  return Number(all["Content-Length"] ?? 0) === Buffer.byteLength(body);
}

async function listening(): Promise<Listener> {
  const listener = createServer();
  listener.listen(0, "127.0.0.1");
  await once(listener, "listening");
  return listener;
}

function urlOf(listener: Listener): string {
  return `http://127.0.0.1:${(listener.address() as AddressInfo).port}`;
}
