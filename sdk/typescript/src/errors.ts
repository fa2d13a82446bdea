/**
 * Every error that this package throws.
 *
 * `LandfastError` is all of them. Below it are the rows of the error table (`InstanceGone`, `LimitRate`, …), grouped by
 * whose side the cause lies on (`CallerError`, `InstanceError`, `PlatformError`), and what no answer tells
 * (`Unreachable`, `Broken`, `TimedOut`).
 *
 * @module
 */

import { type Refused, UnknownRefusal } from "./failure.js";
import { TABLE } from "./table.js";

export * from "./failure.js";
export * from "./table.js";

/** Makes the error of an answer that says no. */
export function fromAnswer(status: number, headers: Headers, body: string): Refused {
  const problem = problemOf(body);
  const code = headers.get("landfast-error") || textOf(problem, "code") || "unknown";
  // An answer of the control plane has passed a gateway, and has an id of each; the first is the one that both know.
  const requestId = (headers.get("landfast-request-id") ?? "").split(",")[0]?.trim() || undefined;
  const detail = textOf(problem, "detail");
  const Row = TABLE.get(code);
  if (Row === undefined) return new UnknownRefusal(status, code, detail, { requestId });
  return new Row(detail === Row.row.sentence ? "" : detail, { requestId });
}

/** Makes the error of a close frame: its reason begins with the code, a detail may follow. */
export function fromClose(closeCode: number, reason: string): Refused {
  const [code = "", ...rest] = reason.split(" ");
  const detail = rest.join(" ");
  const Row = TABLE.get(code);
  if (Row === undefined) {
    return new UnknownRefusal(0, code || "unknown", detail || `The connection was closed with ${closeCode}.`);
  }
  return new Row(detail);
}

function problemOf(body: string): Record<string, unknown> {
  try {
    const problem: unknown = JSON.parse(body);
    return typeof problem === "object" && problem !== null ? (problem as Record<string, unknown>) : {};
  } catch {
    return {};
  }
}

function textOf(problem: Record<string, unknown>, key: string): string {
  const value = problem[key];
  return typeof value === "string" ? value : "";
}
