/**
 * Makes src/table.ts of sdk/errors.json: a class for every way in which Landfast says no.
 *
 *     node scripts/errors.mjs [--check]
 */

import { readFileSync, writeFileSync } from "node:fs";

const TABLE = new URL("../src/table.ts", import.meta.url);
const ROWS = new URL("../../errors.json", import.meta.url);
const KINDS = { client: "CallerError", instance: "InstanceError", platform: "PlatformError", nobody: "OrdinaryEnd" };

const rows = JSON.parse(readFileSync(ROWS, "utf8"));
const wanted = text(rows);
if (!process.argv.includes("--check")) {
  writeFileSync(TABLE, wanted);
} else if (readFileSync(TABLE, "utf8") !== wanted) {
  console.error("src/table.ts is not what sdk/errors.json says; `npm run generate` writes it anew");
  process.exitCode = 1;
}

function text(rows) {
  const kinds = [...new Set(rows.map(kind))].sort();
  const parts = [
    "/**\n * Every way in which Landfast says no, a class each.\n *\n * Made from sdk/errors.json by `npm run generate`.\n *\n * @module\n */\n",
    `import { ${[...kinds, "type Row", "type Told"].join(", ")} } from "./failure.js";\n`,
    ...rows.map(one),
    "/** A class of the error table. */\nexport type RefusalClass = new (detail?: string, told?: Told) => " +
      `${kinds.join(" | ")};\n`,
    `/** The classes by their codes. */\nexport const TABLE: ReadonlyMap<string, RefusalClass & { readonly row: Row }> = new Map<\n  string,\n  RefusalClass & { readonly row: Row }\n>([\n${rows.map((row) => `  ["${row.code}", ${row.name}],\n`).join("")}]);\n`,
  ];
  return parts.join("\n");
}

function one(row) {
  const fields = {
    name: row.name,
    code: row.code,
    ...(row.status === null ? {} : { status: row.status }),
    ...(row.close === null ? {} : { closeCode: row.close }),
    retry: row.retry,
    sentence: row.sentence,
    advice: row.advice,
  };
  const lines = Object.entries(fields).map(([name, value]) => `    ${name}: ${JSON.stringify(value)},\n`);
  return (
    `/** ${row.sentence} ${row.advice} */\nexport class ${row.name} extends ${kind(row)} {\n` +
    `  static override readonly row: Row = {\n${lines.join("")}  };\n}\n`
  );
}

function kind(row) {
  const found = KINDS[row.blame];
  if (found === undefined) throw new Error(`nobody has said whose class an error of ${row.blame} is`);
  return found;
}
