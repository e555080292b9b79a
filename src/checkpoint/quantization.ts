// How a config.json says that weights are not plain floats: `quantization_config`, the key by which other software decides
// whether it can read a checkpoint. The only form known here is our own: matrices as signed bytes with a scale for each row
// (kernels/stored.ts); its method has a name of its own so that others refuse the checkpoint and do not misread it.
// Not here: where its tensors lie (byteTensors.ts), how they are made (convertInt8.ts).

import { quote, UsageError } from "../errors.ts";
import { isObject } from "./strictJson.ts";

/** What an int8 checkpoint's config.json holds under `quantization_config`. */
export const int8Quantization = {
  quant_method: "mone_int8",
  version: 1,
  bits: 8,
  symmetric: true,
  /** One scale for a row of `X.weight` (its output) or of `X.weight_t` (its input): `X.weight_scale`, `X.weight_t_scale`. */
  scales: "row",
} as const;

/** Whether the content of a config.json is that of an int8 checkpoint. */
export function isInt8(stored: Readonly<Record<string, unknown>>): boolean {
  const found = stored.quantization_config;
  return isObject(found) && found.quant_method === int8Quantization.quant_method;
}

/** Refuses a config.json that asks for a quantisation that is not known here. */
export function checkQuantization(
  stored: Readonly<Record<string, unknown>>,
  refuse: (what: string) => never,
): void {
  const found = stored.quantization_config ?? undefined;
  if (found === undefined) return;
  if (!isInt8(stored)) refuse(`quantization_config ${quote(isObject(found) ? found.quant_method : found)}`);
  const { version } = found as { version?: unknown };
  if (version !== int8Quantization.version) refuse(`quantization_config of version ${quote(version)}`);
}

/** @param work what cannot be done with bytes, e.g. "trained". @throws UsageError for an int8 checkpoint. */
export function requireFloats(stored: Readonly<Record<string, unknown>>, folder: string, work: string): void {
  if (!isInt8(stored)) return;
  throw new UsageError(
    `${folder} holds int8 weights, which cannot be ${work}: use the checkpoint that they were made from`,
  );
}
