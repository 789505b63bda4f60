"""One report: the full ensemble (iResNet-50, iResNet-100 twice; four views), and with `--detector` and `--photo` a photograph's
way to its crop and to its ranking among 6,500, as they are done elsewhere and as they are done here.

Elsewhere, every member runs on every view by itself: twelve passes an image, with PyTorch (how GestaltMatcher's
published evaluation goes) or ONNX Runtime. Here, members on one network share its pass and views are batched. Weights are
those of `iresnet.py`; images are aligned crops in memory. Every way is a process of its own, they take turns, and the
fastest turn counts, by the clock and by processor time (which other work on the machine disturbs less).

    FEDGESTALT_OPENVINO=.../openvino/libs python reference/bench_peer.py --networks DIR [--threads 2] [--rounds 3] \\
        --detector face_detection_yunet_2023mar.onnx --photo PHOTO.jpg

DIR gets `r50.onnx` and `r100.onnx` if it has none, and what the ranking needs (about 0.7 GB). Needs torch, numpy, onnx, onnxruntime,
for photographs opencv-python, and cargo. Anything in `--only` (pytorch, onnxruntime, rten, winograd, openvino-f32, openvino-bf16) limits what
is run of the ensemble; `--parts` (ensemble, crop, rank) what is timed.
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

import bench_photograph

VIEWS, MEMBERS, BATCH = 4, ("r50", "r100", "r100"), 16
LAYERS = {"r50": (50, 1), "r100": (100, 2)}
PEERS = ("pytorch", "onnxruntime")
PARTS = ("ensemble", "crop", "rank")
ENGINES = ("rten", "winograd", "openvino-f32", "openvino-bf16")
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
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--detector", type=Path, help="YuNet as OpenCV's model zoo has it")
    parser.add_argument("--photo", type=Path, help="JPEG file with a face")
    parser.add_argument("--one", choices=(*PEERS, "crop", "rank"), help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    folder = arguments.networks.absolute()
    detector, photo = (path and path.absolute() for path in (arguments.detector, arguments.photo))
    if arguments.one == "crop":
        print(bench_photograph.crop_by_opencv(detector, photo, arguments.threads))
        return
    if arguments.one == "rank":
        bench_photograph.rank_by_pytorch(arguments.folder, folder, detector, photo, arguments.threads)
        return
    if arguments.one:
        print(json.dumps(peer(arguments.one, folder, arguments.threads, arguments.images)))
        return
    for name, (layers, seed) in LAYERS.items():
        if not (folder / f"{name}.onnx").exists():
            from iresnet import export, network

            (folder / f"{name}.onnx").write_bytes(export(network(layers, seed), unfolded=False))
    if "ensemble" in arguments.parts:
        ensemble(arguments, folder)
    if detector and photo and "crop" in arguments.parts:
        crop(arguments, detector, photo)
    if detector and photo and "rank" in arguments.parts:
        rank(arguments, folder, detector, photo)
    print(f"{arguments.threads} threads; load {os.getloadavg()[0]:.1f}")


def ensemble(arguments: argparse.Namespace, folder: Path) -> None:
    ways = [*PEERS, "rten", "winograd"]
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
    print(f"fastest of {arguments.rounds} turns each\n")


def crop(arguments: argparse.Namespace, detector: Path, photo: Path) -> None:
    command = [sys.executable, __file__, "--networks", ".", "--threads", str(arguments.threads), "--one", "crop",
               "--detector", detector, "--photo", photo]  # fmt: skip
    theirs = float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    print(f"{photo.name} to its crop, {detector.name}, side 640{'ms':>24}{'times':>8}")
    print(f"{'OpenCV (fastest of ten)':<44}{theirs:>16.1f}{1:>8.2f}")
    for engine, ms in sorted(bench_photograph.crops_here(detector, photo, arguments.threads).items()):
        print(f"{f'fedgestalt, {engine} (median)':<44}{ms:>16.1f}{theirs / ms:>8.2f}")
    print()


def rank(arguments: argparse.Namespace, folder: Path, detector: Path, photo: Path) -> None:
    rig = folder / "rank"
    found = bench_photograph.rankings(rig, folder, detector, photo, arguments.threads, arguments.rounds)
    print(f"{f'rank one of {bench_photograph.GALLERY}, whole process':<36}{'s':>8}{'times':>8}{'cpu s':>8}{'times':>8}{'peak MB':>9}{'times':>8}")
    for way, least in found.items():
        first = found["pytorch"]
        cells = f"{least['s']:>8.2f}{first['s'] / least['s']:>8.2f}{least['cpu_s']:>8.2f}{first['cpu_s'] / least['cpu_s']:>8.2f}"
        name = f"{way}, one view at a time" if way == "pytorch" else f"fedgestalt, {way}"
        print(f"{name:<36}{cells}{least['peak_mb']:>9.0f}{first['peak_mb'] / least['peak_mb']:>8.2f}")
    print(f"fastest of {arguments.rounds} turns each, after one that fills caches\n")


if __name__ == "__main__":
    main()
