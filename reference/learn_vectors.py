"""Reference vectors for `crates/learn`: gradients and trajectories of the head, from PyTorch in float64.

Starting values are rounded to float32 first, so that both sides start from the same numbers; results are stored as
float32. Dropout masks and the order of the batches are part of the vectors, so both sides make the same choices.

    python reference/learn_vectors.py        # writes crates/learn/tests/data/*.safetensors

Written with PyTorch 2.15.0 and NumPy; CPU only, one thread.
"""

import json
import struct
from pathlib import Path

import numpy as np
import torch
from torch import nn

OUT = Path(__file__).resolve().parent.parent / "crates" / "learn" / "tests" / "data"


class Head(nn.Module):
    """Neck and classifier, with the dropout mask as an argument."""

    def __init__(self, features: int, dim: int, classes: int, generator: torch.Generator):
        super().__init__()
        self.neck = nn.Linear(features, dim)
        self.bn = nn.BatchNorm1d(dim)
        self.classifier = nn.Linear(dim, classes)

        def uniform(like: torch.Tensor, low: float, high: float) -> torch.Tensor:
            return torch.rand(like.shape, generator=generator) * (high - low) + low

        with torch.no_grad():
            self.neck.weight.copy_(uniform(self.neck.weight, -0.3, 0.3))
            self.neck.bias.copy_(uniform(self.neck.bias, -0.5, 0.5))
            self.bn.weight.copy_(uniform(self.bn.weight, 0.5, 1.5))
            self.bn.bias.copy_(uniform(self.bn.bias, -0.5, 0.5))
            self.bn.running_mean.copy_(uniform(self.bn.running_mean, -0.5, 0.5))
            self.bn.running_var.copy_(uniform(self.bn.running_var, 0.5, 1.5))
            self.classifier.weight.copy_(uniform(self.classifier.weight, -0.4, 0.4))
            self.classifier.bias.copy_(uniform(self.classifier.bias, -0.4, 0.4))
        self.double()

    def represent(self, features: torch.Tensor) -> torch.Tensor:
        return self.bn(self.neck(features))

    def forward(self, features: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.represent(features) * mask)

    def tensors(self, prefix: str) -> dict[str, np.ndarray]:
        named = {**dict(self.named_parameters()), **dict(self.named_buffers())}
        return {
            f"{prefix}{name}": value.detach().numpy().astype(np.float32)
            for name, value in named.items()
            if name != "bn.num_batches_tracked"
        }


def f32(values: torch.Tensor) -> np.ndarray:
    return values.detach().numpy().astype(np.float32)


def class_weights(counts: torch.Tensor) -> torch.Tensor:
    return (0.5 + 0.5 * counts.min() / counts).float().double()


def gradients(name: str, features: int, dim: int, classes: int, n: int, seed: int) -> None:
    """One batch: loss and the gradient of every parameter."""
    generator = torch.Generator().manual_seed(seed)
    head = Head(features, dim, classes, generator)
    out = head.tensors("start.")
    x = torch.randn((n, features), generator=generator).double()
    labels = torch.randint(classes, (n,), generator=generator)
    mask = torch.bernoulli(torch.full((n, dim), 0.5), generator=generator).double() * 2
    weights = class_weights(torch.randint(3, 40, (classes,), generator=generator))
    loss = nn.CrossEntropyLoss(weight=weights)(head(x, mask), labels)
    loss.backward()
    out |= {f"grad.{key}": f32(value.grad) for key, value in head.named_parameters()}
    out |= head.tensors("after.")
    out |= {
        "x": f32(x),
        "labels": labels.numpy().astype(np.uint32),
        "mask": f32(mask),
        "class_weights": f32(weights),
        "loss": np.array([loss.item()], np.float64),
    }
    save(name, out, {"features": features, "dim": dim, "classes": classes, "batch": n})


def trajectory(name: str, recipe: dict, seed: int) -> None:
    """Several epochs in short batches of unequal length: losses, the head after every epoch, and evaluation."""
    features, dim, classes, examples, epochs, dropout = 40, 16, 6, 22, 6, 0.5
    batch = recipe["batch"]
    generator = torch.Generator().manual_seed(seed)
    head = Head(features, dim, classes, generator)
    out = head.tensors("start.")
    x = torch.randn((examples, features), generator=generator).double()
    labels = torch.randint(classes, (examples,), generator=generator)
    weights = class_weights(torch.randint(3, 40, (classes,), generator=generator))
    loss_of = nn.CrossEntropyLoss(weight=weights)
    optimiser = torch.optim.Adam(
        [
            {
                "params": [*head.neck.parameters(), *head.bn.parameters()],
                "lr": recipe["neck_lr"],
                "weight_decay": recipe["neck_wd"],
            },
            {
                "params": head.classifier.parameters(),
                "lr": recipe["classifier_lr"],
                "weight_decay": recipe["classifier_wd"],
            },
        ]
    )
    orders, masks, losses = [], [], []
    for epoch in range(epochs):
        order = torch.randperm(examples, generator=generator)
        orders.append(order)
        for rows in order.split(batch):
            keep = torch.bernoulli(torch.full((len(rows), dim), 1 - dropout), generator=generator)
            mask = keep.double() / (1 - dropout)
            masks.append(mask)
            loss = loss_of(head(x[rows], mask), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            losses.append(loss.item())
        out |= head.tensors(f"epoch{epoch}.")
    head.eval()
    represented = head.represent(x)
    logits = head.classifier(represented)
    out |= {
        "x": f32(x),
        "labels": labels.numpy().astype(np.uint32),
        "class_weights": f32(weights),
        "orders": torch.stack(orders).numpy().astype(np.uint32),
        "masks": f32(torch.cat(masks)),
        "losses": np.array(losses),
        "represented": f32(represented),
        "eval_loss": np.array([loss_of(logits, labels).item()]),
        "eval_correct": np.array([(logits.argmax(1) == labels).sum().item()], np.uint32),
    }
    save(name, out, {"features": features, "dim": dim, "classes": classes, "epochs": epochs, **recipe})


def save(name: str, tensors: dict[str, np.ndarray], metadata: dict) -> None:
    """Write a safetensors file: u64 length of the JSON header, header, data."""
    dtypes = {"float32": "F32", "float64": "F64", "uint32": "U32"}
    header, data = {"__metadata__": {"recipe": json.dumps(metadata)}}, b""
    # The widest type first keeps every tensor aligned.
    for key, value in sorted(tensors.items(), key=lambda item: (-item[1].itemsize, item[0])):
        end = len(data) + value.nbytes
        header[key] = {
            "dtype": dtypes[value.dtype.name],
            "shape": list(value.shape),
            "data_offsets": [len(data), end],
        }
        data += value.tobytes()
    encoded = json.dumps(header).encode()
    encoded += b" " * (-len(encoded) % 8)
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / f"{name}.safetensors").write_bytes(struct.pack("<Q", len(encoded)) + encoded + data)


def main() -> None:
    torch.set_num_threads(1)
    gradients("gradients_small", 19, 7, 5, 6, seed=1)
    gradients("gradients_wide", 300, 40, 11, 16, seed=2)
    r50 = {"neck_lr": 5e-4, "neck_wd": 5e-5, "classifier_lr": 1e-3, "classifier_wd": 5e-4}
    r100 = {"neck_lr": 1e-3, "neck_wd": 0.0, "classifier_lr": 1e-3, "classifier_wd": 5e-4}
    trajectory("trajectory_r50", {"batch": 8, **r50}, seed=3)
    trajectory("trajectory_r100", {"batch": 20, **r100}, seed=4)


if __name__ == "__main__":
    main()
