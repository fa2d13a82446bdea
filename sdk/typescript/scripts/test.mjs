/**
 * Runs the tests that `tsc` has put into build/, all or those of the files that are named.
 *
 *     node scripts/test.mjs [cases …]
 */

import { spawnSync } from "node:child_process";
import { readdirSync } from "node:fs";

const major = Number(process.versions.node.split(".")[0]);
const named = process.argv.slice(2);
const files = readdirSync("build/tests").filter((file) => file.endsWith(".test.js"));
const wanted = files.filter((file) => named.length === 0 || named.some((name) => file.startsWith(name)));
const flags = [
  // Node 20 has the WebSocket of browsers and of Node 22, and hides it.
  ...(major < 22 ? ["--experimental-websocket", "--no-warnings"] : []),
  "--test",
  "--test-reporter=spec",
  "--test-concurrency=4",
  // No test waits for longer than this for what does not come; the longest takes a tenth of it.
  "--test-timeout=120000",
];
const { status } = spawnSync(process.execPath, [...flags, ...wanted.map((file) => `build/tests/${file}`)], {
  stdio: "inherit",
});
process.exitCode = status ?? 1;
