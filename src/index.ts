// The public names of the library, and nothing else. Never imported from inside.

export type { Backend } from "./backends/backend.ts";
export { cpuLevels, openBackend } from "./backends/cpu.ts";
export { benchKernels } from "./bench/kernels.ts";
export { inspectModel } from "./checkpoint/inspect.ts";
export { type LoadOptions, loadModel } from "./checkpoint/loadModel.ts";
export { saveModel } from "./checkpoint/modelFolder.ts";
export { RunError, UsageError } from "./errors.ts";
export { type GenerateOptions, LanguageModel } from "./infer/languageModel.ts";
export { type ModelConfig, modelDefaults } from "./model/config.ts";
export { countParameters, type ParameterCounts } from "./model/parameters.ts";
export { presetConfig, presetNames } from "./model/presets.ts";
export { Transformer } from "./model/transformer.ts";
export type { ArmResult, Comparison } from "./report/comparison.ts";
export { comparisonPage } from "./report/comparisonPage.ts";
export { trainBpe } from "./text/bpeTraining.ts";
export { type Corpus, openCorpus } from "./text/corpus.ts";
export { type TokenDataset, tokenDatasetFromMemory } from "./text/dataset.ts";
export { tokenizeCorpus } from "./text/shards.ts";
export { byteTokenizer, StreamDecoder, type Tokenizer, tokenizerFromJson } from "./text/tokenizer.ts";
export { trainTokenizer } from "./text/trainTokenizer.ts";
export { type CompareOptions, compare } from "./train/compare.ts";
export { resolveTrainConfig, settings, type TrainConfig, type TrainConfigInput } from "./train/config.ts";
export { type PreparedData, prepareData } from "./train/data.ts";
export { type MetricsRecord, type TrainOptions, type TrainResult, train } from "./train/loop.ts";
export { type Validation, validate } from "./train/validate.ts";
