"""Reference vectors for `crates/learn`'s refined closed forms: nearest class mean metric learning, with PyTorch's autograd.

The same steps by another road: the loss of all images at once in float64, its gradient by the map through images and class
means alike by automatic differentiation, a step of given length down it.

    python reference/refine_vectors.py      # writes crates/learn/tests/data/refine.safetensors

Written with PyTorch 2.15; float64.
"""

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.numpy import save_file

OUT = Path(__file__).resolve().parent.parent / "crates" / "learn" / "tests" / "data" / "refine.safetensors"
DIM, OUTPUTS, CLASSES, STEPS, RATE, SCALE = 20, 6, 8, 5, 0.15, 12.0


def main() -> None:
    rng = np.random.default_rng(11)
    labels = rng.integers(0, CLASSES, 160)
    labels[:CLASSES] = np.arange(CLASSES)
    rows = rng.normal(0, 0.5, (CLASSES, DIM))[labels] + rng.normal(0, 1, (len(labels), DIM)) + 0.7
    start = rng.normal(0, 1, (OUTPUTS, DIM))
    weights = rng.uniform(0.5, 1.0, CLASSES)
    tensors = {
        "rows": rows.astype(np.float32),
        "labels": labels.astype(np.float32),
        "weights": weights.astype(np.float32),
        "start": start.astype(np.float32),
        "settings": np.array([STEPS, RATE, SCALE], dtype=np.float32),
    }
    x = F.normalize(torch.tensor(tensors["rows"]).double(), dim=1)
    y = torch.tensor(labels)
    weight = torch.tensor(tensors["weights"]).double()[y]
    mean = x.mean(0)
    apart = torch.stack([x[y == c].mean(0) for c in range(CLASSES)]) - mean
    tensors["mean"] = mean.numpy().astype(np.float32)
    map_ = torch.tensor(tensors["start"]).double()
    losses, maps = [], []
    for step in range(STEPS):
        map_ = map_.detach().requires_grad_()
        z = F.normalize((x - mean) @ map_.T, dim=1)
        scores = SCALE * z @ F.normalize(apart @ map_.T, dim=1).T
        loss = (F.cross_entropy(scores, y, reduction="none") * weight).sum()
        loss.backward()
        length = RATE * (STEPS - step) / STEPS * map_.norm()
        map_ = map_ - length * map_.grad / map_.grad.norm()
        losses.append(loss.item() / len(labels))
        maps.append(map_.detach().numpy().astype(np.float32))
    tensors |= {"losses": np.array(losses, dtype=np.float32), "maps": np.stack(maps)}
    print(losses)
    save_file(tensors, OUT)
    print(OUT, OUT.stat().st_size)


if __name__ == "__main__":
    main()
