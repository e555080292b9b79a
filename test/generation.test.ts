// What a model folder says about how to be asked: generation_config.json and chat templates.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, beforeEach, test } from "node:test";
import { readGenerationDefaults, renderChat } from "../src/checkpoint/generation.ts";
import { checkSampling } from "../src/infer/sampling.ts";

const root = mkdtempSync(join(tmpdir(), "mone-generation-"));
after(() => rmSync(root, { recursive: true, force: true }));
let folder: string;
beforeEach(() => {
  folder = mkdtempSync(join(root, "model-"));
});
const write = (name: string, content: unknown) =>
  writeFileSync(join(folder, name), typeof content === "string" ? content : JSON.stringify(content));
const hello = [{ role: "user", content: "Hello" }] as const;
const TEMPLATE =
  "{{ bos_token }}{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}";

test("generation_config.json gives defaults, and options win", () => {
  assert.deepEqual(readGenerationDefaults(folder).eosIds, []);
  write("generation_config.json", { temperature: 0.6, top_k: 20, top_p: 0.95, eos_token_id: [5, 7] });
  const defaults = readGenerationDefaults(folder);
  assert.deepEqual(defaults, { temperature: 0.6, topK: 20, topP: 0.95, eosIds: [5, 7] });
  const { eosIds: _, ...model } = defaults;
  const sampling = checkSampling({ temperature: 1.5, topK: undefined }, model);
  assert.deepEqual(sampling, { temperature: 1.5, topK: 20, topP: 0.95, minP: 0 });
  write("generation_config.json", { do_sample: false, temperature: 0.6, eos_token_id: 5 });
  assert.equal(readGenerationDefaults(folder).temperature, 0);
  assert.deepEqual(readGenerationDefaults(folder).eosIds, [5]);
  write("tokenizer_config.json", { bos_token: null, eos_token: { content: "</s>" } });
  assert.equal(readGenerationDefaults(folder).startToken, "</s>");
  write("tokenizer_config.json", { bos_token: "<s>", eos_token: "</s>" });
  assert.equal(readGenerationDefaults(folder).startToken, "<s>");
});

test("damaged files are one sentence", () => {
  write("generation_config.json", "{");
  assert.throws(() => readGenerationDefaults(folder), { name: "RunError", message: /is not JSON/ });
  write("generation_config.json", "[]");
  assert.throws(() => readGenerationDefaults(folder), { name: "RunError", message: /no JSON object/ });
  write("generation_config.json", { temperature: "hot" });
  assert.throws(() => readGenerationDefaults(folder), { name: "UsageError", message: /temperature.*"hot"/ });
  write("generation_config.json", { eos_token_id: [-1] });
  assert.throws(() => readGenerationDefaults(folder), { name: "UsageError", message: /eos_token_id/ });
});

test("chat templates: a file of their own, a text, or a list", async () => {
  await assert.rejects(renderChat(folder, hello), { name: "UsageError", message: /no chat template/ });
  const wanted = "<s><|user|>Hello<|assistant|>";
  write("tokenizer_config.json", { bos_token: { content: "<s>" }, chat_template: TEMPLATE });
  assert.equal(await renderChat(folder, hello), wanted);
  const named = [
    { name: "tools", template: "no" },
    { name: "default", template: TEMPLATE },
  ];
  write("tokenizer_config.json", { bos_token: "<s>", chat_template: named });
  assert.equal(await renderChat(folder, hello), wanted);
  write("chat_template.jinja", "{{ messages[0].content }}!");
  assert.equal(await renderChat(folder, hello), "Hello!");
});

test("a template that fails is one sentence", async () => {
  for (const template of [
    "{% if",
    "{{ raise_exception('roles must\\nalternate') }}",
    "{{ messages.nothing() }}",
  ]) {
    write("chat_template.jinja", template);
    await assert.rejects(renderChat(folder, hello), (error: Error) => {
      assert.equal(error.name, "UsageError");
      assert.doesNotMatch(error.message, /\n/);
      return true;
    });
  }
});
