// Peer for `mone bench decode`: llama.cpp through node-llama-cpp, on a GGUF file. Answers { prefill: tokens } with the
// seconds of one prompt from an empty cache, and { decode: tokens, prompt } with the seconds of each token after a prompt.
// Fed tokens do not depend on the sampled ones, so that experts vary as in a real text.

import { importFrom, readOptions, serve, timeEach, tokenSource } from "./answer.mjs";

const options = readOptions({ modules: ".", model: "", threads: 2, positions: 1024 });
const { names, version } = await importFrom(options.modules, "node-llama-cpp");
const llama = await names.getLlama({
  gpu: false,
  build: "never",
  skipDownload: true,
  maxThreads: options.threads,
  logLevel: names.LlamaLogLevel.error,
});
const model = await llama.loadModel({ modelPath: options.model, gpuLayers: 0 });
const context = await model.createContext({
  contextSize: options.positions,
  batchSize: Math.min(512, options.positions),
  threads: { ideal: options.threads, min: options.threads },
});
const sequence = context.getSequence();
const next = tokenSource(model.fileInfo.metadata.tokenizer.ggml.tokens.length - 1);
const prompt = (length) => Array.from({ length }, next);
await sequence.evaluateWithoutGeneratingNewTokens(prompt(16)); // touches every page that all tokens share

await serve({ version: `node-llama-cpp ${version}`, threads: context.currentThreads }, async (request) => {
  await sequence.clearHistory();
  if (request.prefill) {
    const ids = prompt(request.prefill);
    return { seconds: await timeEach(1, () => sequence.evaluateWithoutGeneratingNewTokens(ids)) };
  }
  await sequence.evaluateWithoutGeneratingNewTokens(prompt(request.prompt));
  const tokens = sequence.evaluate([next()], { temperature: 0, yieldEogToken: true });
  await tokens.next();
  const seconds = await timeEach(request.decode, async () => {
    const { done } = await tokens.next(next());
    if (done) throw new Error("llama.cpp ended the text");
  });
  await tokens.return();
  return { seconds };
});
await context.dispose();
process.exit(0);
