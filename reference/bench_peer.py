"""Time the full ensemble (iResNet-50, iResNet-100 twice; four views) as it is done elsewhere and as it is done here.

Elsewhere, every member runs on every view by itself: twelve passes an image, with PyTorch (how GestaltMatcher's
published evaluation goes) or ONNX Runtime. Here, members on one network share its pass and views are batched. Weights are
those of `iresnet.py`; images are aligned crops in memory. Every way is a process of its own, they take turns, and the
fastest turn counts, by the clock and by processor time (which other work on the machine disturbs less).

    FEDGESTALT_OPENVINO=.../openvino/libs python reference/bench_peer.py --networks DIR [--threads 2] [--rounds 3]

DIR gets `r50.onnx` and `r100.onnx` if it has none. Needs torch, numpy, onnx, onnxruntime, and cargo. Anything in
`--only` (pytorch, onnxruntime, rten, openvino-f32, openvino-bf16) limits what is run.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

VIEWS, MEMBERS, BATCH = 4, ("r50", "r100", "r100"), 16
LAYERS = {"r50": (50, 1), "r100": (100, 2)}
PEERS = ("pytorch", "onnxruntime")
ENGINES = ("rten", "openvino-f32", "openvino-bf16")
REPOSITORY = Path(__file__).parent.parent


def peer(way: str, folder: Path, threads: int, images: int) -> dict:
    """Twelve passes an image, one view at a time."""
    views = np.random.default_rng(1).uniform(-1, 1, (images, VIEWS, 1, 3, 112, 112)).astype(np.float32)
    if way == "pytorch":
        import torch

        from iresnet import network

        torch.set_num_threads(threads)
        nets = {name: network(*LAYERS[name]) for name in LAYERS}

        def run(name: str, view: np.ndarray) -> np.ndarray:
            return nets[name](torch.from_numpy(view)).numpy()

        context = torch.inference_mode()
    else:
        import contextlib

        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        sessions = {
            name: onnxruntime.InferenceSession(folder / f"{name}.onnx", options, ["CPUExecutionProvider"])
            for name in LAYERS
        }

        def run(name: str, view: np.ndarray) -> np.ndarray:
            return sessions[name].run(None, {"input.1": view})[0]

        context = contextlib.nullcontext()
    with context:
        for name in LAYERS:
            run(name, views[0, 0])
        began, used = time.perf_counter(), time.process_time()
        for image in views:
            for member in MEMBERS:
                for view in image:
                    run(member, view)
        wall, cpu = time.perf_counter() - began, time.process_time() - used
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"ms": 1e3 * wall / images, "cpu_ms": 1e3 * cpu / images, "peak_mb": peak}


def turn(way: str, folder: Path, threads: int) -> dict:
    if way in PEERS:
        command = [sys.executable, __file__, "--networks", folder, "--threads", str(threads), "--one", way]
        return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    settings = {
        "TRUNK": ":".join(str(folder / f"{name}.onnx") for name in LAYERS),
        "ENGINES": way,
        "THREADS": str(threads),
        "BATCHES": str(BATCH),
        "REPEATS": "1",
        "JSON": "1",
    }
    command = ["cargo", "bench", "-q", "-p", "vision", "--bench", "trunks"]
    done = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY, env={**os.environ, **settings}
    )
    found = json.loads(done.stdout.strip().splitlines()[-1])
    return {"ms": VIEWS * found["ms"], "cpu_ms": VIEWS * found["cpu_ms"], "peak_mb": found["peak_mb"]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=4, help="images in a turn of a peer")
    parser.add_argument("--only", nargs="+", choices=PEERS + ENGINES)
    parser.add_argument("--one", choices=PEERS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.networks.absolute()
    if arguments.one:
        print(json.dumps(peer(arguments.one, folder, arguments.threads, arguments.images)))
        return
    for name, (layers, seed) in LAYERS.items():
        if not (folder / f"{name}.onnx").exists():
            from iresnet import export, network

            (folder / f"{name}.onnx").write_bytes(export(network(layers, seed), unfolded=False))
    ways = [*PEERS, "rten"]
    if "FEDGESTALT_OPENVINO" in os.environ:
        ways += ["openvino-f32", "openvino-bf16"]
    ways = [way for way in ways if not arguments.only or way in arguments.only]
    best: dict[str, dict] = {}
    for round_ in range(arguments.rounds):
        for way in ways:
            found = turn(way, folder, arguments.threads)
            print(f"round {round_ + 1}, {way}: {found['ms']:.0f} ms, {found['cpu_ms']:.0f} ms of processor", file=sys.stderr)
            least = best.setdefault(way, dict(found))
            for key, value in found.items():
                least[key] = min(least[key], value)
    first = best[ways[0]]
    print(f"{'':<28}{'ms/image':>10}{'times':>8}{'cpu ms/image':>14}{'times':>8}{'peak MB':>9}{'times':>8}")
    for way in ways:
        least = best[way]
        name = f"{way}, one view at a time" if way in PEERS else f"fedgestalt, {way}"
        cells = "".join(
            f"{least[key]:>{width}.0f}{first[key] / least[key]:>8.2f}"
            for key, width in (("ms", 10), ("cpu_ms", 14), ("peak_mb", 9))
        )
        print(f"{name:<28}{cells}")
    print(f"{arguments.threads} threads; {arguments.rounds} turns each; load {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
