// Peer for `mone bench layer`: one dense SwiGLU expert in jax-js, on WebAssembly. Answers { calls } with seconds.

import { importFrom, readOptions, serve, timeEach } from "./answer.mjs";

const { modules, width, neurons, tokens } = readOptions({
  modules: ".",
  width: 512,
  neurons: 512,
  tokens: 1024,
  threads: 2,
});
const { names: jax, version } = await importFrom(modules, "@jax-js/jax");
await jax.init("wasm");
jax.defaultDevice("wasm");
const { numpy: np, nn } = jax;
const matrix = (rows, columns) =>
  np.array(Float32Array.from({ length: rows * columns }, () => Math.random() - 0.5)).reshape([rows, columns]);
const weights = [matrix(width, neurons), matrix(width, neurons), matrix(neurons, width)];
const x = matrix(tokens, width);
const expert = jax.jit((x, gate, up, down) => np.dot(nn.silu(np.dot(x.ref, gate)).mul(np.dot(x, up)), down));
const run = async () => {
  const y = expert(x.ref, ...weights.map((weight) => weight.ref));
  await y.data(); // waits, and gives the memory back
};
await run(); // compiles
await serve({ version: `jax-js ${version}`, threads: 1 }, async ({ calls }) => ({
  seconds: await timeEach(calls, run),
}));
