/**
 * Names that go into paths: a name that climbs out of its place would send a request, and an API key, elsewhere.
 *
 * @module
 */

import { Misused } from "./failure.js";

const PLAIN = /^[A-Za-z0-9_-]{1,128}$/;

/** The name of an instance, a process, a token or a service. Throws `Misused` if it is none. */
export function plain(name: string | number): string {
  const text = String(name).trim();
  if (PLAIN.test(text)) return text;
  throw new Misused(`${JSON.stringify(text.slice(0, 50))} is no name: names have letters, digits, - and _.`);
}

/** A path below a service, without the slash before it. Throws `Misused` if it climbs out. */
export function innerPath(path: string): string {
  // URLs are read without tabs and line ends, so that is how a segment is looked at.
  const before = (path.split(/[?#]/)[0] ?? "").replace(/[\t\r\n]/g, "").replaceAll("\\", "/");
  const segments = before.toLowerCase().replaceAll("%2e", ".").split("/");
  if (segments.some((segment) => segment === "." || segment === "..")) {
    throw new Misused("The path has a segment of dots; write it without.");
  }
  return path.replace(/^\//, "");
}
