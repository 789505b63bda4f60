"""Weighted cross-entropy of the three classifiers on one batch and its gradients, in PyTorch's float64 by autograd. Writes
crates/learn/tests/data/classifier.safetensors."""

from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from torch.nn.functional import cross_entropy, linear, normalize

SCALE, MARGIN = 16.0, 0.5
generator = torch.Generator().manual_seed(3)
n, dim, classes = 9, 12, 7
x = torch.randn((n, dim), generator=generator)
weight = torch.randn((classes, dim), generator=generator)
bias = torch.randn(classes, generator=generator)
labels = torch.randint(classes, (n,), generator=generator)
class_weights = torch.rand(classes, generator=generator) * 0.5 + 0.5
# One example almost opposite to its class: its angle plus the margin is beyond pi.
x[0] = -weight[labels[0]] + 0.05 * x[0]


def scores(kind, x, w):
    if kind == "linear":
        return linear(x, w, bias.double())
    cosine = normalize(x) @ normalize(w).T
    if kind == "arcface":
        true = cosine[torch.arange(n), labels]
        wider = torch.where(
            true > -np.cos(MARGIN), torch.cos(torch.acos(true) + MARGIN), true - MARGIN * np.sin(MARGIN)
        )
        cosine = cosine.index_put((torch.arange(n), labels), wider)
    return SCALE * cosine


tensors = {
    "x": x.numpy(),
    "weight": weight.numpy(),
    "bias": bias.numpy(),
    "labels": labels.numpy().astype(np.uint32),
    "class_weights": class_weights.numpy(),
}
for kind in ("linear", "cosine", "arcface"):
    a = x.double().requires_grad_()
    w = weight.double().requires_grad_()
    loss = cross_entropy(scores(kind, a, w), labels, class_weights.double())
    loss.backward()
    tensors[f"{kind}.loss"] = np.array([loss.item()], dtype=np.float32)
    tensors[f"{kind}.grad_x"] = a.grad.float().numpy()
    tensors[f"{kind}.grad_weight"] = w.grad.float().numpy()
save_file(tensors, Path(__file__).parent.parent / "crates/learn/tests/data/classifier.safetensors")
