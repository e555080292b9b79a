"""What the peer programs in Python share: the conversation with `mone bench` (src/bench/peers/process.ts) and the parts
of a mixture-of-experts layer in PyTorch (1.13 or newer), written for a CPU: tokens are sorted by expert, every expert
multiplies its rows at once."""

import json
import math
import resource
import sys
import time

import torch
import torch.nn.functional as F


def serve(ready, answer):
    """Says that the program is ready, then answers requests until the input ends."""
    def say(value):
        print("MONE " + json.dumps(value), flush=True)

    say({"ready": True, "version": "torch " + torch.__version__, **ready})
    for line in sys.stdin:
        if line.strip():
            say(answer(json.loads(line)))


def time_each(count, work):
    """Seconds that each of `count` calls takes."""
    seconds = []
    for i in range(count):
        start = time.perf_counter()
        work(i)
        seconds.append(time.perf_counter() - start)
    return seconds


def peak_bytes():
    """The most memory this process has held. Linux counts that of the starting process into ru_maxrss, and not into VmHWM."""
    try:
        with open("/proc/self/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM"))
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def keep_largest(gate, kept):
    """act(gate) with all but the `kept` largest magnitudes of each row set to 0."""
    act = F.silu(gate)
    if kept >= act.shape[-1]:
        return act
    best = act.detach().abs().topk(kept, dim=-1, sorted=False).indices
    return act * torch.zeros_like(act).scatter_(-1, best, 1.0)


def rms_norm(x, weight=None, eps=1e-6):
    x = x.float()
    x = x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + eps)
    return x if weight is None else x * weight


def rope_tables(positions, head_dim, theta=10000.0):
    rates = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angles = torch.arange(positions, dtype=torch.float32)[:, None] * rates
    return torch.cat((angles, angles), -1).cos(), torch.cat((angles, angles), -1).sin()


def rotate(x, cos, sin):
    half = x.shape[-1] // 2
    return x * cos + torch.cat((-x[..., half:], x[..., :half]), -1) * sin


class Mixture(torch.nn.Module):
    """A router and its experts: gate and up of an expert in one matrix, since one product of twice the size is faster."""

    def __init__(self, width, experts, neurons, active, kept, down_std=0.02):
        super().__init__()
        self.experts, self.active, self.kept = experts, active, kept
        self.router = torch.nn.Parameter(torch.randn(experts, width) * 0.02)
        self.gate_up = torch.nn.ParameterList(
            [torch.nn.Parameter(torch.randn(2 * neurons, width) * 0.02) for _ in range(experts)])
        self.down = torch.nn.ParameterList(
            [torch.nn.Parameter(torch.randn(width, neurons) * down_std) for _ in range(experts)])

    def forward(self, x):
        """Rows [T, D] to the layer's output and the balance loss of its experts."""
        with torch.autocast("cpu", enabled=False):
            probs = F.linear(x.float(), self.router).softmax(-1)
        weights, ids = probs.topk(self.active, -1)
        weights = weights / weights.sum(-1, keepdim=True)
        order = ids.flatten().argsort()
        counts = torch.bincount(ids.flatten(), minlength=self.experts)
        tokens = torch.div(order, self.active, rounding_mode="floor")
        rows = x.to(torch.bfloat16 if torch.is_autocast_cpu_enabled() else x.dtype)[tokens]
        parts = []
        for expert, part in enumerate(rows.split(counts.tolist())):
            if part.shape[0] > 0:
                gate, up = F.linear(part, self.gate_up[expert]).chunk(2, -1)
                parts.append(F.linear(keep_largest(gate, self.kept) * up, self.down[expert]))
        out = torch.cat(parts).to(x.dtype) * weights.flatten()[order][:, None]
        share = counts / (x.shape[0] * self.active)
        return torch.zeros_like(x).index_add(0, tokens, out), self.experts * (share * probs.mean(0)).sum()


def deviation(layers):
    """Of the matrices that write to the residual stream."""
    return 0.02 / math.sqrt(2 * layers)
