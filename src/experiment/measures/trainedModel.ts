// The model of a finished run, with the arithmetic of training: at its own K it gives the run's validation loss to the last digit.

import { loadParameters, readModelConfig } from "../../checkpoint/modelFolder.ts";
import { Transformer } from "../../model/transformer.ts";
import { usesBf16 } from "../../train/config.ts";
import { type Validation, validate } from "../../train/validate.ts";
import type { MeasureContext } from "./measure.ts";

/** Opens the model for `work`, which may validate it with any number of neurons kept, and closes it. */
export async function withTrainedModel<T>(
  { config, checkpoint, prepared, backend, signal }: MeasureContext,
  work: (model: Transformer, validateWith: (kept: number) => Promise<Validation>) => Promise<T>,
): Promise<T> {
  const { seqLen, batch } = config;
  const bf16 = usesBf16(config, backend);
  const model = new Transformer(readModelConfig(checkpoint), backend);
  try {
    loadParameters(model, checkpoint);
    return await work(model, (kept) =>
      validate(model, prepared.dataset.valid, { seqLen, batch, bf16, kept, signal }),
    );
  } finally {
    model.close();
  }
}
