/** The package as users get it, and its documents. */

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, test } from "node:test";
import { promisify } from "node:util";
import { binary, ENVIRONMENT, firstLine, newFolder, Reaper } from "./support/cell.js";
import { SDK } from "./support/places.js";

const run = promisify(execFile);
const folder = mkdtempSync(join(tmpdir(), "landfast-"));
const environment = await up();

test("the package is whole, and needs nothing", async () => {
  await run("npm", ["pack", "--silent", "--pack-destination", folder], { cwd: SDK });
  const { version, dependencies } = JSON.parse(readFileSync(`${SDK}/package.json`, "utf8")) as Record<string, string>;
  const { stdout } = await run("tar", ["-tzf", `landfast-${version}.tgz`], { cwd: folder });
  const names = stdout.trim().split("\n");
  const modules = readdirSync(`${SDK}/src`).map((name) => name.replace(/\.ts$/, ""));
  for (const name of modules) {
    for (const end of ["js", "d.ts"]) assert.ok(names.includes(`package/dist/${name}.${end}`), `${name}.${end}`);
  }
  assert.ok(names.includes("package/README.md") && !names.some((name) => /tests|examples|node_modules/.test(name)));
  assert.equal(dependencies, undefined);
  // As `npm install` would put it.
  mkdirSync(join(folder, "node_modules/landfast"), { recursive: true });
  const target = ["--strip-components=1", "-C", join(folder, "node_modules/landfast")];
  await run("tar", ["-xzf", `landfast-${version}.tgz`, ...target], { cwd: folder });
});

test("its types stand without those of Node", async () => {
  const program = `
    import { Landfast, type ProcessEvent } from "landfast";
    import { directFetch } from "landfast/routing";
    const client: Landfast = new Landfast({ url: "https://cell.example", apiKey: "key", fetch: directFetch("https://x") });
    export async function follow(id: string): Promise<ProcessEvent[]> {
      const events: ProcessEvent[] = [];
      const process = await (await client.instances.get(id)).processes.start("make");
      for await (const event of await process.attach()) if (event.type === "gap") events.push(event);
      return events;
    }`;
  writeFileSync(join(folder, "program.mts"), program);
  const options = ["--strict", "--noEmit", "--target", "es2022", "--module", "nodenext", "--types", ""];
  const lib = ["--lib", "es2023,dom,dom.iterable,dom.asynciterable,esnext.disposable"];
  const compiler = `${SDK}/node_modules/typescript/bin/tsc`;
  await run(process.execPath, [compiler, ...options, ...lib, "program.mts"], { cwd: folder });
});

test("the quick start runs as it is written", async () => {
  const readme = readFileSync(`${SDK}/README.md`, "utf8");
  const [, program = ""] = /<!-- quick start -->\n```js\n(.*?)```/s.exec(readme) ?? [];
  assert.notEqual(program, "");
  writeFileSync(join(folder, "quick-start.mjs"), program);
  // Where there is no WebSocket, it takes one from the package that it names.
  const { stdout } = await node(["--no-experimental-websocket", "quick-start.mjs"], "with ws");
  assert.equal(stdout, "hello 3\ntrue 0\nprocess_exit\n");
});

test("where nothing makes WebSockets, it is said what to install", async () => {
  writeFileSync(
    join(folder, "lacking.mjs"),
    `import { Landfast, WebSocketMissing } from "landfast";
    const instance = await new Landfast().instances.create();
    const failure = await instance.processes.terminal(["sh"]).catch((failure) => failure);
    console.log(failure instanceof WebSocketMissing, failure.message);
    await instance.delete();`,
  );
  const { stdout } = await node(["--no-experimental-websocket", "lacking.mjs"]);
  assert.match(stdout, /^true .*npm install ws/);
});

for (const name of ["ci-job", "agent-shell"]) {
  test(`the example ${name} runs as it is written`, async () => {
    const file = `${SDK}/build/examples/${name}.js`;
    const { stdout } = await run(process.execPath, [file, "echo from the example"], { env: environment, cwd: folder });
    assert.match(stdout, /from the example/);
  });
}

test("the Playwright example runs as it is written", async () => {
  const file = `${SDK}/build/examples/playwright-script.js`;
  const page = "data:text/html,<title>from the example</title>";
  const { stdout } = await run(process.execPath, [file, page], { env: environment, cwd: folder });
  assert.equal(stdout, "from the example\n");
  assert.equal(readFileSync(join(folder, "page.png")).toString("latin1", 1, 4), "PNG");
});

/** Runs a program beside the installed package, and the `ws` package if that is wanted. */
async function node(args: string[], withWs?: string): Promise<{ stdout: string }> {
  const place = mkdtempSync(join(folder, "run-"));
  mkdirSync(join(place, "node_modules"));
  await run("cp", ["-r", join(folder, "node_modules/landfast"), join(place, "node_modules")]);
  if (withWs !== undefined) await run("cp", ["-r", `${SDK}/node_modules/ws`, join(place, "node_modules")]);
  await run("cp", [join(folder, args.at(-1) ?? ""), place]);
  return run(process.execPath, args, { env: environment, cwd: place });
}

/** A cell as the README says to start one, and what a program needs in order to find it. */
async function up(): Promise<NodeJS.ProcessEnv> {
  const data = newFolder();
  const reaper = new Reaper(data);
  const env = { ...ENVIRONMENT, LANDFAST_DATA: data };
  const cell = spawn(binary(), ["up", "--listen", "127.0.0.1:0"], { env, stdio: ["ignore", "pipe", "ignore"] });
  after(async () => {
    cell.kill("SIGKILL");
    await reaper.close();
  });
  assert.ok(await firstLine(cell));
  return env;
}
