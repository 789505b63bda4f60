"""Time one training step of the head in PyTorch, to hold `cargo bench -p learn` against.

The step is the one of `crates/learn`: forward, backward and Adam at 25088 -> 512 -> 204 in float32, the features of a
batch gathered from an f16 table. Three ways: the plain training loop, Adam's default (foreach) and `fused=True`.

    python reference/bench_head.py [--threads 2] [--steps 10] [--repeats 5]
"""

import argparse
import statistics
import time

import torch
from torch import nn

INPUT, DIM, CLASSES, DRAWS = 25088, 512, 204, 4
RECIPES = {64: (5e-4, 5e-5, 1e-3, 5e-4), 128: (1e-3, 0.0, 1e-3, 5e-4)}


def measure(batch: int, adam: dict, steps: int, repeats: int) -> float:
    """The median over `repeats` of the mean milliseconds of `steps` steps."""
    torch.manual_seed(0)
    neck = nn.Sequential(nn.Linear(INPUT, DIM), nn.BatchNorm1d(DIM))
    classifier = nn.Sequential(nn.Dropout(0.5), nn.Linear(DIM, CLASSES))
    neck_lr, neck_wd, classifier_lr, classifier_wd = RECIPES[batch]
    optimiser = torch.optim.Adam(
        [
            {"params": neck.parameters(), "lr": neck_lr, "weight_decay": neck_wd},
            {"params": classifier.parameters(), "lr": classifier_lr, "weight_decay": classifier_wd},
        ],
        **adam,
    )
    images = batch * steps
    table = torch.rand(images, DRAWS, INPUT).half()
    labels = torch.arange(images) % CLASSES
    loss_of = nn.CrossEntropyLoss(weight=torch.ones(CLASSES))

    def epoch() -> None:
        order, draws = torch.randperm(images), torch.randint(DRAWS, (images,))
        for rows in order.split(batch):
            features = table[rows, draws[rows]].float()
            loss = loss_of(classifier(neck(features)), labels[rows])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()

    epoch()
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        epoch()
        times.append((time.perf_counter() - start) * 1e3 / steps)
    return statistics.median(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"PyTorch {torch.__version__}, {args.threads} threads, ms per step")
    ways = {"single tensor": {"foreach": False}, "default (foreach)": {}, "fused": {"fused": True}}
    for batch in RECIPES:
        for name, adam in ways.items():
            print(f"batch {batch:3}  Adam {name:18} {measure(batch, adam, args.steps, args.repeats):7.1f}")


if __name__ == "__main__":
    main()
