"""Peer for `mone bench layer`: one mixture-of-experts layer in PyTorch. Answers {"calls": n, "backward": true or false}
with the seconds of each call."""

import argparse

import torch

from answer import Mixture, serve, time_each

parser = argparse.ArgumentParser()
for name in ("width", "experts", "active", "neurons", "kept", "tokens", "threads"):
    parser.add_argument("--" + name, type=int, required=True)
parser.add_argument("--dtype", choices=("f32", "bf16"), required=True)
o = parser.parse_args()
torch.set_num_threads(o.threads)
torch.manual_seed(1)
layer = Mixture(o.width, o.experts, o.neurons, o.active, o.kept)
x = torch.randn(o.tokens, o.width, requires_grad=True)
upstream = torch.randn(o.tokens, o.width)


def forward(_):
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=o.dtype == "bf16"), torch.no_grad():
        layer(x)


def both(_):
    x.grad = None
    layer.zero_grad(set_to_none=True)
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=o.dtype == "bf16"):
        y, balance = layer(x)
    torch.autograd.backward([y, balance], [upstream, torch.tensor(0.01)])


serve({"threads": torch.get_num_threads()},
      lambda request: {"seconds": time_each(request["calls"], both if request["backward"] else forward)})
