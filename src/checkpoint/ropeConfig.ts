// How a config.json says that positions are rotated: the older keys `rope_theta` and `rope_scaling`, or the newer
// `rope_parameters`. Rules as in transformers 5.18.

import { quote } from "../errors.ts";
import { type RopeScaling, yarnMagnitude } from "../model/rope.ts";

/** The content of a config.json. */
export type Stored = Record<string, unknown>;

interface RopeContext {
  /** With the family's defaults. */
  readonly stored: Stored;
  /** Latent attention scales its scores for yarn, too. */
  readonly latent: boolean;
  /** Width of a query with latent attention. */
  readonly width: number;
  readonly refuse: (what: string) => never;
}

interface Rope {
  readonly theta: number;
  readonly scaling?: RopeScaling;
  readonly attentionScale?: number;
}

const isFilled = (value: unknown): value is Stored =>
  typeof value === "object" && value !== null && Object.keys(value).length > 0;

/** What a config.json says; a `rope_scaling` that says something replaces `rope_parameters`. */
export function ropeOf(given: Stored, { stored, latent, width, refuse }: RopeContext): Rope {
  const found = [given.rope_scaling, given.rope_parameters].find(isFilled) ?? {};
  const theta = Number(found.rope_theta ?? stored.rope_theta ?? 10000);
  const type = String(found.rope_type ?? found.type ?? "default");
  const number = (key: string, fallback?: number): number => {
    const value = found[key] ?? fallback;
    return typeof value === "number" && Number.isFinite(value)
      ? value
      : refuse(`rotary scaling ${quote(type)} without a number ${key}`);
  };
  const positions = Number(stored.max_position_embeddings);
  switch (type) {
    case "default":
      return { theta };
    case "dynamic":
      // Changes frequencies beyond max_position_embeddings only, where no model is run.
      return { theta };
    case "linear":
      return { theta, scaling: { type, factor: number("factor") } };
    case "llama3":
      return {
        theta,
        scaling: {
          type,
          factor: number("factor"),
          low: number("low_freq_factor"),
          high: number("high_freq_factor"),
          original: number("original_max_position_embeddings", positions),
        },
      };
    case "yarn": {
      const original = number("original_max_position_embeddings", positions);
      const factor = number("factor", positions / original);
      const [mscale, mscaleAll] = [number("mscale", 0), number("mscale_all_dim", 0)];
      const attentionFactor =
        mscale !== 0 && mscaleAll !== 0
          ? yarnMagnitude(factor, mscale) / yarnMagnitude(factor, mscaleAll)
          : yarnMagnitude(factor);
      const scaling: RopeScaling = {
        type,
        factor,
        original,
        betaFast: number("beta_fast", 32),
        betaSlow: number("beta_slow", 1),
        truncate: found.truncate !== false,
        attentionFactor: number("attention_factor", attentionFactor),
      };
      const magnitude = yarnMagnitude(factor, mscaleAll);
      return {
        theta,
        scaling,
        ...(latent && mscaleAll !== 0 && { attentionScale: width ** -0.5 * magnitude ** 2 }),
      };
    }
    default:
      return refuse(`rotary scaling ${quote(type)}`);
  }
}
