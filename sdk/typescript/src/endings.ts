/**
 * After which ends a conversation goes on by itself: a cut does not end it, somebody with authority does.
 *
 * @module
 */

import { fromClose, type LandfastError, UnknownRefusal } from "./errors.js";

/** Closes without a code of ours, by something in between: going away, cut, restarting, busy, bad gateway. */
const PASSING_CLOSES: readonly number[] = [1001, 1006, 1012, 1013, 1014];

/** Ends of a connection, not of what is behind it: what follows begins where this one stopped. */
const PASSING_CODES: readonly string[] = ["client.lost", "session.slow_client", "session.unknown", "upstream.lost"];

/** What a proxy says when it does not reach us. */
const PASSING_STATUSES: readonly (number | undefined)[] = [502, 503, 504];

/** Why a conversation is over after such a close; undefined if it goes on. */
export function endingOf(closeCode: number, reason: string): LandfastError | undefined {
  const failure = fromClose(closeCode, reason);
  const goesOn = failure instanceof UnknownRefusal ? PASSING_CLOSES.includes(closeCode) : mayPass(failure);
  return goesOn ? undefined : failure;
}

/** Whether trying to connect again may help. */
export function mayPass(failure: LandfastError): boolean {
  if (failure instanceof UnknownRefusal) return PASSING_STATUSES.includes(failure.status);
  return failure.retry !== "never" || PASSING_CODES.includes(failure.code);
}
