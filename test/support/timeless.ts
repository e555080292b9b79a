import type { ExperimentReport } from "../../src/experiment/report/report.ts";

/** A report without what depends on the clock. */
export function timeless(report: ExperimentReport): object {
  const { finishedAt: _at, ...rest } = report;
  const arms = rest.arms.map(({ cost: _cost, runs, ...arm }) => ({
    ...arm,
    runs: runs.map(({ cost: _own, finishedAt: _ownAt, ...run }) => run),
  }));
  return { ...rest, arms };
}
