// Peers of the layer benchmark: a whole layer in PyTorch; one dense SwiGLU expert in onnxruntime and in jax-js, which have
// no mixture-of-experts layer of their own for a CPU.

import { rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { denseExpert } from "../../mone/expert.ts";
import { RandomStream } from "../../random.ts";
import { Tape } from "../../tensor/tape.ts";
import { sizeOf, Tensor } from "../../tensor/tensor.ts";
import { LayerArm, type LayerPass, type LayerPeerRow, type LayerShape } from "../layerArm.ts";
import { type Contender, secondsPerCall, spreadOf, takeTurns } from "../measure.ts";
import type { Session } from "../result.ts";
import { nodePeer, startPeers, TorchPeers } from "./find.ts";
import { swigluOnnx } from "./onnx.ts";
import type { PeerProcess } from "./process.ts";

const passes: readonly LayerPass[] = ["forward", "both"];

/** The layer in PyTorch with K = F and K = F / 4, in f32 and bf16, by turns with this project's. */
export async function layerPeers(
  session: Session<"layer">,
  base: LayerShape,
  dtype: "f32" | "bf16",
  signal?: AbortSignal,
): Promise<LayerPeerRow[]> {
  const { backend, envelope, turns, miss } = session;
  const torch = new TorchPeers();
  const shapes = [base.neurons, Math.max(1, base.neurons >> 2)].map((kept) => ({ ...base, kept }));
  const commands = shapes.flatMap((shape) =>
    (["f32", "bf16"] as const).map((type) =>
      torch.command(`PyTorch ${type}, K ${shape.kept}`, "torch_layer.py", {
        ...shape,
        dtype: type,
        threads: envelope.threads,
      }),
    ),
  );
  const arms = shapes.map((shape) => new LayerArm(backend, shape, dtype === "bf16"));
  const peers = await startPeers(commands, miss, signal);
  try {
    const calls = envelope.quick ? 1 : 5;
    const rows = [
      ...arms.map((arm) => ({
        engine: `neuron-experts ${dtype}`,
        version: envelope.versions.package,
        kept: arm.shape.kept,
        time: (pass: LayerPass) =>
          secondsPerCall(
            () => arm.run(pass),
            () => arm.finish(),
            envelope.quick ? 0.002 : 0.3,
          ),
      })),
      ...peers.map((peer) => ({
        engine: peer.name.split(",")[0],
        version: String(peer.about.version),
        kept: Number(peer.name.split(" K ")[1]),
        time: async (pass: LayerPass) =>
          spreadOf(await peer.seconds({ calls, backward: pass === "both" })).median,
      })),
    ];
    const contenders = rows.flatMap((row) =>
      passes.map((pass) => ({ name: `${row.engine}, K ${row.kept}`, run: () => row.time(pass) })),
    );
    await takeTurns(contenders, { ...turns, rounds: 1 }); // not counted: memory is touched for the first time
    const times = await takeTurns(contenders, turns);
    return rows.map(({ engine, version, kept }, i) => ({
      work: "layer",
      engine,
      version,
      kept,
      seconds: { forward: spreadOf(times[2 * i]), both: spreadOf(times[2 * i + 1]) },
    }));
  } finally {
    for (const arm of arms) arm.close();
    for (const peer of peers) peer.close();
  }
}

/** One dense expert on all tokens, forward, in f32. */
export async function expertPeers(
  session: Session<"layer">,
  { width, neurons, tokens }: Pick<LayerShape, "width" | "neurons" | "tokens">,
  signal?: AbortSignal,
): Promise<LayerPeerRow[]> {
  const { envelope, turns, miss } = session;
  const { threads, quick } = envelope;
  const path = join(tmpdir(), `mone-expert-${process.pid}.onnx`);
  writeFileSync(path, swigluOnnx({ width, neurons, tokens }));
  const sizes = { width, neurons, tokens, threads };
  let peers: PeerProcess[] = [];
  const own = denseContender(session, { width, neurons, tokens });
  try {
    peers = await startPeers(
      [
        nodePeer("onnxruntime-node", "onnxruntime-node", "onnx_expert.mjs", { ...sizes, model: path }),
        nodePeer("jax-js", "@jax-js/jax", "jax_expert.mjs", sizes),
      ],
      miss,
      signal,
    );
    const calls = quick ? 1 : 5;
    const contenders: Contender<number>[] = [
      own,
      ...peers.map((peer) => ({
        name: peer.name,
        run: async () => spreadOf(await peer.seconds({ calls })).median,
      })),
    ];
    await takeTurns(contenders, { ...turns, rounds: 1 });
    const times = await takeTurns(contenders, turns);
    return contenders.map(({ name }, i) => ({
      work: "expert",
      engine: name,
      version: i === 0 ? envelope.versions.package : String(peers[i - 1].about.version),
      kept: neurons,
      seconds: { forward: spreadOf(times[i]) },
    }));
  } finally {
    for (const peer of peers) peer.close();
    own.close();
    rmSync(path, { force: true });
  }
}

function denseContender(
  { backend, envelope }: Session<"layer">,
  { width, neurons, tokens }: Pick<LayerShape, "width" | "neurons" | "tokens">,
): Contender<number> & { close(): void } {
  const tensor = (name: string, shape: readonly number[]) => {
    const values = new Float32Array(sizeOf(shape));
    new RandomStream(1, `bench expert/${name}`).fillNormal(values, 0.02);
    const made = new Tensor(backend.allocate("f32", values.length), shape);
    backend.write(made.buffer, values);
    return made;
  };
  const x = tensor("x", [tokens, width]);
  const weights = {
    gate: tensor("gate", [neurons, width]),
    up: tensor("up", [neurons, width]),
    down: tensor("down", [width, neurons]),
  };
  const work = () => {
    const tape = new Tape(backend, { recording: false });
    denseExpert(tape, x, weights, { kept: neurons, activation: "silu", bf16: false });
    tape.release();
  };
  return {
    name: "neuron-experts f32",
    run: () => secondsPerCall(work, () => backend.read(x.buffer, 0, 1), envelope.quick ? 0.002 : 0.3),
    close() {
      for (const { buffer } of [x, ...Object.values(weights)]) backend.free(buffer);
    },
  };
}
