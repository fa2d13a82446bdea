/** Bytes as text, for comparing. */

import assert from "node:assert/strict";
import type { Attachment, Output, ProcessEvent } from "../../src/index.js";

/** The text that these bytes are, one character for each byte. */
export function text(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString("latin1");
}

/** What the output among these events says. */
export function saidBy(events: readonly ProcessEvent[]): string {
  return events
    .filter((event): event is Output => event.type === "output")
    .map(({ data }) => text(data))
    .join("");
}

/** Reads until the process has said this, and returns what it said. */
export async function readUntil(attachment: Attachment, wanted: string): Promise<string> {
  for (let said = ""; ; ) {
    const { done, value } = await attachment.next();
    assert.ok(!done, `it ended after ${said}`);
    said += saidBy([value]);
    if (said.includes(wanted)) return said;
  }
}

/** Everything that it tells until its exit. */
export async function allOf(attachment: Attachment): Promise<ProcessEvent[]> {
  const events: ProcessEvent[] = [];
  for await (const event of attachment) events.push(event);
  return events;
}
