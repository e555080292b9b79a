// Corpora from files, folders, addresses and names, and the downloads behind them, against a server on this machine.

import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdir, mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, afterEach, before, beforeEach, describe, test } from "node:test";
import { gzipSync } from "node:zlib";
import { trainBpe } from "../src/text/bpeTraining.ts";
import { type Corpus, type OpenCorpusOptions, openCorpus } from "../src/text/corpus.ts";
import { download } from "../src/text/download.ts";
import { holds } from "./support/holds.ts";

let dir: string;
beforeEach(async () => {
  dir = await mkdtemp(join(tmpdir(), "text-corpus-"));
});
afterEach(() => rm(dir, { recursive: true }));

/** Documents as [id, text], parts joined. */
async function contents(corpus: Corpus): Promise<[string, string][]> {
  const documents: [string, string][] = [];
  for await (const { id, text } of corpus.documents()) {
    const last = documents.at(-1);
    if (last?.[0] === id) last[1] += text;
    else documents.push([id, text]);
  }
  return documents;
}

async function file(name: string, data: string | Uint8Array): Promise<string> {
  const path = join(dir, name);
  await mkdir(join(path, ".."), { recursive: true });
  await writeFile(path, data);
  return path;
}

describe("files", () => {
  test("plain and gzip text is one document, without its byte order mark", async () => {
    for (const path of [
      await file("a.txt", "\ufeffh\u00e9llo\r\n"),
      await file("a.txt.gz", gzipSync("\ufeffh\u00e9llo\r\n")),
    ]) {
      const corpus = await openCorpus(path);
      assert.equal(corpus.split, "tail");
      assert.deepEqual(
        (await contents(corpus)).map(([, text]) => text),
        ["h\u00e9llo\r\n"],
      );
    }
    assert.equal((await openCorpus(join(dir, "a.txt"))).bytes, 11);
  });

  test("JSON lines are one document each, also across the chunks of a large file", async () => {
    const texts = ["first", "\u2028 second", "", "long ".repeat(200_000), "last"];
    const lines = `${texts.map((text, n) => JSON.stringify({ n, text })).join("\n")}\n\n`;
    for (const path of [await file("d.jsonl", lines), await file("d.jsonl.gz", gzipSync(lines))]) {
      const corpus = await openCorpus(path);
      assert.equal(corpus.split, "documents");
      const found = await contents(corpus);
      assert.deepEqual(
        found.map(([, text]) => text),
        texts.filter((text) => text !== ""),
      );
      assert.match(found[2][0], /:4$/);
    }
  });

  test("long texts come in parts, cut where tokens do not notice", async () => {
    const words = Array.from({ length: 400_000 }, (_, i) => `w${i % 977}ord,\u00e9 \n\n  x`).join(" ");
    const corpus = await openCorpus(await file("long.txt", words));
    const tokenizer = trainBpe([words.slice(0, 20_000)], { vocabSize: 300 });
    const ids: number[] = [];
    let parts = 0;
    for await (const { text } of corpus.documents()) {
      parts++;
      for (const id of tokenizer.encode(text)) ids.push(id);
    }
    holds(parts > 2);
    assert.deepEqual(Uint32Array.from(ids), tokenizer.encode(words));
  });

  test("what is no text is named", async () => {
    const latin1 = Buffer.from("\u00e9\u00e8\u00ea abc ".repeat(50), "latin1");
    const packed = gzipSync("text ".repeat(100_000).split("").sort().join(""));
    const cases: [string, string, RegExp][] = [
      [join(dir, "nowhere"), "UsageError", /no file or folder .*nowhere/],
      ["http://", "UsageError", /no valid address/],
      ["tinyshakespear", "UsageError", /did you mean tinyshakespeare\?/],
      [await file("empty.txt", ""), "UsageError", /empty\.txt is empty/],
      [await file("empty.txt.gz", gzipSync("")), "UsageError", /is empty/],
      [await file("zero.bin", "ab\0cd"), "UsageError", /binary.*NUL/],
      [await file("latin.txt", latin1), "UsageError", /not UTF-8 text \(\d+ %/],
      [await file("not.gz", "no gzip at all"), "RunError", /not\.gz is no gzip file/],
      [await file("cut.gz", packed.subarray(0, packed.length - 20)), "RunError", /cut\.gz .* is cut off/],
      [await file("bad.jsonl", '{"text":"a"}\n{"text":'), "UsageError", /bad\.jsonl:2 is not JSON/],
      [await file("no.jsonl", '\n{"content":"a"}'), "UsageError", /no\.jsonl:2 has no field "text"/],
    ];
    for (const [source, name, message] of cases) {
      await assert.rejects(openCorpus(source).then(contents), { name, message });
    }
  });

  test("a few bad bytes are accepted, with a note", async () => {
    const corpus = await openCorpus(
      await file("almost.txt", Buffer.from(`${"fine ".repeat(100)}\u00e9`, "latin1")),
    );
    assert.match(corpus.notes.join(), /not all UTF-8/);
    holds((await contents(corpus))[0][1].endsWith("fine \ufffd"));
  });

  test("reading can be stopped", async () => {
    const path = await file("a.txt", "text");
    await assert.rejects(openCorpus(path, { signal: AbortSignal.abort() }), { name: "AbortError" });
  });
});

describe("folders", () => {
  test("give all their text files, sorted by path", async () => {
    await file("f/b.txt", "two");
    await file("f/a/z.jsonl", '{"text":"one"}');
    await file("f/c.txt.gz", gzipSync("three"));
    await file("f/.hidden", "never");
    await file("f/picture.png", Buffer.from([1, 0, 2]));
    const corpus = await openCorpus(join(dir, "f"));
    assert.deepEqual(await contents(corpus), [
      ["a/z.jsonl:1", "one"],
      ["b.txt", "two"],
      ["c.txt.gz", "three"],
    ]);
    assert.equal(corpus.split, "documents");
    assert.equal(corpus.notes.length, 1);
    assert.match(corpus.notes[0], /picture\.png is a binary file.*left out/);
  });

  test("need a text file", async () => {
    await file("f/picture.png", Buffer.from([1, 0, 2]));
    await assert.rejects(openCorpus(join(dir, "f")), { name: "UsageError", message: /no text files/ });
  });
});

describe("the default text", () => {
  test("is several megabytes, always the same, and has no block twice", async () => {
    const corpus = await openCorpus();
    const documents = await contents(corpus);
    assert.ok(corpus.bytes! > 2e6, `${corpus.bytes} bytes`);
    assert.deepEqual(await contents(await openCorpus()), documents);
    const blocks = documents.flatMap(([, text]) => text.split(/\n\n/)).map((block) => block.trim());
    assert.equal(new Set(blocks).size, blocks.length);
    const ids = documents.map(([id]) => id);
    assert.deepEqual(ids, [...ids].sort());
  });
});

/** What the server does with the next requests; the last one stays. */
type Answer = (request: IncomingMessage, response: ServerResponse) => void;

describe("downloads", () => {
  const data = Buffer.from("0123456789abcdef".repeat(8192)); // 128 KiB
  const sha256 = createHash("sha256").update(data).digest("hex");
  let answers: Answer[] = [];
  let requests: IncomingMessage[] = [];
  let base = "";

  const server = createServer((request, response) => {
    requests.push(request);
    const answer = answers.length > 1 ? answers.shift()! : answers[0];
    answer(request, response);
  });
  before(async () => {
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    base = `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
  });
  after(() => {
    server.closeAllConnections();
    server.close();
  });
  beforeEach(() => {
    requests = [];
  });

  /** A server that knows ranges. */
  const whole =
    (content: Buffer, etag: string): Answer =>
    (request, response) => {
      const from = Number(/^bytes=(\d+)-$/.exec(request.headers.range ?? "")?.[1] ?? 0);
      const partial = from > 0 && request.headers["if-range"] === etag;
      const body = partial ? content.subarray(from) : content;
      const range = partial
        ? { "content-range": `bytes ${from}-${content.length - 1}/${content.length}` }
        : {};
      response.writeHead(partial ? 206 : 200, { etag, "content-length": body.length, ...range });
      response.end(body);
    };
  /** Promises all, sends 50,000 bytes and hangs up. */
  const cut =
    (content: Buffer, etag: string | undefined): Answer =>
    (_request, response) => {
      response.writeHead(200, { "content-length": content.length, ...(etag === undefined ? {} : { etag }) });
      response.write(content.subarray(0, 50_000), () => setTimeout(() => response.destroy(), 50));
    };
  const status =
    (code: number): Answer =>
    (_request, response) => {
      response.writeHead(code).end();
    };

  async function fetched(...next: Answer[]): Promise<Buffer> {
    answers = next;
    const path = join(dir, "sub", "file.bin");
    await download(`${base}/file.bin`, path, { sha256, size: data.length });
    holds(!existsSync(`${path}.part`) && !existsSync(`${path}.part.json`));
    return readFile(path);
  }
  const ranges = () => requests.map((request) => request.headers.range);

  test("fetch a file and report how far they are", async () => {
    answers = [whole(data, '"1"')];
    const reports: number[] = [];
    const path = join(dir, "file.bin");
    await download(`${base}/file.bin`, path, {
      onProgress: ({ done, total }) => {
        assert.equal(total, data.length);
        reports.push(done);
      },
    });
    assert.deepEqual(await readFile(path), data);
    assert.equal(reports.at(-1), data.length);
  });

  test("go on after a cut, with the bytes that are missing", async () => {
    assert.deepEqual(await fetched(cut(data, '"1"'), whole(data, '"1"')), data);
    assert.deepEqual(ranges(), [undefined, "bytes=50000-"]);
    assert.equal(requests[1].headers["if-range"], '"1"');
  });

  test("begin anew if the file has changed, the server knows no ranges or names no version", async () => {
    const old = Buffer.alloc(data.length, "x");
    assert.deepEqual(await fetched(cut(old, '"0"'), whole(data, '"1"')), data);
    const noRanges: Answer = (_request, response) => response.writeHead(200, { etag: '"1"' }).end(data);
    assert.deepEqual(await fetched(cut(data, '"1"'), noRanges), data);
    requests = [];
    assert.deepEqual(await fetched(cut(data, undefined), whole(data, '"1"')), data);
    assert.deepEqual(ranges(), [undefined, undefined]);
    // A server that sends the rest of another file, whatever was asked.
    const careless: Answer = (request, response) => {
      const rest = data.subarray(50_000);
      const range = `bytes 50000-${data.length - 1}/${data.length}`;
      if (request.headers.range === undefined) whole(data, '"1"')(request, response);
      else response.writeHead(206, { etag: '"1"', "content-range": range }).end(rest);
    };
    assert.deepEqual(await fetched(cut(old, '"0"'), careless), data);
  });

  test("start over where the part is as long as the file, or longer", async () => {
    const path = join(dir, "sub", "file.bin");
    await file("sub/file.bin.part", Buffer.alloc(data.length, "x"));
    await writeFile(`${path}.part.json`, JSON.stringify({ url: `${base}/file.bin`, validator: '"1"' }));
    assert.deepEqual(await fetched(status(416), whole(data, '"1"')), data);
  });

  test("try again when the server is busy, and give up at a refusal", async () => {
    assert.deepEqual(await fetched(status(503), whole(data, '"1"')), data);
    await rm(join(dir, "sub"), { recursive: true });
    requests = [];
    await assert.rejects(fetched(status(404)), { name: "RunError", message: /"404 Not Found"/ });
    assert.equal(requests.length, 1);
  });

  test("keep nothing that has the wrong checksum or size", async () => {
    answers = [whole(data, '"1"')];
    const path = join(dir, "file.bin");
    const url = `${base}/file.bin`;
    await assert.rejects(download(url, path, { sha256: "0".repeat(64) }), {
      name: "RunError",
      message: /checksum/,
    });
    await assert.rejects(download(url, path, { size: 5 }), {
      name: "RunError",
      message: /131072 bytes, not the 5/,
    });
    holds(!existsSync(path) && !existsSync(`${path}.part`));
  });

  test("say that a server cannot be reached", async () => {
    const closed = createServer();
    await new Promise<void>((resolve) => closed.listen(0, "127.0.0.1", resolve));
    const { port } = closed.address() as AddressInfo;
    await new Promise((resolve) => closed.close(resolve));
    await assert.rejects(download(`http://127.0.0.1:${port}/a`, join(dir, "a")), {
      name: "RunError",
      message: /cannot be reached \(ECONNREFUSED\)/,
    });
  });

  test("stop when told to, and go on later", async () => {
    const controller = new AbortController();
    answers = [
      (_request, response) => {
        response.writeHead(200, { etag: '"1"', "content-length": data.length });
        response.write(data.subarray(0, 50_000)); // and then nothing
      },
    ];
    const path = join(dir, "sub", "file.bin");
    let done = 0;
    const onProgress = (progress: { done: number }) => {
      done = progress.done;
      if (done === 50_000) controller.abort();
    };
    const stopped = download(`${base}/file.bin`, path, { signal: controller.signal, onProgress });
    await assert.rejects(stopped, { name: "AbortError" });
    assert.equal(done, 50_000);
    holds(!existsSync(path));
    assert.deepEqual(await fetched(whole(data, '"1"')), data);
    assert.equal(ranges().at(-1), "bytes=50000-");
  });

  describe("as corpora", () => {
    const text: Answer = (_request, response) => response.writeHead(200).end("some text\n");
    const options = (): OpenCorpusOptions => ({ cacheDir: join(dir, "cache"), mirror: `${base}/files` });

    test("an address is fetched once, then taken from the cache", async () => {
      answers = [text];
      const first = await openCorpus(`${base}/a/words.txt?x=1`, options());
      assert.deepEqual(await contents(first), [[`${base}/a/words.txt?x=1`, "some text\n"]]);
      await openCorpus(`${base}/a/words.txt?x=1`, { ...options(), offline: true });
      assert.equal(requests.length, 1);
      await assert.rejects(openCorpus(`${base}/a/words.txt?x=2`, { ...options(), offline: true }), {
        name: "UsageError",
        message: /not in the cache/,
      });
    });

    test("a name is fetched from its home or a mirror, and checked", async () => {
      answers = [text];
      assert.deepEqual(await contents(await openCorpus("wikitext-2", options())), [
        ["wikitext-2", "some text\n"],
      ]);
      assert.equal(requests[0].url, "/files/train.txt");
      await writeFile(join(dir, "cache", "wikitext-2", "train.txt"), "other text\n");
      await assert.rejects(openCorpus("wikitext-2", options()), { name: "RunError", message: /has changed/ });
      await assert.rejects(openCorpus("tinyshakespeare", options()), {
        name: "RunError",
        message: /checksum/,
      });
    });

    test("a name with several documents is cut between them", async () => {
      answers = [
        (_request, response) => response.writeHead(200).end("One.\n<|endoftext|>\n\nTwo.\n<|endoftext|>\n"),
      ];
      const corpus = await openCorpus("tinystories", options());
      assert.equal(corpus.split, "documents");
      assert.deepEqual(await contents(corpus), [
        ["tinystories:1", "One."],
        ["tinystories:2", "Two."],
      ]);
    });
  });
});
