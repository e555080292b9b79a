// What this project writes, opened by transformers itself: every family with K < F through the Python file beside it, and
// converted, pruned and random checkpoints as they are. Skipped where Python has no transformers; `MONE_PYTHON` names
// another Python. Goldens that were made with transformers once are in families.test.ts.

import assert from "node:assert/strict";
import { execFileSync, spawnSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, describe, test } from "node:test";
import { convertCheckpoint } from "../src/checkpoint/convert.ts";
import { familyConfig } from "../src/checkpoint/familyPresets.ts";
import { findModelFolder, openStoredModel } from "../src/checkpoint/loadModel.ts";
import { configOfStored, readModelConfig, readTokenizer } from "../src/checkpoint/modelFolder.ts";
import { writeRandomCheckpoint } from "../src/checkpoint/randomCheckpoint.ts";
import { SafetensorsFile } from "../src/checkpoint/safetensors.ts";
import { Decoder } from "../src/infer/decoder.ts";
import { textLogits } from "../src/infer/logits.ts";
import { expertWidth } from "../src/model/config.ts";
import { writePruned } from "../src/study/prune.ts";
import { train } from "../src/train/loop.ts";
import { bestBackend, maxDifference } from "./support/backends.ts";
import { readInt32 } from "./support/golden.ts";
import { holds } from "./support/holds.ts";
import { tinyRun, writeToyText } from "./support/tinyRun.ts";

const MOE = ["olmoe", "mixtral", "qwen2_moe", "qwen3_moe", "deepseek_v2"];
const FAMILIES = [...MOE, "llama", "qwen3"];
const WRITTEN = 12;
const LIMIT = 1e-4;
const ids = Uint32Array.of(5, 17, 200, 3, 90, 41, 7, 12, 33, 250, 9, 2);

const python = process.env.MONE_PYTHON ?? "python3";
const asked = spawnSync(python, ["-c", "import torch, transformers; print(transformers.__version__)"], {
  encoding: "utf8",
});
const version = asked.status === 0 ? asked.stdout.trim() : undefined;
/** transformers 4 reads experts apart and the older keys of config.json only. */
const fusedToo = version !== undefined && Number.parseInt(version, 10) >= 5;

/** What transformers is asked about each folder, and what it says: the last rows are of a text it wrote itself. */
const PROGRAM = `
import json, sys, torch, transformers
torch.set_num_threads(1)
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()
asked = json.load(sys.stdin)
for folder in asked["folders"]:
    ways = asked["ways"] if folder["experts"] else [None]
    answer = {}
    for way in ways:
        model, info = transformers.AutoModelForCausalLM.from_pretrained(
            folder["path"], trust_remote_code=True, dtype=torch.float32, output_loading_info=True,
            **({"experts_implementation": way} if way else {}))
        model.generation_config.eos_token_id = None
        with torch.no_grad():
            logits = {name: model(torch.tensor(ids)).logits.flatten().tolist() for name, ids in folder["ids"].items()}
            prompt = torch.tensor([asked["prompt"]])
            written = prompt if way else model.generate(
                prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=asked["written"], pad_token_id=0)
        answer[str(way)] = {
            "class": type(model).__name__, "logits": logits, "written": written[0, prompt.shape[1]:].tolist(),
            "lost": [list(info[key]) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")],
            "way": getattr(model.config, "_experts_implementation", None)}
    print(json.dumps(answer))
`;

interface Answer {
  class: string;
  logits: Record<string, number[]>;
  written: number[];
  lost: unknown[][];
  way: string | null;
}

describe("transformers computes the same", {
  skip: !version && `${python} has no torch and transformers: set MONE_PYTHON to a Python that has`,
}, () => {
  const folder = mkdtempSync(join(tmpdir(), "mone-transformers-"));
  after(() => rmSync(folder, { recursive: true, force: true }));
  const backend = bestBackend();
  after(() => backend.close());
  const hub = new URL("fixtures/hf/", import.meta.url).pathname;

  const at = (name: string) => join(folder, name);
  const answers = new Map<string, Record<string, Answer>>();
  const golden = (family: string) => SafetensorsFile.open(join(hub, family, "expected.safetensors"));

  /** A fixture whose config.json this version of transformers reads. */
  function original(family: string): string {
    const path = at(`${family}-original`);
    mkdirSync(path, { recursive: true });
    const style = fusedToo ? "config.json" : "config.hub-style.json";
    copyFileSync(join(hub, family, style), join(path, "config.json"));
    copyFileSync(join(hub, family, "model.safetensors"), join(path, "model.safetensors"));
    return path;
  }

  /** The forms that a family is written in, by name. */
  async function write(family: string): Promise<string[]> {
    const source = original(family);
    const name = (form: string) => `${family} ${form}`;
    const convert = (form: string, options: Parameters<typeof convertCheckpoint>[2], from = source) =>
      convertCheckpoint(from, at(name(form)), options);
    await convert("K = 50%", { neurons: 0.5 });
    await convert("K = 25%", { neurons: 0.25 });
    await convert("bf16", { dtype: "bf16" });
    const names = ["K = 50%", "K = 25%", "bf16"];
    if (fusedToo && MOE.includes(family)) {
      await convert("fused", { experts: "fused" });
      await convert("fused, K = 25%", { experts: "fused", neurons: 0.25 });
      await convert("fused, bf16", { experts: "fused", dtype: "bf16" });
      await convert("apart again", { experts: "apart" }, at(name("fused")));
      names.push("fused", "fused, K = 25%", "fused, bf16", "apart again");
    }
    if (family !== "deepseek_v2") {
      const width = expertWidth(readModelConfig(source));
      const left = 8 * Math.floor((width - 1) / 8);
      const stay = (layer: number, expert: number) =>
        Uint32Array.from({ length: left }, (_, j) => j + ((layer + expert) % (width - left + 1)));
      await writePruned(source, at(name("pruned")), stay, { width: left });
      await writePruned(at(name("K = 25%")), at(name("K, pruned")), stay, { width: left });
      names.push("pruned", "K, pruned");
    }
    const stored = familyConfig(`${family}-tiny`, {});
    await writeRandomCheckpoint(at(name("random")), configOfStored(stored, family), {
      dtype: "f32",
      seed: 1,
      stored,
    });
    await convert("random, K = 25%", { neurons: 0.25 }, at(name("random")));
    return [...names, "random", "random, K = 25%"].map(name);
  }

  async function ours(path: string): Promise<{ logits: Float32Array; written: number[] }> {
    const model = openStoredModel(path, backend, { dtype: "f32" });
    const decoder = new Decoder(model);
    try {
      const { logits } = await textLogits(model, ids);
      const slot = decoder.claim() as number;
      const written: number[] = [];
      let [next, position] = [ids, 0];
      while (written.length < WRITTEN) {
        const row = await decoder.run([{ slot, position, ids: next }]);
        position += next.length;
        written.push(row.indexOf(row.reduce((a, b) => Math.max(a, b))));
        next = Uint32Array.of(written[written.length - 1]);
      }
      return { logits, written };
    } finally {
      decoder.close();
      model.close();
    }
  }

  // In version 4 deepseek_v2 scales its attention without yarn's factor, so only that without yarn can be compared.
  const comparable = (name: string) => fusedToo || !name.startsWith("deepseek_v2") || name.includes("random");

  before(async () => {
    const names = ["own run, K < F"];
    // What a run leaves behind, and `mone convert` of it.
    const data = writeToyText(at("toy.txt"));
    await train({ ...tinyRun, data, out: at("run"), backend, announce: () => {} });
    await convertCheckpoint(findModelFolder(at("run")), at(names[0]), {});
    copyFileSync(join(hub, "../tokenizer/tokenizer.json"), join(at(names[0]), "tokenizer.json"));
    for (const family of FAMILIES) names.push(...(await write(family)).filter(comparable));
    const folders = names.map((name) => {
      const [family, ...form] = name.split(" ");
      const prompts = /^(fused, )?K =/.test(form.join(" "))
        ? [...readInt32(golden(family), "input_ids")]
        : [];
      return {
        path: at(name),
        experts: fusedToo && !["llama", "qwen3"].includes(family),
        ids: {
          text: [[...ids]],
          ...(prompts.length > 0 && { golden: [prompts.slice(0, 24), prompts.slice(24)] }),
        },
      };
    });
    const input = JSON.stringify({
      folders,
      ways: [null, "eager", "batched_mm", "grouped_mm"],
      prompt: [...ids],
      written: WRITTEN,
    });
    const out = execFileSync(python, ["-c", PROGRAM], {
      input,
      encoding: "utf8",
      maxBuffer: 2 ** 30,
      stdio: ["pipe", "pipe", "pipe"],
      env: { ...process.env, HF_HUB_OFFLINE: "1", HF_MODULES_CACHE: at("modules") },
    });
    for (const [n, line] of out.trimEnd().split("\n").entries()) answers.set(names[n], JSON.parse(line));
  });

  for (const family of ["own", ...FAMILIES]) {
    test(`${family}: logits and greedy continuation of every form`, async (t) => {
      let worst = 0;
      const names = [...answers.keys()].filter((name) => name.split(" ")[0] === family);
      holds(names.length > 0);
      for (const name of names) {
        const { logits, written } = await ours(at(name));
        const share = name.includes("50%") ? "0.5" : "0.25";
        for (const [way, answer] of Object.entries(answers.get(name) ?? {})) {
          const what = `${name}, experts ${way}`;
          assert.equal(answer.class === "MoneForCausalLM", /\bK\b/.test(name), `${what}: ${answer.class}`);
          assert.deepEqual(answer.lost, [[], [], []], what);
          // Not the loop over experts, unless it is asked for.
          if (fusedToo && !["llama", "qwen3"].includes(family))
            assert.equal(answer.way, way === "None" ? "grouped_mm" : way, what);
          const difference = maxDifference(answer.logits.text, logits);
          worst = Math.max(worst, difference);
          assert.ok(difference <= LIMIT, `${what}: off by ${difference}`);
          if (way === "None") assert.deepEqual(answer.written, written, what);
          if (!answer.logits.golden) continue;
          const file = golden(family);
          const expected = file.readFloat32(`neuron.gate.${share}.logits`);
          file.close();
          const off = maxDifference(answer.logits.golden, expected);
          assert.ok(off <= LIMIT, `${what}: off the golden by ${off}`);
        }
      }
      t.diagnostic(`transformers ${version}: largest difference ${worst.toExponential(1)}`);
    });
  }

  test("own: tokens of its tokenizer", () => {
    const path = at("own run, K < F");
    const text = "The year 2024?!\n\n  It's  over: \u0041\u030a, na\u00efve\n";
    const program = `
import json, transformers
print(json.dumps(transformers.AutoTokenizer.from_pretrained(${JSON.stringify(path)}).encode(${JSON.stringify(text)})))`;
    const out = execFileSync(python, ["-c", program], { encoding: "utf8", stdio: ["pipe", "pipe", "pipe"] });
    assert.deepEqual(JSON.parse(out), [...readTokenizer(path).encode(text)]);
  });

  test("a way of computing experts that would keep all neurons is refused", { skip: !fusedToo }, () => {
    const program = `
import transformers
transformers.AutoModelForCausalLM.from_pretrained(${JSON.stringify(at("olmoe K = 25%"))}, trust_remote_code=True, experts_implementation="sonicmoe")`;
    const { stderr, status } = spawnSync(python, ["-c", program], { encoding: "utf8" });
    assert.notEqual(status, 0);
    assert.match(stderr, /would use all neurons/);
  });
});
