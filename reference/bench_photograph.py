"""What `bench_peer.py` times from a photograph on: to its crop, and to its ranking among a gallery.

Elsewhere: OpenCV decodes, finds the face (`FaceDetectorYN`, longer side 640) and aligns; PyTorch runs every member on every
view by itself; NumPy compares with a gallery of float32 in a file. Here: `cargo bench -p vision --bench vision`, and the
program's `rank --timing`, which is built for it. A ranking is timed from the start of its process to its end.
"""

import json
import os
import struct
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]], np.float32
)
GALLERY, LENGTH, SYNDROMES = 6500, 6144, 322
ENGINES = ("rten", "winograd", "openvino", "auto")
REPOSITORY = Path(__file__).parent.parent


def face_crop(detector, file: Path) -> np.ndarray:
    """The aligned face of a photograph, as OpenCV's own tools find it."""
    import cv2

    photo = cv2.imdecode(np.fromfile(file, np.uint8), cv2.IMREAD_COLOR)
    scale = 640 / max(photo.shape[:2])
    small = cv2.resize(photo, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    detector.setInputSize(small.shape[1::-1])
    _, faces = detector.detect(small)
    if faces is None:
        sys.exit(f"OpenCV finds no face on {file}; name another photograph with --photo")
    points = faces[0, 4:14].reshape(5, 2) / scale
    matrix, _ = cv2.estimateAffinePartial2D(points, TEMPLATE, method=cv2.LMEDS)
    return cv2.warpAffine(photo, matrix, (112, 112), flags=cv2.INTER_LINEAR)


def yunet(file: Path):
    import cv2

    return cv2.FaceDetectorYN.create(str(file), "", (640, 640), 0.6, 0.3, 1000)


def crop_by_opencv(detector: Path, photo: Path, threads: int) -> float:
    """Milliseconds from file to crop: the fastest of ten."""
    import cv2

    cv2.setNumThreads(threads)
    found, best = yunet(detector), float("inf")
    for _ in range(10):
        began = time.perf_counter()
        face_crop(found, photo)
        best = min(best, time.perf_counter() - began)
    return 1e3 * best


def crops_here(detector: Path, photo: Path, threads: int) -> dict[str, float]:
    """Milliseconds by engine, medians."""
    with tempfile.TemporaryDirectory() as home:
        settings = {
            "DETECTOR": str(detector),
            "PHOTO": str(photo),
            "CRITERION_HOME": home,
            "RAYON_NUM_THREADS": str(threads),
        }
        library = os.environ.get("FEDGESTALT_OPENVINO")
        if library and Path(library).is_dir():
            settings["FEDGESTALT_OPENVINO"] = str(max(Path(library).glob("libopenvino_c.so*")))
        command = ["cargo", "bench", "-q", "-p", "vision", "--bench", "vision", "--", "file to crop"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=REPOSITORY, env={**os.environ, **settings})
        found = {}
        for file in Path(home).glob("*/file to crop*/new/estimates.json"):
            engine = file.parent.parent.name.rsplit(" ", 1)[-1]
            found[engine] = json.loads(file.read_text())["median"]["point_estimate"] / 1e6
    return found


def rig(folder: Path, networks: Path, detector: Path) -> None:
    """A cohort, a gallery of unit vectors as this program and as NumPy read it, and configurations."""
    tables = folder / "cohort" / "gmdb_metadata"
    tables.mkdir(parents=True, exist_ok=True)
    images = [str(10000 + at) for at in range(GALLERY)]
    rows = [f"{image},{at % SYNDROMES},{image}" for at, image in enumerate(images)]
    for name in ("train", "val", "frequent_gallery", "frequent_test", "rare_gallery", "rare_test"):
        rare = name.startswith("rare")
        header = "image_id,label,subject" + (",split" if rare else "")
        content = rows if name in ("train", "frequent_gallery") else []
        (tables / f"gmdb_{name}_images_v1.0.3.csv").write_text("\n".join([header, *content]) + "\n")
    names = "".join(f"{at},simulated syndrome {at},\n" for at in range(SYNDROMES))
    (folder / "cohort" / "syndromes.csv").write_text("label,name,mondo\n" + names)
    gallery = np.random.default_rng(1).normal(size=(GALLERY, LENGTH)).astype(np.float32)
    gallery /= np.linalg.norm(gallery, axis=1, keepdims=True)
    np.save(folder / "gallery.npy", gallery)
    facts = {"facts": {"images": json.dumps(images), "layout": "[]"}}
    encodings = {"dtype": "F32", "shape": list(gallery.shape), "data_offsets": [0, gallery.nbytes]}
    header = json.dumps({"__metadata__": {"fedgestalt": json.dumps(facts)}, "encodings": encodings}).encode()
    header += b" " * (-len(header) % 8)
    (folder / "gallery.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + gallery.tobytes())
    for engine in ENGINES:
        members = "".join(
            f'[[members]]\nname = "m{at}"\nkind = "published"\ntrunk = "{networks / name}.onnx"\n'
            for at, name in enumerate(("r50", "r100", "r100"))
        )
        trunk = f'[trunk]\nengine = "{engine}"\ncache = "{folder / "cache"}"\n'
        (folder / f"{engine}.toml").write_text(f'{trunk}[detector]\nfile = "{detector}"\n{members}')


def rank_by_pytorch(folder: Path, networks: Path, detector: Path, photo: Path, threads: int) -> None:
    """What a process of the peers does for one photograph: weights from files, twelve passes, one comparison."""
    import cv2
    import torch

    from iresnet import IResNet

    torch.set_num_threads(threads)
    cv2.setNumThreads(threads)
    nets = {}
    for name, layers in (("r50", 50), ("r100", 100)):
        with torch.device("meta"):
            net = IResNet(layers)
        net.load_state_dict(torch.load(networks / f"{name}.pt", mmap=True, weights_only=True), assign=True)
        nets[name] = net.eval()
    crop = face_crop(yunet(detector), photo)[..., ::-1]
    grey = np.repeat(cv2.cvtColor(np.ascontiguousarray(crop), cv2.COLOR_RGB2GRAY)[..., None], 3, 2)
    parts = []
    with torch.inference_mode():
        for name in ("r50", "r100", "r100"):
            for view in (crop, crop[:, ::-1], grey, grey[:, ::-1]):
                pixels = (view.transpose(2, 0, 1)[None].astype(np.float32) / 255 - 0.5) / 0.5
                part = nets[name](torch.from_numpy(pixels)).numpy()[0]
                parts.append(part / np.linalg.norm(part))
    gallery = np.load(folder / "gallery.npy")
    print(np.argsort(-(gallery @ (np.concatenate(parts) / 12**0.5)))[:10].tolist())


def save_weights(networks: Path) -> None:
    """The networks of the ONNX files as PyTorch loads them, once."""
    from bench_peer import LAYERS
    from iresnet import network

    import torch

    for name, (layers, seed) in LAYERS.items():
        if not (networks / f"{name}.pt").exists():
            torch.save(network(layers, seed).state_dict(), networks / f"{name}.pt")


# A process starts with its parent's peak of memory, so a small parent starts what is measured.
STARTER = """
import json, os, subprocess, sys, time
began = time.perf_counter()
process = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, used = os.wait4(process.pid, 0)
wall = time.perf_counter() - began
print(json.dumps({"s": wall, "cpu_s": used.ru_utime + used.ru_stime, "peak_mb": used.ru_maxrss / 1024}))
sys.exit(status != 0)
"""


def timed(command: list, environment: dict[str, str]) -> dict[str, float]:
    """Seconds, processor seconds and peak memory of a process that answers."""
    starter = [sys.executable, "-S", "-c", STARTER, *command]
    done = subprocess.run(starter, capture_output=True, text=True, env=environment, cwd=REPOSITORY)
    if done.returncode != 0:
        sys.exit(f"{command} failed:\n{done.stderr}")
    return json.loads(done.stdout)


def rankings(folder: Path, networks: Path, detector: Path, photo: Path, threads: int, rounds: int) -> dict:
    """The fastest of the rounds by way, after one that fills caches."""
    rig(folder, networks, detector)
    subprocess.run(["cargo", "build", "-q", "--release", "-p", "fedgestalt"], check=True, cwd=REPOSITORY)
    environment = {**os.environ, "RAYON_NUM_THREADS": str(threads)}
    save_weights(networks)
    script = Path(__file__).parent / "bench_peer.py"
    ways = {
        "pytorch": [sys.executable, script, "--networks", networks, "--threads", str(threads), "--one", "rank",
                    "--detector", detector, "--photo", photo, "--folder", folder]
    }  # fmt: skip
    for engine in ENGINES:
        if engine != "openvino" or "FEDGESTALT_OPENVINO" in os.environ:
            ways[engine] = [REPOSITORY / "target/release/fedgestalt", "--config", folder / f"{engine}.toml", "rank", photo,
                            "--cohort", folder / "cohort", "--encodings", folder / "gallery.safetensors",
                            "--normalisation", "none", "--timing"]  # fmt: skip
    best: dict[str, dict] = {}
    for round_ in range(rounds + 1):
        for way, command in ways.items():
            found = timed(command, environment)
            if round_ == 0:
                continue
            least = best.setdefault(way, dict(found))
            for key, value in found.items():
                least[key] = min(least[key], value)
    return best
