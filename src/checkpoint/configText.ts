// The text of a config.json. JavaScript knows one kind of number, so 0.0 would be written as 0; transformers 5 checks the kind
// of some keys and refuses a whole number where it wants another ("expected float, got int").

/** Keys that the families' classes declare as float and nothing else. */
const FLOATS: ReadonlySet<string> = new Set([
  "attention_dropout",
  "clip_qkv",
  "initializer_range",
  "rms_norm_eps",
  "routed_scaling_factor",
  "router_aux_loss_coef",
  "router_jitter_noise",
]);

/**
 * `config` as it is written to disk: those keys, and those that `original` writes with a point or an exponent, keep a point.
 * @param original the text of the file that `config` was read from.
 */
export function configText(config: Readonly<Record<string, unknown>>, original = ""): string {
  const written = original.matchAll(/"(\w+)"\s*:\s*-?\d+(?:\.\d|[eE])/g);
  const floats = new Set([...FLOATS, ...[...written].map(([, key]) => key)]);
  // One key a line, so a line that ends in digits after a key is a number and no part of a text.
  const text = JSON.stringify(config, null, 2).replace(
    /^(\s*"(\w+)": -?\d+)(?=,?$)/gm,
    (number, _, key: string) => (floats.has(key) ? `${number}.0` : number),
  );
  return `${text}\n`;
}
