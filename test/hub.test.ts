// Models of a hub, fetched from a server on this machine that answers as huggingface.co does: into the cache's layout,
// resumed, verified, refused. Files and their checksums are computed here.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { createHash } from "node:crypto";
import {
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, beforeEach, test } from "node:test";
import { thisHost } from "../src/checkpoint/atomic.ts";
import { resolveModelPath } from "../src/checkpoint/hub.ts";
import { cacheFolder, findToken, parseHubId } from "../src/checkpoint/hubCache.ts";
import { inspectModel } from "../src/checkpoint/inspect.ts";
import { loadModel } from "../src/checkpoint/loadModel.ts";
import { SafetensorsFile, type TensorSource, writeSafetensors } from "../src/checkpoint/safetensors.ts";
import { RunError, UsageError } from "../src/errors.ts";
import { byteTokenizer } from "../src/text/tokenizer.ts";
import { holds } from "./support/holds.ts";

const COMMIT = "0123456789abcdef0123456789abcdef01234567";
const SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
const root = mkdtempSync(join(tmpdir(), "mone-hub-"));
const fixture = new URL("fixtures/hf/qwen3_moe", import.meta.url).pathname;

const sha256 = (data: Buffer) => createHash("sha256").update(data).digest("hex");
const gitBlob = (data: Buffer) =>
  createHash("sha1").update(`blob ${data.length}\0`).update(data).digest("hex");
const etagOf = (name: string, data: Buffer) => (name.endsWith(".safetensors") ? sha256(data) : gitBlob(data));

/** What the hub has; a test may change it. */
let files: Map<string, Buffer>;
/** What a request gets instead of its answer, once per entry; undefined: the answer. */
let instead: ((request: IncomingMessage, response: ServerResponse) => boolean) | undefined;
let requests: { url: string; host: string; authorization?: string; range?: string }[];
let originals: Map<string, Buffer>;
let cache: string;
let endpoint: string;
let storage: string;

function serveList(response: ServerResponse): void {
  const siblings = [...files].map(([rfilename, data]) => {
    const lfs = rfilename.endsWith(".safetensors") && { lfs: { sha256: sha256(data), size: data.length } };
    return { rfilename, size: data.length, blobId: gitBlob(data), ...lfs };
  });
  response.end(JSON.stringify({ sha: COMMIT, siblings }));
}

function serveFile(request: IncomingMessage, response: ServerResponse, name: string): void {
  const data = files.get(name);
  if (!data) return void response.writeHead(404).end();
  const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
  const headers = { "content-length": data.length - from };
  if (from > 0)
    response.writeHead(206, {
      ...headers,
      "content-range": `bytes ${from}-${data.length - 1}/${data.length}`,
    });
  else response.writeHead(200, headers);
  response.end(data.subarray(from));
}

const handle = (request: IncomingMessage, response: ServerResponse) => {
  const { host = "", authorization, range } = request.headers;
  const url = request.url ?? "";
  requests.push({ url, host, authorization, range });
  if (instead?.(request, response)) return;
  if (url.startsWith("/api/models/org/tiny/revision/")) return serveList(response);
  const name = decodeURIComponent(url.slice(url.lastIndexOf("/") + 1));
  if (!url.startsWith(`/org/tiny/resolve/${COMMIT}/`) && !url.startsWith("/storage/")) {
    return void response.writeHead(404).end();
  }
  // Large files lie on another host.
  if (name.endsWith(".safetensors") && !url.startsWith("/storage/")) {
    return void response.writeHead(302, { location: `${storage}/storage/${name}` }).end();
  }
  serveFile(request, response, name);
};
const servers = [createServer(handle), createServer(handle)];

before(async () => {
  const addresses = servers.map(
    (server) =>
      new Promise<string>((resolve) =>
        server.listen(0, "127.0.0.1", () =>
          resolve(`http://127.0.0.1:${(server.address() as AddressInfo).port}`),
        ),
      ),
  );
  [endpoint, storage] = await Promise.all(addresses);
  const file = SafetensorsFile.open(join(fixture, "model.safetensors"));
  const sources = [...file.tensors.values()].map(
    ({ name, dtype, shape }): TensorSource => ({ name, dtype, shape, data: () => file.readBytes(name) }),
  );
  const half = sources.length >> 1;
  const parts = [sources.slice(0, half), sources.slice(half)];
  originals = new Map();
  const weightMap: Record<string, string> = {};
  for (const [i, shard] of SHARDS.entries()) {
    await writeSafetensors(join(root, shard), parts[i]);
    originals.set(shard, readFileSync(join(root, shard)));
    for (const { name } of parts[i]) weightMap[name] = shard;
  }
  file.close();
  originals.set("model.safetensors.index.json", Buffer.from(JSON.stringify({ weight_map: weightMap })));
  originals.set("config.json", readFileSync(join(fixture, "config.json")));
  originals.set("tokenizer.json", Buffer.from(JSON.stringify(byteTokenizer())));
  originals.set("generation_config.json", Buffer.from('{"temperature": 0.5}'));
  originals.set("README.md", Buffer.from("not needed"));
  originals.set("pytorch_model.bin", Buffer.from("not wanted"));
});
after(() => {
  for (const server of servers) {
    server.closeAllConnections();
    server.close();
  }
  rmSync(root, { recursive: true, force: true });
});
beforeEach(() => {
  files = new Map(originals);
  instead = undefined;
  requests = [];
  cache = mkdtempSync(join(root, "cache-"));
});

const environment = (more: Record<string, string> = {}) => ({
  HF_ENDPOINT: endpoint,
  HF_HOME: cache,
  ...more,
});
const modelFolder = () => join(cache, "hub", "models--org--tiny");
const blobs = () => readdirSync(join(modelFolder(), "blobs")).sort();
const fetchModel = (more: Record<string, string> = {}, options = {}) =>
  resolveModelPath("org/tiny", { environment: environment(more), ...options });
const wanted = () => [...files].filter(([name]) => !/README|\.bin$/.test(name));

test("ids and the cache's place", () => {
  assert.deepEqual(parseHubId("Qwen/Qwen3-0.6B"), { model: "Qwen/Qwen3-0.6B", revision: "main" });
  assert.deepEqual(parseHubId("a/b@refs/pr/1"), { model: "a/b", revision: "refs/pr/1" });
  for (const text of [
    "model",
    "./a",
    "../a",
    "/a/b",
    "a/..",
    "a/b/c",
    "a/b@../x",
    "a/b@x/../y",
    "a--b/c",
    "a/b@",
    "a\\b/c",
  ]) {
    assert.equal(parseHubId(text), undefined, text);
  }
  assert.equal(cacheFolder({ HF_HUB_CACHE: "/x", HF_HOME: "/y" }), "/x");
  assert.equal(cacheFolder({ HF_HOME: "/y", XDG_CACHE_HOME: "/z" }), join("/y", "hub"));
  assert.equal(cacheFolder({ XDG_CACHE_HOME: "/z" }), join("/z", "huggingface", "hub"));
});

test("the token comes from variables or a file", () => {
  assert.equal(findToken({ HF_HOME: cache }), undefined);
  writeFileSync(join(cache, "token"), "from-file\n");
  assert.equal(findToken({ HF_HOME: cache }), "from-file");
  assert.equal(findToken({ HF_HOME: cache, HUGGING_FACE_HUB_TOKEN: "old" }), "old");
  assert.equal(findToken({ HF_HOME: cache, HF_TOKEN: "new", HUGGING_FACE_HUB_TOKEN: "old" }), "new");
  assert.throws(() => findToken({ HF_TOKEN: "a\nb" }), UsageError);
});

test("a model is fetched into the layout that other tools share, once", async () => {
  const tasks = new Set<string>();
  const folder = await fetchModel({}, { onDownload: ({ task }: { task: string }) => tasks.add(task) });
  assert.equal(folder, join(modelFolder(), "snapshots", COMMIT));
  assert.deepEqual(
    readdirSync(folder).sort(),
    wanted()
      .map(([name]) => name)
      .sort(),
  );
  assert.deepEqual(
    blobs(),
    wanted()
      .map(([name, data]) => etagOf(name, data))
      .sort(),
  );
  for (const [name, data] of wanted()) {
    assert.equal(readlinkSync(join(folder, name)), join("..", "..", "blobs", etagOf(name, data)));
    assert.deepEqual(readFileSync(join(folder, name)), data);
  }
  assert.equal(readFileSync(join(modelFolder(), "refs", "main"), "utf8"), COMMIT);
  holds(tasks.has(`downloading ${SHARDS[0]}`));
  assert.equal(inspectModel(folder).dtypes.length, 1);

  requests = [];
  assert.equal(await fetchModel(), folder);
  assert.equal(requests.length, 1, "asks only what main is now");
  requests = [];
  assert.equal(await resolveModelPath(`org/tiny@${COMMIT}`, { environment: environment() }), folder);
  assert.equal(requests.length, 0, "a commit never changes");
});

test("loadModel takes an id, and a folder of that name wins", async () => {
  const model = await loadModel("org/tiny", { environment: environment(), announce: () => {} });
  let text = "";
  for await (const piece of model.generate("a", { maxTokens: 2, seed: 1 })) text += piece;
  model.close();
  assert.equal(typeof text, "string");
  requests = [];
  assert.equal(await resolveModelPath("test/fixtures", { environment: environment() }), "test/fixtures");
  assert.equal(requests.length, 0);
});

test("a download that was cut goes on where it stopped", async () => {
  const data = files.get(SHARDS[1])!;
  let cuts = 0;
  instead = (request, response) => {
    if (request.url !== `/storage/${SHARDS[1]}` || cuts++ > 0) return false;
    response.writeHead(200, { "content-length": data.length });
    response.write(data.subarray(0, 1000), () => setTimeout(() => response.destroy(), 50));
    return true;
  };
  const folder = await fetchModel();
  assert.deepEqual(readFileSync(join(folder, SHARDS[1])), data);
  assert.equal(requests.filter(({ url }) => url === `/storage/${SHARDS[1]}`).at(-1)?.range, "bytes=1000-");
});

test("what a killed process left is continued", async () => {
  const data = files.get(SHARDS[0])!;
  const child = spawn(process.execPath, ["-e", ""]);
  await new Promise((resolve) => child.on("exit", resolve));
  mkdirSync(join(modelFolder(), "blobs"), { recursive: true });
  writeFileSync(
    join(modelFolder(), "blobs", `${sha256(data)}.${thisHost}-${child.pid}-1.incomplete`),
    data.subarray(0, 500),
  );
  const folder = await fetchModel();
  assert.deepEqual(readFileSync(join(folder, SHARDS[0])), data);
  holds(requests.some(({ range }) => range === "bytes=500-"));
  holds(!blobs().some((name) => name.endsWith(".incomplete")));
});

for (const name of [SHARDS[0], "config.json"]) {
  test(`a wrong checksum of ${name} leaves nothing under the final name`, async () => {
    const data = files.get(name)!;
    instead = (request, response) => {
      if (!request.url?.endsWith(`/${name}`) || (name === SHARDS[0] && !request.url.startsWith("/storage/")))
        return false;
      const spoiled = Buffer.from(data);
      spoiled[data.length >> 1] ^= 1;
      response.writeHead(200, { "content-length": data.length }).end(spoiled);
      return true;
    };
    await assert.rejects(fetchModel(), {
      name: "RunError",
      message: /has the (SHA-256 checksum|git blob id) .*, not /,
    });
    holds(!blobs().some((blob) => blob.startsWith(etagOf(name, data))));
    holds(!existsSync(join(modelFolder(), "refs", "main")));
    instead = undefined;
    await fetchModel();
  });
}

const answers: [number, Record<string, string>, RegExp][] = [
  [401, {}, /no such model without a token.*set HF_TOKEN/],
  [401, { HF_TOKEN: "secret" }, /does not accept the token for org\/tiny/],
  [403, { HF_TOKEN: "secret" }, /does not let this token read org\/tiny: ask for access at http/],
  [404, {}, /there is no folder org\/tiny, and 127.* has no such model/],
  [429, {}, /too many requests/],
];
for (const [status, more, expected] of answers) {
  test(`${status}${more.HF_TOKEN ? " with a token" : ""} is one clear sentence`, async () => {
    instead = (_, response) => {
      response.writeHead(status).end();
      return true;
    };
    await assert.rejects(fetchModel(more), (error: unknown) => {
      holds(error instanceof RunError || error instanceof UsageError);
      assert.match(error.message, expected);
      assert.doesNotMatch(error.message, /\n|secret/);
      return true;
    });
  });
}

test("the token goes to the hub and to no other host", async () => {
  await fetchModel({ HF_TOKEN: "secret" });
  for (const { url, host, authorization } of requests) {
    const isHub = endpoint.endsWith(host);
    assert.equal(authorization, isHub ? "Bearer secret" : undefined, url);
  }
  holds(requests.some(({ host }) => storage.endsWith(host)));
});

test("offline: what the cache has, or a sentence", async () => {
  for (const options of [{ offline: true }, {}]) {
    const more: Record<string, string> = options.offline ? {} : { HF_HUB_OFFLINE: "1" };
    await assert.rejects(fetchModel(more, options), {
      name: "UsageError",
      message: /org\/tiny is not complete in the cache/,
    });
  }
  assert.equal(requests.length, 0);
  const folder = await fetchModel();
  requests = [];
  assert.equal(await fetchModel({}, { offline: true }), folder);
  assert.equal(requests.length, 0);
  const told: string[] = [];
  const closed = createServer();
  await new Promise<void>((resolve) => closed.listen(0, "127.0.0.1", resolve));
  const { port } = closed.address() as AddressInfo;
  await new Promise((resolve) => closed.close(resolve));
  const unreachable = { HF_ENDPOINT: `http://127.0.0.1:${port}` };
  assert.equal(await fetchModel(unreachable, { announce: (line: string) => told.push(line) }), folder);
  assert.match(told.join(), /cannot be reached/);
  rmSync(join(folder, SHARDS[1]));
  await assert.rejects(fetchModel({}, { offline: true }), UsageError);
});

test("two at once, in one process and in two", async () => {
  const folders = await Promise.all([fetchModel(), fetchModel(), fetchModel()]);
  assert.equal(new Set(folders).size, 1);
  assert.equal(requests.filter(({ url }) => url === `/storage/${SHARDS[0]}`).length, 1);

  rmSync(modelFolder(), { recursive: true });
  const script = `import { resolveModelPath } from ${JSON.stringify(new URL("../src/checkpoint/hub.ts", import.meta.url).href)}; await resolveModelPath("org/tiny");`;
  const codes = [1, 2].map(() => {
    const args = ["--import", "tsx", "--input-type=module", "-e", script];
    const child = spawn(process.execPath, args, {
      env: { ...process.env, ...environment() },
      stdio: "inherit",
    });
    return new Promise((resolve) => child.on("exit", resolve));
  });
  assert.deepEqual(await Promise.all(codes), [0, 0]);
  assert.deepEqual(
    blobs(),
    wanted()
      .map(([name, data]) => etagOf(name, data))
      .sort(),
  );
});

test("names that lead out of the cache are refused", async () => {
  const index = JSON.stringify({ weight_map: { a: "../../../../evil.safetensors" } });
  files.set("model.safetensors.index.json", Buffer.from(index));
  files.set("../../../../evil.safetensors", Buffer.from("evil"));
  await assert.rejects(fetchModel(), { name: "RunError", message: /no \.safetensors file of this folder/ });
  holds(!requests.some(({ url }) => url.includes("evil")));

  instead = (request, response) => {
    if (!request.url?.startsWith("/api/")) return false;
    const siblings = [...files.keys()].map((rfilename) => ({
      rfilename,
      size: 1,
      blobId: "../../../../evil",
    }));
    response.end(JSON.stringify({ sha: COMMIT, siblings }));
    return true;
  };
  await assert.rejects(fetchModel(), { name: "RunError", message: /gives no checksum/ });
  for (const answer of [
    "<html>",
    "null",
    '{"sha":"../..","siblings":[]}',
    `{"sha":"${COMMIT}","siblings":[1]}`,
  ]) {
    instead = (_, response) => Boolean(response.end(answer));
    await assert.rejects(fetchModel(), { name: "RunError", message: /no list of a model's files/ });
  }
});

test("models that cannot be used are refused before anything large is fetched", async () => {
  for (const name of ["config.json", "tokenizer.json", "model.safetensors.index.json"]) {
    files = new Map(originals);
    files.delete(name);
    await assert.rejects(fetchModel(), { name: "UsageError", message: /org\/tiny has no/ });
  }
  assert.equal(requests.length, 3);
  await assert.rejects(fetchModel({ HF_ENDPOINT: "ftp:x" }), UsageError);
});

test("a cache that cannot be written is one sentence", async () => {
  writeFileSync(join(cache, "hub"), "a file where a folder should be");
  await assert.rejects(fetchModel(), {
    name: "RunError",
    message: /models--org--tiny.*(is a file|write elsewhere)/,
  });
});
