// The public names of the library, and nothing else. Never imported from inside.

export type { Backend } from "./backends/backend.ts";
export { cpuLevels, openBackend } from "./backends/cpu.ts";
export { benchDecode, type DecodeBench, type DecodeBenchOptions } from "./bench/decode.ts";
export { benchKernels, type KernelBench, type KernelBenchOptions } from "./bench/kernels.ts";
export { benchLayer, type LayerBench, type LayerBenchOptions } from "./bench/layer.ts";
export { describeMachine, type Machine, type MachineLimits, measureLimits } from "./bench/machine.ts";
export { benchMemory, type MemoryBench, type MemoryBenchOptions } from "./bench/memory.ts";
export { type BenchResult, benchPage, presentBench, saveBench } from "./bench/save.ts";
export { benchSelect, type SelectBench, type SelectBenchOptions } from "./bench/select.ts";
export { benchTrain, type TrainBench, type TrainBenchOptions } from "./bench/train.ts";
export { type Conversion, type ConvertOptions, convertCheckpoint } from "./checkpoint/convert.ts";
export { type ExportOptions, exportGguf } from "./checkpoint/exportGguf.ts";
export { type ChatMessage, renderChat } from "./checkpoint/generation.ts";
export { type HubOptions, resolveModelPath } from "./checkpoint/hub.ts";
export { type Import, type ImportOptions, importGguf } from "./checkpoint/importGguf.ts";
export { checkValues, inspectModel } from "./checkpoint/inspect.ts";
export { type GgufInspection, inspectGguf } from "./checkpoint/inspectGguf.ts";
export { type LoadOptions, loadModel } from "./checkpoint/loadModel.ts";
export { saveModel } from "./checkpoint/modelFolder.ts";
export { type RandomCheckpointOptions, writeRandomCheckpoint } from "./checkpoint/randomCheckpoint.ts";
export { RunError, UsageError } from "./errors.ts";

export { type EvaluateOptions, evaluateTasks, type Sample, type TaskResult } from "./evaluate/evaluate.ts";
export { type LogLikelihood, type LogLikelihoodOptions, logLikelihoods } from "./evaluate/logLikelihood.ts";
export { type Perplexity, type PerplexityOptions, perplexity } from "./evaluate/perplexity.ts";
export { type HarnessResults, harnessResults, sampleLines } from "./evaluate/results.ts";
export { type FindTaskFiles, localTaskFiles, type TaskFiles } from "./evaluate/rows.ts";
export type { Layout, TaskSpec } from "./evaluate/task.ts";
export { builtInTasks } from "./evaluate/tasks/catalogue.ts";
export { encodePair, rollingWindows, type TokenRequest } from "./evaluate/tokens.ts";
export { checkExperiment, readExperiment } from "./experiment/file.ts";
export { type Measure, type Quantity, registerMeasure, type Sweep } from "./experiment/measures/catalogue.ts";
export { type OverheadOptions, overhead } from "./experiment/overhead/overhead.ts";
export type { OverheadReport } from "./experiment/overhead/report.ts";
export type { RunRecord } from "./experiment/report/record.ts";
export type { ExperimentReport } from "./experiment/report/report.ts";
export { type ExperimentOptions, experiment } from "./experiment/run.ts";
export type { ExperimentSpec } from "./experiment/spec.ts";
export { pairedDifference, pairedPower, seedsNeeded } from "./experiment/statistics/paired.ts";
export {
  type ExperimentStatus,
  experimentStatus,
  type OverheadStatus,
  overheadStatus,
} from "./experiment/status.ts";
export {
  Decoder,
  type DecoderOptions,
  type Rows,
  type ScoredRows,
  type TokenScores,
} from "./infer/decoder.ts";

export { type GenerateOptions, LanguageModel } from "./infer/languageModel.ts";
export {
  type LayerRouting,
  type LogitsOptions,
  pooledBalanceLoss,
  type TextLogits,
  textLogits,
} from "./infer/logits.ts";
export { createRandomModel } from "./infer/randomModel.ts";
export type { WeightFormat } from "./infer/storedWeights.ts";
export { type ModelConfig, modelDefaults } from "./model/config.ts";
export { type Kept, type NeuronsOption, resolveNeurons } from "./model/neurons.ts";
export { countParameters, type ParameterCounts } from "./model/parameters.ts";
export { presetConfig, presetNames } from "./model/presets.ts";
export { Transformer } from "./model/transformer.ts";
export { decodeBytes, forwardFlops, trainingFlops } from "./model/work.ts";
export type { ArmResult, Comparison } from "./report/comparison.ts";
export { comparisonPage } from "./report/comparisonPage.ts";
export { studyPage } from "./study/page.ts";
export type { StudyOptions } from "./study/plan.ts";
export { type PruneOptions, pruneCheckpoint } from "./study/prune.ts";
export type { SettingResult, SpeedResult, StudyResult, Verdict } from "./study/result.ts";
export type { Criterion } from "./study/settings.ts";
export { type FinishedStudy, type StudiedModel, study } from "./study/study.ts";
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
