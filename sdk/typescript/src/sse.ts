/**
 * Server-sent events out of bytes, without waiting for anything.
 *
 * Lines end with LF or CRLF, as Landfast writes them; a frame that no blank line ends is not one.
 *
 * @module
 */

import { ProtocolFailure } from "./failure.js";

/** Characters of one frame: an event has at most one million bytes, and JSON may double them. */
const FRAME_MAX = 2 * 1024 * 1024;

/** What stands between two blank lines. */
export interface Frame {
  readonly event: string;
  readonly data: string | undefined;
  readonly id: string | undefined;
}

/** Takes bytes as they come, gives frames as they are whole. */
export class Decoder {
  readonly #utf8 = new TextDecoder();
  #text = "";
  #lines: string[] = [];
  #size = 0;

  /** Takes more bytes. Throws `ProtocolFailure` if a frame is larger than any of ours. */
  *feed(part: Uint8Array): Generator<Frame> {
    this.#text += this.#utf8.decode(part, { stream: true });
    const lines = this.#text.split("\n");
    this.#text = lines.pop() ?? "";
    for (const line of lines) {
      const text = line.endsWith("\r") ? line.slice(0, -1) : line;
      if (text !== "") {
        this.#lines.push(text);
        this.#check(text.length);
        continue;
      }
      const frame = frameOf(this.#lines);
      this.#lines = [];
      this.#size = 0;
      if (frame !== undefined) yield frame;
    }
    if (this.#text.length + this.#size > FRAME_MAX) this.#check(this.#text.length);
  }

  #check(more: number): void {
    this.#size += more;
    if (this.#size > FRAME_MAX) throw new ProtocolFailure("A server-sent event is larger than any of Landfast's.");
  }
}

function frameOf(lines: readonly string[]): Frame | undefined {
  const fields = new Map<string, string[]>();
  for (const line of lines) {
    const colon = line.indexOf(":");
    const name = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (name !== "") fields.set(name, [...(fields.get(name) ?? []), value]);
  }
  if (fields.size === 0) return undefined;
  return {
    event: fields.get("event")?.at(-1) ?? "message",
    data: fields.get("data")?.join("\n"),
    id: fields.get("id")?.at(-1),
  };
}
