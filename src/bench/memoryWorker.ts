// A process that does one piece of work and says how much memory it took (memory.ts). Its only argument is the work as JSON.

import { openBackend } from "../backends/cpu.ts";
import { createRandomModel } from "../infer/randomModel.ts";
import { DecodeArm, decodeConfig } from "./decodeArm.ts";
import { peakBytesOfProcess } from "./machine.ts";
import type { MemoryUse, MemoryWork } from "./memory.ts";
import { openBenchText, trainerOf } from "./trainerArm.ts";

const work = JSON.parse(process.argv[2]) as MemoryWork;
const { width, kept, dtype, threads, quick, recompute } = work;
const size = { name: `D ${width}`, width };
const backend = openBackend({ threads }, () => {});
const startBytes = peakBytesOfProcess();
let bufferBytes: number;
if (work.kind === "train") {
  const text = await openBenchText({ quick: true }); // what is read does not matter for memory
  const plan = { size, kept, text, quick, dtype: dtype === "int8" ? "auto" : dtype, recompute } as const;
  const trainer = trainerOf(backend, plan);
  for (let i = 0; i < (quick ? 1 : 3); i++) await trainer.advance();
  bufferBytes = backend.bytesInUse;
  text.close();
} else {
  const positions = quick ? 16 : 640;
  const model = createRandomModel(decodeConfig(size, kept, quick), backend, { dtype });
  const arm = new DecodeArm(model, { kept, slots: 1, positions });
  await arm.prefill(quick ? 4 : 512);
  await arm.decode({ batch: 1, tokens: quick ? 1 : 4, prompt: quick ? 4 : 32 });
  bufferBytes = backend.bytesInUse;
}
const use: MemoryUse = { peakBytes: peakBytesOfProcess(), startBytes, bufferBytes };
process.stdout.write(`MONE ${JSON.stringify(use)}\n`);
backend.close();
