"""Peer for `mone bench decode`: a sequence through a random model with a cache, in PyTorch. Answers {"prefill": n} and
{"decode": n, "prompt": p} with seconds, as llama_decode.mjs does. With --kept below --neurons, single tokens read only the
rows of up and the (transposed) down matrices that they keep."""

import argparse

import torch
import torch.nn.functional as F

from answer import keep_largest, rms_norm, rope_tables, rotate, serve, time_each

parser = argparse.ArgumentParser()
for name in ("width", "layers", "heads", "experts", "active", "neurons", "kept", "vocab", "threads", "positions"):
    parser.add_argument("--" + name, type=int, required=True)
parser.add_argument("--dtype", choices=("f32", "bf16"), required=True)
o = parser.parse_args()
torch.set_num_threads(o.threads)
torch.manual_seed(1)
D, HEADS, HEAD = o.width, o.heads, o.width // o.heads
TYPE = torch.float32 if o.dtype == "f32" else torch.bfloat16
SPARSE = o.kept < o.neurons


def matrix(rows, columns):
    return (torch.randn(rows, columns) * 0.02).to(TYPE)


# Experts differ in memory, not in what they cost to make: shifted copies of one.
model_expert = [matrix(o.neurons, D), matrix(o.neurons, D), matrix(o.neurons, D)]


def expert(number):
    gate, up, down = (torch.roll(m, number + i, 1).contiguous() for i, m in enumerate(model_expert))
    return (gate, up, down) if SPARSE else (torch.cat((gate, up)), None, down.t().contiguous())


embedding = matrix(o.vocab, D)
layers = [{
    "qkv": matrix(3 * D, D), "out": matrix(D, D), "router": torch.randn(o.experts, D) * 0.02,
    "experts": [expert(layer * o.experts + e) for e in range(o.experts)],
    "keys": torch.zeros(HEADS, o.positions, HEAD, dtype=TYPE),
    "values": torch.zeros(HEADS, o.positions, HEAD, dtype=TYPE),
} for layer in range(o.layers)]
cos, sin = rope_tables(o.positions, HEAD)


def product(x, weight):
    """x W^T; one row goes faster as a product of a matrix and a vector."""
    return torch.mv(weight, x[0])[None] if x.shape[0] == 1 else F.linear(x, weight)


def run_expert(x, weights):
    gate_up, up, down = weights
    if not SPARSE:
        gate, lifted = product(x, gate_up).chunk(2, -1)
        return product(keep_largest(gate, o.kept) * lifted, down)
    gate = product(x, gate_up)
    if x.shape[0] > 1:
        return (keep_largest(gate, o.kept) * product(x, up)) @ down
    act = F.silu(gate)[0]
    best = act.abs().topk(o.kept, sorted=False).indices
    return ((act[best] * torch.mv(up[best], x[0]))[None] @ down[best])


def forward(ids, start):
    """Greedy choice after the last of `ids`, which stand at positions `start` and on."""
    rows, end = len(ids), start + len(ids)
    x = embedding[torch.tensor(ids)].float()
    for layer in layers:
        q, k, v = product(rms_norm(x).to(TYPE), layer["qkv"]).view(rows, 3, HEADS, HEAD).permute(1, 2, 0, 3)
        layer["keys"][:, start:end] = rotate(rms_norm(k), cos[start:end], sin[start:end]).to(TYPE)
        layer["values"][:, start:end] = v
        q = rotate(rms_norm(q), cos[start:end], sin[start:end]) * HEAD ** -0.5
        scores = (q.to(TYPE) @ layer["keys"][:, :end].transpose(1, 2)).float()
        if rows > 1:
            scores = scores + torch.full((rows, end), float("-inf")).triu(start + 1)
        mixed = scores.softmax(-1).to(TYPE) @ layer["values"][:, :end]
        x = x + product(mixed.transpose(0, 1).reshape(rows, D), layer["out"]).float()
        normed = rms_norm(x)
        weights, chosen = F.linear(normed, layer["router"]).softmax(-1).topk(o.active, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        normed = normed.to(TYPE)
        if rows == 1:
            for weight, e in zip(weights[0].tolist(), chosen[0].tolist()):
                x = x + weight * run_expert(normed, layer["experts"][e]).float()
        else:
            order = chosen.flatten().argsort()
            tokens = torch.div(order, o.active, rounding_mode="floor")
            counts = torch.bincount(chosen.flatten(), minlength=o.experts).tolist()
            parts = [run_expert(part, layer["experts"][e])
                     for e, part in enumerate(normed[tokens].split(counts)) if part.shape[0] > 0]
            x = x.index_add(0, tokens, torch.cat(parts).float() * weights.flatten()[order][:, None])
    return int(product(rms_norm(x[-1:]).to(TYPE), embedding).argmax())


state = 12345


def token():
    global state
    state = (state * 1103515245 + 12345) % 2 ** 32
    return (state >> 8) % o.vocab


def answer(request):
    with torch.inference_mode():
        if "prefill" in request:
            ids = [token() for _ in range(request["prefill"])]
            return {"seconds": time_each(1, lambda _: forward(ids, 0))}
        prompt = request["prompt"]
        forward([token() for _ in range(prompt)], 0)
        return {"seconds": time_each(request["decode"], lambda i: forward([token()], prompt + i))}


serve({"threads": torch.get_num_threads()}, answer)
