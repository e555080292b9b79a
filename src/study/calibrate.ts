// What some criteria must know before they run, from windows that are not measured: a threshold per layer, the mean
// |act(g)| of every neuron, and, from the weights alone, the norms of the down columns.

import { readerOf, type StoredArray, scaleOf } from "../kernels/stored.ts";
import { expertWidth, keptNeurons } from "../model/config.ts";
import type { Transformer } from "../model/transformer.ts";
import type { StoredExperts } from "../tensor/ops.ts";
import { Tape } from "../tensor/tape.ts";
import { Tensor } from "../tensor/tensor.ts";
import { gatherActivation } from "./activation.ts";
import { batchesOf, type Calibrated, forwardBatch } from "./evaluate.ts";
import { GateHistogram } from "./histogram.ts";
import type { Criterion } from "./settings.ts";
import type { Window } from "./text.ts";

/** Calibration that owns memory of the backend. */
export interface Calibration extends Calibrated {
  close(): void;
}

/** Calibrates for these criteria. */
export async function calibrate(
  model: Transformer,
  windows: readonly Window[],
  criteria: readonly Criterion[],
  options: { signal?: AbortSignal; onTokens?: (done: number, total: number) => void } = {},
): Promise<Calibration> {
  const { config, backend } = model;
  const width = expertWidth(config);
  const owned: Tensor[] = [];
  const onDevice = (values: Float32Array) => {
    const tensor = new Tensor(backend.allocate("f32", values.length), [values.length / width, width]);
    backend.write(tensor.buffer, values);
    owned.push(tensor);
    return tensor;
  };
  const meanGates: Tensor[] = [];
  const histograms: GateHistogram[] = [];
  if (criteria.includes("threshold") || criteria.includes("static")) {
    for (const layer of await gatherActivation(model, windows, keptNeurons(config), options)) {
      const merged = new GateHistogram();
      for (const histogram of layer.histograms) merged.merge(histogram);
      histograms[layer.layer] = merged;
      // An expert that no token visited ranks its neurons by number.
      const means = Float32Array.from(
        layer.sums,
        (sum, i) => sum / Math.max(1, layer.rows[Math.floor(i / width)]),
      );
      meanGates[layer.layer] = onDevice(means);
    }
  }
  const downNorms: Tensor[] = [];
  if (criteria.includes("oracle-norm")) {
    for (const [layer, weights] of (await networksOf(model, windows[0])).entries()) {
      if (weights) downNorms[layer] = onDevice(await columnNorms(model, weights));
    }
  }
  return {
    threshold: (layer, kept) => histograms[layer].quantile(1 - kept / width),
    meanGates,
    downNorms,
    close: () => {
      for (const { buffer } of owned) backend.free(buffer);
    },
  };
}

/** The networks in which neurons are selected, by layer. */
async function networksOf(model: Transformer, window: Window): Promise<(StoredExperts | undefined)[]> {
  const networks: (StoredExperts | undefined)[] = [];
  const tape = new Tape(model.backend, { recording: false });
  const one = { ...window, inputs: window.inputs.subarray(0, 1), targets: window.targets.subarray(0, 1) };
  const hidden = forwardBatch(tape, model, batchesOf([one])[0], {
    experts:
      (layer) =>
      (on, x, _offsets, weights, { routed }) => {
        networks[layer] = weights;
        const rows = routed ? routed.slotOfRow.size : x.shape[0];
        return on.constant(new Float32Array(rows * x.shape[1]), [rows, x.shape[1]]);
      },
  });
  await model.backend.read(hidden.buffer, 0, 1);
  tape.release();
  return networks;
}

/** |w_down_j| of all neurons of all experts: [E, F]. */
async function columnNorms({ backend }: Transformer, { down }: StoredExperts): Promise<Float32Array> {
  const [experts, neurons, width] = down.shape;
  const norms = new Float32Array(experts * neurons);
  const scales = await backend.read(down.scales.buffer, 0, down.scales.size);
  for (let e = 0; e < experts; e++) {
    const stored = (await backend.read(down.buffer, e * neurons * width, neurons * width)) as StoredArray;
    const at = readerOf(down.type, stored);
    for (let j = 0; j < neurons; j++) {
      let squares = 0;
      for (let d = 0; d < width; d++) squares += at(j * width + d) ** 2;
      norms[e * neurons + j] = Math.sqrt(squares) * scaleOf(down.type, scales, e * neurons + j);
    }
  }
  return norms;
}
