"""Six steps of every server optimiser, in float64, by the formulas of Reddi et al. 2021 (algorithm 2) and, for momentum,
Hsu et al. 2019. Writes crates/learn/tests/data/server.safetensors."""

from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

RATE, BETA1, BETA2, TAU = 0.1, 0.9, 0.99, 1e-3
rng = np.random.default_rng(7)
start = rng.normal(size=40).astype(np.float32)
# Changes of very different sizes, one of them none at all.
scale = 10.0 ** rng.uniform(-4, 0, size=40)
changes = (rng.normal(size=(6, 40)) * scale).astype(np.float32)
changes[:, 0] = 0


def run(rule):
    x, m = start.astype(np.float64), np.zeros(40)
    v = np.full(40, TAU**2)
    for d in changes.astype(np.float64):
        if rule == "average":
            x = x + RATE * d
        elif rule == "momentum":
            m = BETA1 * m + d
            x = x + RATE * m
        else:
            m = BETA1 * m + (1 - BETA1) * d
            if rule == "adam":
                v = BETA2 * v + (1 - BETA2) * d**2
            else:
                v = v - (1 - BETA2) * d**2 * np.sign(v - d**2)
            x = x + RATE * m / (np.sqrt(v) + TAU)
    return x.astype(np.float32)


tensors = {rule: run(rule) for rule in ("average", "momentum", "adam", "yogi")}
tensors |= {"start": start, "changes": changes}
save_file(tensors, Path(__file__).parent.parent / "crates/learn/tests/data/server.safetensors")
