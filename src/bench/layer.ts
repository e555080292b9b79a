// Times one mixture-of-experts layer against each of its sizes, K, F, E and the number of tokens, as training computes it; and
// its experts as decoding reads them (storedLayer.ts). What K < F costs or gains is the ratio to K = F of the same round.

import { throwIfAborted, UsageError } from "../errors.ts";
import { LayerArm, type LayerPass, type LayerPeerRow, type LayerShape } from "./layerArm.ts";
import { ratioOf, type Spread, secondsPerCall, spreadOf, takeTurns } from "./measure.ts";
import { expertPeers, layerPeers } from "./peers/layer.ts";
import { type BenchOptions, type Envelope, inSession, type Session } from "./result.ts";
import { type StoredLayerCase, timeStoredLayers } from "./storedLayer.ts";

export interface LayerBenchOptions extends BenchOptions {
  readonly dtype?: "auto" | "f32" | "bf16";
  /** Sizes that every sweep starts from. */
  readonly width?: number;
  readonly neurons?: number;
  readonly experts?: number;
  readonly tokens?: number;
  readonly peers?: boolean;
}

export type Sweep = "K" | "F" | "E" | "T";

export interface LayerCase extends LayerShape {
  readonly sweep: Sweep;
  readonly seconds: Readonly<Record<LayerPass, Spread>>;
  /** Time relative to the same layer with K = F. */
  readonly ratio: Readonly<Record<LayerPass, Spread>>;
  /** Of the products with all neurons, forward and backward together. */
  readonly gigaflops: number;
  readonly shareOfPeak: number;
}

export interface LayerBench extends Envelope<"layer"> {
  readonly dtype: "f32" | "bf16";
  readonly cases: readonly LayerCase[];
  /** The experts as decoding reads them. */
  readonly stored: readonly StoredLayerCase[];
  readonly peers: readonly LayerPeerRow[];
}

/** @throws UsageError for sizes that cannot work together. */
export function benchLayer(options: LayerBenchOptions = {}): Promise<LayerBench> {
  const { quick = false } = options;
  const base: Omit<LayerShape, "kept"> = {
    width: options.width ?? (quick ? 32 : 512),
    neurons: options.neurons ?? (quick ? 32 : 512),
    experts: options.experts ?? (quick ? 4 : 16),
    active: quick ? 2 : 4,
    tokens: options.tokens ?? (quick ? 8 : 1024),
  };
  if (base.experts < base.active) {
    throw new UsageError(
      `${base.experts} experts are fewer than the ${base.active} of a token: give --experts ${base.active} or more.`,
    );
  }
  if (base.neurons < 16)
    throw new UsageError("The sweep over K goes to F / 16: give --expert-width 16 or more.");
  return inSession("layer", options, async (session) => {
    const dtype = options.dtype === "f32" || !session.backend.nativeBf16 ? "f32" : "bf16";
    const cases: Omit<LayerCase, "shareOfPeak">[] = [];
    for (const { sweep, shapes } of sweepsFrom(base, quick)) {
      throwIfAborted(options.signal);
      cases.push(...(await timeShapes(session, { sweep, shapes, dtype, quick })));
    }
    const stored = await timeStoredLayers(session, {
      width: options.width ?? (quick ? 32 : 1024),
      neurons: options.neurons ?? (quick ? 32 : 1024),
      active: base.active,
    });
    const peers = options.peers
      ? [
          ...(await layerPeers(session, { ...base, kept: base.neurons }, dtype, options.signal)),
          ...(await expertPeers(session, base, options.signal)),
        ]
      : [];
    const { envelope, limits } = await session.settle();
    const peak = limits.gigaflops[dtype].all;
    const withShares = cases.map((one) => ({ ...one, shareOfPeak: one.gigaflops / peak }));
    return { ...envelope, dtype, cases: withShares, stored, peers };
  });
}

type Base = Omit<LayerShape, "kept">;

/** Groups of layers that take turns: the same but for K, K = F first. */
function sweepsFrom(base: Base, quick: boolean): { sweep: Sweep; shapes: LayerShape[] }[] {
  const withKept = (shape: Base, shares: readonly number[]) =>
    shares.map((share) => ({ ...shape, kept: Math.max(1, Math.round(shape.neurons * share)) }));
  const steps = quick ? [1] : [0.25, 0.5, 1, 2];
  const variants = (sweep: Sweep, key: "neurons" | "experts" | "tokens", factors: readonly number[]) =>
    factors
      .map((factor) => ({ ...base, [key]: Math.round(base[key] * factor) }))
      .filter((shape) => shape.experts >= shape.active && shape.tokens >= 1)
      .map((shape) => ({ sweep, shapes: withKept(shape, [1, 1 / 4]) }));
  return [
    { sweep: "K", shapes: withKept(base, [1, 1 / 2, 1 / 4, 1 / 8, 1 / 16]) },
    ...variants("F", "neurons", steps),
    ...variants("E", "experts", quick ? [1] : [0.5, 1, 2, 4]),
    ...variants("T", "tokens", quick ? [1] : [1 / 1024, 1 / 64, 1 / 16, 1 / 4, 1, 4]),
  ];
}

async function timeShapes(
  { backend, turns }: Session<"layer">,
  {
    sweep,
    shapes,
    dtype,
    quick,
  }: { sweep: Sweep; shapes: LayerShape[]; dtype: "f32" | "bf16"; quick: boolean },
): Promise<Omit<LayerCase, "shareOfPeak">[]> {
  const arms = shapes.map((shape) => new LayerArm(backend, shape, dtype === "bf16"));
  try {
    const passes: LayerPass[] = ["forward", "both"];
    const contenders = arms.flatMap((arm) => passes.map((pass) => layerContender(arm, pass, quick)));
    const times = await takeTurns(contenders, turns);
    const timesOf = (arm: number, pass: LayerPass) => times[arm * passes.length + passes.indexOf(pass)];
    return shapes.map((shape, arm) => {
      const of = (make: (pass: LayerPass) => Spread) => ({ forward: make("forward"), both: make("both") });
      const seconds = of((pass) => spreadOf(timesOf(arm, pass)));
      const gigaflops = (3 * layerFlops(shape)) / seconds.both.median / 1e9;
      return {
        sweep,
        ...shape,
        seconds,
        ratio: of((pass) => ratioOf(timesOf(arm, pass), timesOf(0, pass))),
        gigaflops,
      };
    });
  } finally {
    for (const arm of arms) arm.close();
  }
}

/** One pass of a layer, timed over a third of a second. */
export function layerContender(arm: LayerArm, pass: LayerPass, quick: boolean) {
  const { neurons, experts, tokens, kept } = arm.shape;
  const name = `F ${neurons}, E ${experts}, ${tokens} tokens, K ${kept}, ${pass === "both" ? "forward and backward" : "forward"}`;
  const run = () =>
    secondsPerCall(
      () => arm.run(pass),
      () => arm.finish(),
      quick ? 0.002 : 0.3,
    );
  return { name, run };
}

/** Products of a forward pass with all neurons: router and experts. */
export function layerFlops({ width, neurons, experts, active, tokens }: LayerShape): number {
  return tokens * (2 * width * experts + 6 * active * width * neurons);
}
