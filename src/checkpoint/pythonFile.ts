// The Python file that is written beside a checkpoint with K < F, so that transformers (`trust_remote_code=True`) keeps the
// same neurons: it replaces nothing but the activation of the experts. Plain Python on top of the family's own class, for
// transformers 4 (an expert is a module with `act_fn`) and 5 (all experts of a layer are one).

export const PYTHON_FILE = "modeling_mone.py";

/** Classes of transformers, by `model_type`; `mone` models are not known there. */
const classes: Readonly<Record<string, string>> = {
  olmoe: "OlmoeForCausalLM",
  mixtral: "MixtralForCausalLM",
  qwen2_moe: "Qwen2MoeForCausalLM",
  qwen3_moe: "Qwen3MoeForCausalLM",
  deepseek_v2: "DeepseekV2ForCausalLM",
  llama: "LlamaForCausalLM",
  qwen3: "Qwen3ForCausalLM",
};
const DENSE: ReadonlySet<string> = new Set(["llama", "qwen3"]);

/**
 * transformers 5 computes experts in one of several ways, and finds by the source of a class's own file whether it may choose.
 * One of them (sonicmoe) has the activation in its kernel, where ours is not called.
 */
const expertsImplementation = (parent: string) => `
    @classmethod
    def _can_set_experts_implementation(cls):
        return ${parent}._can_set_experts_implementation()

    def get_correct_experts_implementation(self, requested_experts):
        if requested_experts not in (None, "eager", "batched_mm", "grouped_mm", "deepgemm"):
            raise ValueError(f"experts_implementation={requested_experts!r} would use all neurons of an expert")
        return super().get_correct_experts_implementation(requested_experts)
`;

/** The file and the `auto_map` of config.json that names it; undefined for a model that transformers does not know. */
export function pythonFile(
  config: Readonly<Record<string, unknown>>,
): { source: string; autoMap: Record<string, string> } | undefined {
  const family = String(config.model_type);
  if (!Object.hasOwn(classes, family)) return undefined;
  const site = DENSE.has(family) ? '".mlp"' : '".experts"';
  const source = `"""${classes[family]} that keeps, per token and expert, the num_neurons_per_tok neurons with the largest |gate|.

Mixture of Neuron Experts, arXiv 2510.05781. Load with trust_remote_code=True.
"""

import torch
from transformers import ${classes[family]}


class KeepLargest(torch.nn.Module):
    """An activation, then zero for all but the k values of largest magnitude (the lower index wins a tie)."""

    def __init__(self, activation, kept):
        super().__init__()
        self.activation = activation
        self.kept = kept

    def forward(self, gate):
        values = self.activation(gate)
        if self.kept >= values.shape[-1]:
            return values
        order = values.abs().sort(dim=-1, descending=True, stable=True).indices[..., : self.kept]
        return torch.zeros_like(values).scatter(-1, order, values.gather(-1, order))


class MoneForCausalLM(${classes[family]}):
    def __init__(self, config):
        super().__init__(config)
        kept = getattr(config, "num_neurons_per_tok", None)
        for name, module in list(self.named_modules()):
            if kept and ${site} in name and hasattr(module, "act_fn"):
                module.act_fn = KeepLargest(module.act_fn, kept)
${DENSE.has(family) ? "" : expertsImplementation(classes[family])}`;
  const stem = PYTHON_FILE.replace(/\.py$/, "");
  return { source, autoMap: { AutoModelForCausalLM: `${stem}.MoneForCausalLM` } };
}
