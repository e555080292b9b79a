"""Peer for `mone bench train`: the same decoder-only model and step in PyTorch. Answers {"steps": n} with the seconds of
each of n updates, and with the process's peak memory."""

import argparse

import torch
import torch.nn.functional as F

from answer import Mixture, deviation, peak_bytes, rms_norm, rope_tables, rotate, serve, time_each

parser = argparse.ArgumentParser()
for name in ("width", "layers", "heads", "experts", "active", "neurons", "kept", "seq", "batch", "vocab", "threads"):
    parser.add_argument("--" + name, type=int, required=True)
parser.add_argument("--tokens", required=True, help="file of token ids, one byte each")
parser.add_argument("--dtype", choices=("f32", "bf16"), required=True)
o = parser.parse_args()
torch.set_num_threads(o.threads)
torch.manual_seed(1)
HEAD = o.width // o.heads


class Block(torch.nn.Module):
    def __init__(self):
        super().__init__()
        ones = lambda n: torch.nn.Parameter(torch.ones(n))
        self.before_attention, self.before_experts = ones(o.width), ones(o.width)
        self.query_norm, self.key_norm = ones(HEAD), ones(HEAD)
        self.qkv = torch.nn.Parameter(torch.randn(3 * o.width, o.width) * 0.02)
        self.out = torch.nn.Parameter(torch.randn(o.width, o.width) * deviation(o.layers))
        self.mixture = Mixture(o.width, o.experts, o.neurons, o.active, o.kept, deviation(o.layers))

    def forward(self, x, cos, sin, hidden):
        batch, seq, _ = x.shape
        qkv = F.linear(rms_norm(x, self.before_attention), self.qkv).view(batch, seq, 3, o.heads, HEAD)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        q, k = rotate(rms_norm(q, self.query_norm), cos, sin), rotate(rms_norm(k, self.key_norm), cos, sin)
        q, k = q.to(v.dtype), k.to(v.dtype)
        if hasattr(F, "scaled_dot_product_attention"):
            mixed = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        else:
            scores = (q * HEAD ** -0.5) @ k.transpose(-1, -2)
            mixed = scores.float().masked_fill(hidden, float("-inf")).softmax(-1).to(v.dtype) @ v
        x = x + F.linear(mixed.transpose(1, 2).reshape(batch, seq, -1), self.out)
        y, balance = self.mixture(rms_norm(x, self.before_experts).view(-1, o.width))
        return x + y.view_as(x), balance


class Model(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding = torch.nn.Parameter(torch.randn(o.vocab, o.width) * 0.02)
        self.blocks = torch.nn.ModuleList([Block() for _ in range(o.layers)])
        self.last_norm = torch.nn.Parameter(torch.ones(o.width))
        self.cos, self.sin = rope_tables(o.seq, HEAD)
        self.hidden = torch.ones(o.seq, o.seq, dtype=torch.bool).triu(1)

    def forward(self, ids, targets):
        x, balance = F.embedding(ids, self.embedding), 0.0
        for block in self.blocks:
            x, term = block(x, self.cos, self.sin, self.hidden)
            balance = balance + term / o.layers
        logits = F.linear(rms_norm(x, self.last_norm), self.embedding)
        return F.cross_entropy(logits.float().flatten(0, 1), targets.flatten()) + 0.01 * balance


with open(o.tokens, "rb") as file:
    text = torch.frombuffer(bytearray(file.read()), dtype=torch.uint8).long()
model = Model()
matrices = [p for p in model.parameters() if p.dim() > 1]
vectors = [p for p in model.parameters() if p.dim() == 1]
optimizer = torch.optim.AdamW(
    [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}],
    lr=1e-3, betas=(0.9, 0.95), foreach=True)
starts = torch.Generator().manual_seed(1)
window = torch.arange(o.seq + 1)


def step(_):
    at = torch.randint(len(text) - o.seq - 1, (o.batch, 1), generator=starts)
    ids = text[at + window]
    optimizer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=o.dtype == "bf16"):
        loss = model(ids[:, :-1], ids[:, 1:])
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    return loss.item()


def answer(request):
    seconds = time_each(request["steps"], step)
    return {"seconds": seconds, "peakBytes": peak_bytes()}


serve({"threads": torch.get_num_threads()}, answer)
