/**
 * Which cell is meant, and with which key: what was said, else the environment, else the machine's own cell.
 *
 * @module
 */

import { Misused } from "./failure.js";
import { Gateways, type Where } from "./gateways.js";

/** Where `landfast up` listens unless it is told otherwise. */
export const DEFAULT_URL = "http://127.0.0.1:7070";

/** Where the cell is: said, `LANDFAST_URL`, or where `landfast up` listened last. */
export function gatewaysOf(said: Where | undefined): Gateways {
  return new Gateways(said || variable("LANDFAST_URL") || fileOf("address") || DEFAULT_URL);
}

/** The API key: said, `LANDFAST_API_KEY`, or the first one of the machine's own cell. */
export function apiKeyOf(said: string | undefined): string {
  const found = (said || variable("LANDFAST_API_KEY") || fileOf("api-key") || "").trim();
  if (found !== "") return found;
  throw new Misused("There is no API key: pass apiKey, set LANDFAST_API_KEY, or start a cell with `landfast up`.");
}

/** A variable of the environment; undefined where there is none, as in browsers. */
export function variable(name: string): string | undefined {
  return globalThis.process?.env?.[name];
}

function fileOf(name: string): string | undefined {
  // Not imported: in browsers there is no such module, and who bundles for them must not stumble over it.
  const files = globalThis.process?.getBuiltinModule?.("node:fs");
  const folder = variable("LANDFAST_DATA") || `${variable("HOME") ?? ""}/.local/share/landfast`;
  try {
    return files?.readFileSync(`${folder}/${name}`, "utf8");
  } catch {
    return undefined;
  }
}
