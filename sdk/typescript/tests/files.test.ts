/** Files of an instance of a real cell. */

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { after, test } from "node:test";
import type { FileChange, FileInfo, Files } from "../src/index.js";
import * as landfast from "../src/index.js";
import { Cell } from "./support/cell.js";
import { text } from "./support/text.js";

const cell = await Cell.start();
after(() => cell.close());
const client = cell.client();

const PIECE = Uint8Array.from({ length: 256 * 1024 }, (_, at) => at % 256);
const PIECES = 80;

test("a file is written, read, looked at and removed", async () => {
  const { files } = await client.instances.create();
  const info = await files.write("a/b.txt", "hello", { parents: true, mode: 0o640 });
  assert.deepEqual([info.name, info.size, info.mode, info.kind], ["b.txt", 5, 0o640, "file"]);
  assert.ok(info.path.endsWith("/a/b.txt"));
  assert.equal(text(await files.read(info.path)), "hello");
  assert.equal(text(await files.read("a/b.txt", { start: 1, end: 3 })), "el");
  assert.deepEqual(await files.stat("a/b.txt"), info);
  await assert.rejects(files.write("a/b.txt", "other", { overwrite: false }), landfast.FileExists);
  const second = await files.write("a/b.txt", "second", { etag: info.etag });
  await assert.rejects(files.write("a/b.txt", "third", { etag: info.etag }), landfast.FileChanged);
  assert.deepEqual([text(await files.read("a/b.txt")), second.mode], ["second", 0o640]);
  assert.equal((await files.chmod("a/b.txt", 0o600)).mode, 0o600);
  await files.remove("a/b.txt");
  await assert.rejects(files.read("a/b.txt"), landfast.FileNotFound);
  await files.write("short", "12");
  await assert.rejects(files.read("short", { start: 5 }), landfast.FileRange);
});

test("directories are made, listed, moved and removed", async () => {
  const { files } = await client.instances.create();
  await assert.rejects(files.mkdir("d/e"), landfast.FileNotFound);
  assert.equal((await files.mkdir("d/e", { parents: true, mode: 0o700 })).kind, "directory");
  const odd = new Uint8Array(Buffer.from("d/e/odd \xff+&%", "latin1"));
  await files.write(odd, "odd");
  for (const name of ["b", "ä +&%", "a"]) await files.write(`d/e/${name}`, name);
  const found = await all(files, "d/e");
  assert.deepEqual(
    found.map(({ name }) => name),
    ["a", "b", "odd \ufffd+&%", "ä +&%"],
  );
  const { rawPath } = found[2] ?? {};
  assert.ok(rawPath && text(rawPath).endsWith(text(odd)), rawPath && text(rawPath));
  assert.equal(text(await files.read(rawPath)), "odd");
  await assert.rejects(files.move("d/e/a", "d/e/b"), landfast.FileExists);
  assert.equal((await files.move("d/e/a", "d/e/b", { overwrite: true })).size, 1);
  assert.equal(text(await files.read("d/e/b")), "a");
  await assert.rejects(files.remove("d"), landfast.FileNotAFile);
  await files.remove("d", { recursive: true });
  assert.deepEqual(await all(files, "."), []);
});

test("a file of any size goes up and down in pieces", async () => {
  const { files } = await client.instances.create();
  let count = 0;
  const stream = new ReadableStream<Uint8Array>({
    pull(out) {
      count += 1;
      if (count > PIECES) return out.close();
      out.enqueue(PIECE);
    },
  });
  assert.equal((await files.write("large", stream)).size, PIECES * PIECE.length);
  const [read, wanted] = [createHash("sha256"), createHash("sha256")];
  for await (const piece of files.chunks("large")) read.update(piece);
  for (let piece = 0; piece < PIECES; piece += 1) wanted.update(PIECE);
  assert.equal(read.digest("hex"), wanted.digest("hex"));
});

test("a file goes on where its gateway was killed", async () => {
  const { files, processes } = await client.instances.create();
  // Once the clock of changes has moved on, its name is that of this version alone.
  const { text: said } = await processes.run("head -c 40000000 /dev/urandom > large; sleep 0.2; sha256sum large");
  const read = createHash("sha256");
  let [size, kills] = [0, 0];
  for await (const piece of files.chunks("large")) {
    read.update(piece);
    size += piece.length;
    if (size > 1_000_000 * kills ** 2 && kills < 3) {
      kills += 1;
      await cell.gateway.isAway(0);
    }
  }
  assert.deepEqual([size, read.digest("hex")], [40_000_000, said.slice(0, 64)]);
});

test("a file that is replaced while its gateway is away is told as another one", async () => {
  const { files, processes } = await client.instances.create();
  await processes.run("head -c 40000000 /dev/urandom > large; sleep 0.2");
  const chunks = files.chunks("large");
  await chunks.next();
  await cell.gateway.isAway(0);
  await processes.run("echo other > large");
  await assert.rejects(async () => {
    for await (const _ of chunks) {
      // What was on its way.
    }
  }, landfast.FileChanged);
});

test("a tree comes down and goes up, and nothing of it lands elsewhere", async () => {
  const { files, processes } = await client.instances.create();
  await processes.run(
    "mkdir -p tree/sub; echo hello > tree/sub/file; chmod 755 tree/sub/file; ln -s sub/file tree/link",
  );
  const parts: Uint8Array[] = [];
  for await (const part of files.tree("tree")) parts.push(part);
  const put = await files.writeTree("copy", Buffer.concat(parts), { parents: true });
  assert.deepEqual([put.files, put.links], [1, 1]);
  const looked = await processes.run("cat copy/link; stat -c %a copy/sub/file");
  assert.equal(looked.text, "hello\n755\n");
  await processes.run("echo x > f; tar -cPf evil.tar --transform 's,^f$,../../x,' f");
  const evil = await files.read("evil.tar");
  await assert.rejects(files.writeTree("other", evil, { parents: true }), landfast.FileEscape);
  await assert.rejects(files.writeTree("other", new Uint8Array(1000).fill(7)), landfast.FileArchive);
});

test("a watch tells what happens, and that it missed some", async () => {
  const { files, processes } = await client.instances.create();
  await files.write("top/first", "", { parents: true });
  const changes = files.watch("top", { recursive: true });
  const told: FileChange[] = [];
  const until = async (type: string, name: string): Promise<FileChange> => {
    for (;;) {
      const { done, value } = await changes.next();
      assert.ok(!done, `the watch ended before ${type} ${name}`);
      told.push(value);
      if (value.type === type && value.path.endsWith(name)) return value;
    }
  };
  // A watch begins with its first step, which waits for a change: somebody makes one until it is seen.
  await processes.start("while [ ! -e stop ]; do touch top/tick; sleep 0.1; done");
  await until("attributes", "/tick");
  await files.write("top/whole", "at once");
  await until("written", "/whole");
  assert.ok(!told.some(({ path }) => path.includes(".landfast-")));
  await files.move("top/whole", "top/other");
  assert.ok((await until("moved", "/other")).source !== undefined);
  await cell.gateway.isAway(0);
  await until("gap", "");
  await until("attributes", "/tick");
  await files.write("stop", "");
  await files.remove("top", { recursive: true });
  let last: FileChange | undefined;
  for await (const change of changes) last = change;
  assert.equal(last?.type, "removed");
});

async function all(files: Files, path: string): Promise<FileInfo[]> {
  const found: FileInfo[] = [];
  for await (const info of files.list(path)) found.push(info);
  return found;
}
