// Peer for `mone bench layer`: one dense SwiGLU expert in onnxruntime-node. Answers { calls } with seconds.

import { importFrom, readOptions, serve, timeEach } from "./answer.mjs";

const { modules, model, width, neurons, tokens, threads } = readOptions({
  modules: ".",
  model: "",
  width: 512,
  neurons: 512,
  tokens: 1024,
  threads: 2,
});
const { names: ort, version } = await importFrom(modules, "onnxruntime-node");
const session = await ort.InferenceSession.create(model, {
  executionProviders: ["cpu"],
  intraOpNumThreads: threads,
  // Threads that spin after their work would slow whoever has the next turn.
  extra: { session: { intra_op: { allow_spinning: "0" } } },
});
const tensor = (rows, columns) =>
  new ort.Tensor(
    "float32",
    Float32Array.from({ length: rows * columns }, () => Math.random() - 0.5),
    [rows, columns],
  );
const feeds = {
  x: tensor(tokens, width),
  gate: tensor(width, neurons),
  up: tensor(width, neurons),
  down: tensor(neurons, width),
};
await serve({ version: `onnxruntime-node ${version}`, threads }, async ({ calls }) => ({
  seconds: await timeEach(calls, () => session.run(feeds)),
}));
