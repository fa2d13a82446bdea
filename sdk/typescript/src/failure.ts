/**
 * Why a call failed: what every error of this package has in common.
 *
 * A caller needs three things of a failure: what went wrong (`code`), whether the same call may be made again
 * (`retryable`), and what to tell us (`requestId`). The rows of the error table are in `table.ts`, one class each;
 * what no answer tells (no connection, a broken one) is here.
 *
 * @module
 */

/**
 * When the same request may be sent again: `safe` if nothing was started, `if idempotent` if it may have run.
 */
export type Retry = "never" | "safe" | "if idempotent";

/** What all failures of one kind have in common. */
export interface Row {
  readonly name: string;
  readonly code: string;
  readonly status?: number;
  readonly closeCode?: number;
  readonly retry: Retry;
  readonly sentence: string;
  readonly advice: string;
}

/** What is known of one failure beyond its kind. */
export interface Told {
  requestId?: string | undefined;
  cause?: unknown;
}

/** Something failed. Every failure of this package is one of these, except a signal's own `reason`. */
export class LandfastError extends Error {
  /** What all failures of this class have in common. */
  static readonly row: Row = { name: "LandfastError", code: "unknown", retry: "never", sentence: "", advice: "" };

  /** The row of the error table, such as `instance.gone`; `unknown` where Landfast said none. */
  readonly code: string;
  /** The HTTP status; of a failure without an answer, the one that the table has for its cause. */
  readonly status: number | undefined;
  /** The close code of a WebSocket that ends with this cause. */
  readonly closeCode: number | undefined;
  /** When the same request may be sent again. */
  readonly retry: Retry;
  /** What happened, the same for every failure of this row. */
  readonly sentence: string;
  /** What to do about it. */
  readonly advice: string;
  /** What exactly was wrong this time. */
  readonly detail: string;
  /** The id of the request, for a report; undefined if no answer came. */
  readonly requestId: string | undefined;

  constructor(detail = "", told: Told = {}, row: Row = new.target.row) {
    const message = [row.sentence, detail, row.advice].filter((part) => part !== "").join(" ");
    super(message, "cause" in told ? { cause: told.cause } : undefined);
    this.name = row.name;
    this.code = row.code;
    this.status = row.status;
    this.closeCode = row.closeCode;
    this.retry = row.retry;
    this.sentence = row.sentence;
    this.advice = row.advice;
    this.detail = detail;
    this.requestId = told.requestId;
  }

  /** Whether the very same call may be made again without looking first: nothing was started by this one. */
  get retryable(): boolean {
    return this.retry === "safe";
  }
}

/** Landfast, or a program in the instance, answered no. */
export class Refused extends LandfastError {}

/** The caller asked for what cannot be. */
export class CallerError extends Refused {}

/** The cause lies with the instance's own program. */
export class InstanceError extends Refused {}

/** The cause lies with Landfast, or with the machines it runs on. */
export class PlatformError extends Refused {}

/** Nobody's fault: a conversation that is over. */
export class OrdinaryEnd extends Refused {}

/** An answer that says no and is no row of the error table: a program's own, a proxy's, or a newer release's. */
export class UnknownRefusal extends Refused {
  constructor(status: number, code: string, detail = "", told: Told = {}) {
    const row: Row = { name: "UnknownRefusal", code, status, retry: "never", sentence: "", advice: "" };
    super(detail || `The answer was ${status}.`, told, row);
  }
}

/** The way to Landfast failed. */
export class TransportFailure extends LandfastError {}

/** No connection could be made. Nothing was started. */
export class Unreachable extends TransportFailure {
  static override readonly row: Row = {
    name: "Unreachable",
    code: "unreachable",
    retry: "safe",
    sentence: "Landfast could not be reached; nothing was started.",
    advice: "Try again, or check the URL.",
  };
}

/** The connection broke before the whole answer had come. The call may have run. */
export class Broken extends TransportFailure {
  static override readonly row: Row = {
    name: "Broken",
    code: "broken",
    retry: "if idempotent",
    sentence: "The connection broke before the whole answer had come; the call may have run.",
    advice: "Repeat it if that is safe; else look first.",
  };
}

/** No whole answer came in time. The call may have run. */
export class TimedOut extends Broken {
  static override readonly row: Row = {
    ...Broken.row,
    name: "TimedOut",
    code: "timed_out",
    sentence: "No whole answer came in time; the call may have run.",
  };
}

/** What answered does not speak our protocol. */
export class ProtocolFailure extends LandfastError {
  static override readonly row: Row = {
    name: "ProtocolFailure",
    code: "protocol",
    retry: "never",
    sentence: "The answer is none that Landfast gives.",
    advice: "Check that the URL leads to Landfast, and that this package is not too old.",
  };
}

/** The caller's own mistake, found before anything was sent. */
export class Misused extends LandfastError {
  static override readonly row: Row = { name: "Misused", code: "misused", retry: "never", sentence: "", advice: "" };
}

/** Nothing here can open a WebSocket, which attachments are made of. */
export class WebSocketMissing extends Misused {
  static override readonly row: Row = {
    name: "WebSocketMissing",
    code: "misused",
    retry: "never",
    sentence: "This JavaScript runtime has no WebSocket.",
    advice: "Install one beside this package with `npm install ws`, or use Node 22 or newer.",
  };
}
