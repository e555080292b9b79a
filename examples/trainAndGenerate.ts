// Trains a small Mixture of Neuron Experts on a text file and lets it write.
// Run: npm run build && npx tsx examples/trainAndGenerate.ts input.txt

import { loadModel, train } from "neuron-experts";

const controller = new AbortController();
process.once("SIGINT", () => controller.abort(new Error("stopped by Ctrl-C; the run was saved")));

const run = await train({
  preset: "mone-quick",
  data: process.argv[2], // without it: the type declarations of installed packages
  steps: 300,
  seqLen: 128,
  out: `runs/example-${Date.now()}`,
  signal: controller.signal,
  onStep: ({ step, loss }) => {
    if (step % 20 === 0) console.log(`step ${step}: loss ${loss.toFixed(3)}`);
  },
});
console.log(`validation: ${run.validation.bitsPerByte.toFixed(3)} bits per byte`);

// Half of the kept neurons again: the model was trained with a quarter of each expert, and now runs with an eighth.
const model = await loadModel(run.path, { neurons: 0.125 });
for await (const text of model.generate("The ", { maxTokens: 200, temperature: 0.7, seed: 1 })) {
  process.stdout.write(text);
}
console.log();
model.close();
