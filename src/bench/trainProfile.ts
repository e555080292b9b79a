// Where the time of a training step goes: kernels by pass and part of the model, with the operations they do.

import type { Backend } from "../backends/backend.ts";
import { type Pass, type Phase, profileBackend } from "./profile.ts";
import { type TrainerPlan, trainerOf } from "./trainerArm.ts";

export interface ProfileRow {
  /** `data` makes batches; `other` is what no kernel accounts for. */
  readonly phase: Phase | "data" | "other";
  readonly pass: Pass | "-";
  readonly millisecondsPerStep: number;
  readonly shareOfStep: number;
  readonly calls: number;
  readonly gigaflops?: number;
  /** Of the multiplication measured in registers (train.ts). */
  readonly shareOfPeak?: number;
}

/** Profiles steps after two that are not counted. The longest part comes first. */
export async function profileSteps(
  inner: Backend,
  plan: TrainerPlan & { readonly signal?: AbortSignal },
): Promise<ProfileRow[]> {
  const { backend, report, reset } = profileBackend(inner);
  const trainer = trainerOf(backend, plan);
  try {
    const steps = plan.quick ? 1 : 5;
    for (let i = 0; i < (plan.quick ? 1 : 2); i++) await trainer.advance();
    reset();
    const start = performance.now();
    let data = 0;
    for (let i = 0; i < steps; i++) {
      plan.signal?.throwIfAborted();
      const batchStart = performance.now();
      trainer.sampler.batch(trainer.position, trainer.config.batch); // as the step itself does, which then does it again
      data += performance.now() - batchStart;
      await trainer.advance();
    }
    const total = performance.now() - start - data;
    const groups = new Map<
      string,
      { phase: Phase; pass: Pass; seconds: number; calls: number; flops: number }
    >();
    for (const { phase, pass, seconds, calls, flops } of report()) {
      const group = groups.get(`${phase} ${pass}`) ?? { phase, pass, seconds: 0, calls: 0, flops: 0 };
      groups.set(`${phase} ${pass}`, {
        ...group,
        seconds: group.seconds + seconds,
        calls: group.calls + calls,
        flops: group.flops + flops,
      });
    }
    const row = (milliseconds: number) => ({
      millisecondsPerStep: milliseconds / steps,
      shareOfStep: milliseconds / total,
    });
    const kernels = [...groups.values()].map(({ phase, pass, seconds, calls, flops }): ProfileRow => {
      const gigaflops = flops / seconds / 1e9;
      return {
        phase,
        pass,
        ...row(1000 * seconds),
        calls: calls / steps,
        ...(flops > 0 && { gigaflops }),
      };
    });
    const inKernels = [...groups.values()].reduce((sum, { seconds }) => sum + 1000 * seconds, 0);
    return [
      ...kernels.sort((a, b) => b.millisecondsPerStep - a.millisecondsPerStep),
      { phase: "data", pass: "-", ...row(data), calls: 1 },
      { phase: "other", pass: "-", ...row(Math.max(0, total - inKernels - data)), calls: 0 },
    ];
  } finally {
    trainer.close();
  }
}
