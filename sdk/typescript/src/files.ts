/**
 * The files of an instance.
 *
 * @module
 */

import { PATIENCE_SECONDS } from "./attachment.js";
import { type Abortable, type Ask, type Caller, jsonOf, type Params, partsOf, queryOf } from "./caller.js";
import { Content, RESTARTS } from "./content.js";
import { mayPass } from "./endings.js";
import { SILENCE_SECONDS } from "./events.js";
import { LandfastError, ProtocolFailure } from "./failure.js";
import {
  type FileChange,
  type FileInfo,
  itemsOf,
  readChange,
  readFile,
  readUnpacked,
  type Unpacked,
} from "./records.js";
import { pauseBefore, sleep } from "./retry.js";
import { Decoder } from "./sse.js";
import { drop } from "./wire.js";

/** Seconds for which nothing of a content or a tree may move before it counts as cut. */
const MOVING_SECONDS = 120;

/** Bytes a second of a slow way, by which what is sent at once is given its time. */
const SLOW = 100_000;

/** A path in an instance, absolute or from its home; as bytes if it is no UTF-8. */
export type FilePath = string | Uint8Array;

/** Which part of a file is read. */
export interface ContentOptions extends Abortable {
  /** The first byte; 0 if not said. */
  start?: number;
  /** The one after the last byte; the file's end if not said. */
  end?: number;
  /** Seconds without a connection after which a content that is cut is given up; 600 if not said. */
  patience?: number;
}

/** How something is made. */
export interface MakeOptions extends Abortable {
  /** Who may do what with it, as for `chmod`. */
  mode?: number;
  /** Makes missing directories above it. */
  parents?: boolean;
}

/** How a file is written. */
export interface WriteOptions extends MakeOptions {
  /** Whether it may take the place of another; true if not said. */
  overwrite?: boolean;
  /** The present file must have this `etag`. */
  etag?: string;
}

/** How something gets another name. */
export interface MoveOptions extends Abortable {
  /** Whether it may take the place of another; false if not said. */
  overwrite?: boolean;
}

/** What is watched. */
export interface WatchOptions extends Abortable {
  /** Also what is in directories below. */
  recursive?: boolean;
  /** Seconds without a connection after which it is given up; 600 if not said. */
  patience?: number;
}

/**
 * The files of one instance, with the rights of its user.
 *
 * All throw `FileNotFound`, `FileDenied` and what else their descriptions name.
 */
export class Files {
  readonly #caller: Caller;
  readonly #path: string;

  constructor(caller: Caller, instance: string) {
    this.#caller = caller;
    this.#path = `/instances/${instance}/files`;
  }

  /** Looks at a file, or without `follow` at a link itself. Safe to repeat. */
  async stat(path: FilePath, { follow, ...options }: Abortable & { follow?: boolean } = {}): Promise<FileInfo> {
    return readFile(await this.#json("GET", "stat", { path, follow }, options));
  }

  /**
   * Goes through a directory in the order of its names' bytes, over all pages; links are not followed.
   *
   * Throws `FileNotADirectory`.
   */
  async *list(path: FilePath = ".", options: Abortable = {}): AsyncGenerator<FileInfo, void, undefined> {
    let cursor: string | undefined;
    do {
      const page = await this.#json("GET", "list", { path, cursor }, options);
      for (const item of itemsOf(page, "items")) yield readFile(item);
      const { next_cursor: next } = page as { next_cursor?: unknown };
      cursor = typeof next === "string" ? next : undefined;
    } while (cursor !== undefined);
  }

  /**
   * Reads a file, or its bytes from `start` to before `end`, at once. Safe to repeat.
   *
   * Where it is cut it goes on, for `patience` seconds; one that was replaced meanwhile is begun anew. Throws `FileNotAFile`,
   * and `FileRange` if it ends before `start`.
   */
  async read(path: FilePath, options: ContentOptions = {}): Promise<Uint8Array> {
    let pieces: Uint8Array[] = [];
    for await (const piece of this.#content(path, options, RESTARTS)) {
      if (piece === "void") {
        pieces = [];
      } else {
        pieces.push(piece);
      }
    }
    return joined(pieces);
  }

  /**
   * Reads a file of any size, as `read` does, in pieces.
   *
   * One that was replaced meanwhile throws `FileChanged`; one that changes all the time, and so cannot be gone on with,
   * throws `Broken` where it is cut.
   */
  async *chunks(path: FilePath, options: ContentOptions = {}): AsyncGenerator<Uint8Array, void, undefined> {
    for await (const piece of this.#content(path, options, 0)) {
      if (piece !== "void") yield piece;
    }
  }

  /**
   * Writes a file, whole or not at all, from bytes, from text as UTF-8, or from a stream of bytes.
   *
   * Safe to repeat; a stream is sent once. Throws `FileExists`, `FileChanged`, `FileNotAFile`, and `FileNoSpace`, after
   * which the old file is still there.
   */
  async write(
    path: FilePath,
    data: string | Uint8Array | Blob | ReadableStream<Uint8Array>,
    options: WriteOptions = {},
  ): Promise<FileInfo> {
    const { mode, parents, overwrite = true, etag, signal } = options;
    const headers = {
      ...(overwrite ? {} : { "If-None-Match": "*" }),
      ...(etag === undefined ? {} : { "If-Match": etag }),
    };
    const url = this.#url("content", { path, mode: octal(mode), parents });
    const ask = { content: data, headers, direct: true, seconds: MOVING_SECONDS + sizeOf(data) / SLOW, signal };
    return readFile(await this.#caller.json("PUT", url, ask));
  }

  /** Makes a directory, which may be there already. Safe to repeat. Throws `FileExists` if something else is. */
  async mkdir(path: FilePath, { mode, parents, ...options }: MakeOptions = {}): Promise<FileInfo> {
    return readFile(await this.#json("PUT", "directory", { path, mode: octal(mode), parents }, options));
  }

  /**
   * Gives a file or directory another name. After `Broken` it may be moved.
   *
   * Throws `FileExists`, and `FileOtherDevice` for a directory that would go to another file system.
   */
  async move(path: FilePath, to: FilePath, { overwrite, ...options }: MoveOptions = {}): Promise<FileInfo> {
    return readFile(await this.#json("POST", "move", { path, to, overwrite }, options));
  }

  /** Says who may do what with it. Safe to repeat. */
  async chmod(path: FilePath, mode: number, options: Abortable = {}): Promise<FileInfo> {
    return readFile(await this.#json("PUT", "mode", { path, mode: octal(mode) }, options));
  }

  /**
   * Removes a file or a link, and with `recursive` a directory with all it holds; no link is followed.
   *
   * Throws `FileNotAFile` for a directory. Safe to repeat: then it throws `FileNotFound`.
   */
  async remove(path: FilePath, { recursive, ...options }: Abortable & { recursive?: boolean } = {}): Promise<void> {
    const url = this.#url(recursive ? "tree" : "content", { path });
    await this.#caller.call("DELETE", url, { direct: true, ...options });
  }

  /** Reads what is in a directory as a tar stream, in pieces. One that is cut throws `Broken`. */
  async *tree(path: FilePath, options: Abortable = {}): AsyncGenerator<Uint8Array, void, undefined> {
    yield* partsOf(await this.#caller.stream(this.#url("tree", { path }), { seconds: MOVING_SECONDS, ...options }));
  }

  /**
   * Puts what is in a tar stream into a directory; nothing of it lands elsewhere.
   *
   * Throws `FileArchive`, `FileEscape` for what leads out, and `FileExists` where a directory and a file meet; then what came
   * before is there.
   */
  async writeTree(
    path: FilePath,
    archive: Uint8Array | Blob | ReadableStream<Uint8Array>,
    { parents, signal }: Omit<MakeOptions, "mode"> = {},
  ): Promise<Unpacked> {
    const ask = { content: archive, direct: true, seconds: MOVING_SECONDS + sizeOf(archive) / SLOW, signal };
    return readUnpacked(await this.#caller.json("PUT", this.#url("tree", { path, parents }), ask));
  }

  /**
   * Goes through what happens to a file, in a directory, or with `recursive` to all below it.
   *
   * Ends when that is gone. A change of type `gap` says that some was missed, as each disconnect does: look again. Throws
   * `LimitWatches`, how the instance ended, or what kept it from being reached for `patience` seconds.
   */
  async *watch(path: FilePath = ".", options: WatchOptions = {}): AsyncGenerator<FileChange, void, undefined> {
    const { recursive, patience = PATIENCE_SECONDS, signal } = options;
    const ask: Ask = { headers: { Accept: "text/event-stream" }, seconds: SILENCE_SECONDS, signal };
    let [hasBegun, attempt, deadline] = [false, 0, performance.now() + patience * 1000];
    for (;;) {
      try {
        const response = await this.#caller.stream(this.#url("watch", { path, recursive }), ask);
        if (hasBegun) yield { type: "gap", path: "", source: undefined, isDirectory: false };
        [hasBegun, attempt, deadline] = [true, 0, 0];
        yield* changesOf(response);
        return;
      } catch (failure) {
        deadline = deadline || performance.now() + patience * 1000;
        if (!(failure instanceof LandfastError) || !mayPass(failure) || performance.now() >= deadline) throw failure;
      }
      await sleep(pauseBefore(attempt), signal);
      attempt += 1;
    }
  }

  /** Pieces, one behind the other; `void` says that all before it is void. */
  async *#content(
    path: FilePath,
    { start = 0, end, patience = PATIENCE_SECONDS, signal }: ContentOptions,
    restarts: number,
  ): AsyncGenerator<Uint8Array | "void", void, undefined> {
    const content = new Content(start, end, restarts);
    let [told, attempt, deadline] = [start, 0, 0];
    for (;;) {
      try {
        const ask: Ask = { headers: content.headers(), seconds: MOVING_SECONDS, signal };
        const response = await this.#caller.stream(this.#url("content", { path }), ask);
        const isWanted = await begun(content, response);
        if (content.at < told) {
          told = content.at;
          yield "void";
        }
        if (isWanted) {
          for await (const piece of partsOf(response)) {
            yield piece;
            content.take(piece.length);
            [told, attempt, deadline] = [content.at, 0, 0];
          }
          return;
        }
        await drop(response);
      } catch (failure) {
        deadline = deadline || performance.now() + patience * 1000;
        if (!(failure instanceof LandfastError) || !mayPass(failure) || performance.now() >= deadline) throw failure;
        content.lose(failure);
        if (attempt > 0) await sleep(pauseBefore(attempt - 1), signal);
        attempt += 1;
      }
    }
  }

  #url(verb: string, params: Params): string {
    return `${this.#path}/${verb}${queryOf(params)}`;
  }

  async #json(method: string, verb: string, params: Params, options: Abortable): Promise<unknown> {
    return jsonOf(await this.#caller.call(method, this.#url(verb, params), { direct: true, ...options }));
  }
}

async function* changesOf(response: Response): AsyncGenerator<FileChange, void, undefined> {
  const decoder = new Decoder();
  for await (const part of partsOf(response)) {
    for (const { data } of decoder.feed(part)) {
      if (data !== undefined) yield changeOf(data);
    }
  }
}

function changeOf(data: string): FileChange {
  let answer: unknown;
  try {
    answer = JSON.parse(data);
  } catch (cause) {
    throw new ProtocolFailure(`A change that is no JSON: ${String(cause)}.`, { cause });
  }
  return readChange(answer);
}

/** Takes the head of an answer, which is let go of if it cannot be gone on with. */
async function begun(content: Content, response: Response): Promise<boolean> {
  try {
    return content.begin(response.status, response.headers);
  } catch (failure) {
    await drop(response);
    throw failure;
  }
}

function joined(pieces: readonly Uint8Array[]): Uint8Array {
  const all = new Uint8Array(pieces.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const piece of pieces) {
    all.set(piece, at);
    at += piece.length;
  }
  return all;
}

function octal(mode: number | undefined): string | undefined {
  return mode?.toString(8);
}

/** The bytes of what is held whole; of a stream nobody knows, and it is given its time piece by piece. */
function sizeOf(data: string | Uint8Array | Blob | ReadableStream<Uint8Array>): number {
  if (data instanceof ReadableStream) return 0;
  return data instanceof Blob ? data.size : data.length;
}
