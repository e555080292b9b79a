// A small training run in a process of its own, for tests that kill it: node --import tsx trainOnce.ts DIR [resume].

import { train } from "../../src/train/loop.ts";
import { tinyRun } from "./tinyRun.ts";

const [out, resume] = process.argv.slice(2);
const result = await train({
  ...(resume ? {} : tinyRun),
  out,
  resume: resume === "resume",
  threads: 2,
  announce: () => {},
  onStep: ({ step }) => process.stdout.write(`step ${step}\n`),
});
process.stdout.write(`final ${result.validation.loss}\n`);
