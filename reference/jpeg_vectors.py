"""Write small JPEG files of every kind, and the pixels that libjpeg-turbo makes of them, to crates/vision/tests/data.

    python reference/jpeg_vectors.py

`jpeg.bin` holds the files end to end; `jpeg.json` lists name, start, length, width, height and the SHA-256 of the RGB bytes.
Needs numpy, opencv-python and Pillow, both built with libjpeg-turbo (Pillow 12 has 3.1); where a file has no CMYK, the script
insists that the two agree.
"""

import hashlib
import io
import json
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, features

OUT = Path(__file__).parent.parent / "crates" / "vision" / "tests" / "data"
SIZES = [(1, 1), (2, 3), (5, 7), (17, 33), (131, 9), (67, 75)]
SAMPLINGS = ["411", "420", "422", "440", "444"]
RNG = np.random.default_rng(1)


def picture(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    waves = np.stack(
        [128 + 100 * np.sin(x / 5 + y / 9), 128 + 90 * np.cos(x / 3 - y / 7), (x * 7 + y * 3) % 256], -1
    )
    return np.clip(waves + RNG.normal(0, 12, waves.shape), 0, 255).astype(np.uint8)


def by_opencv(rgb: np.ndarray, sampling: str, progressive: int, restart: int, quality: int) -> bytes:
    settings = {
        cv2.IMWRITE_JPEG_QUALITY: quality,
        cv2.IMWRITE_JPEG_PROGRESSIVE: progressive,
        cv2.IMWRITE_JPEG_RST_INTERVAL: restart,
        cv2.IMWRITE_JPEG_SAMPLING_FACTOR: getattr(cv2, f"IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}"),
    }
    _, file = cv2.imencode(".jpg", rgb[..., ::-1], [number for pair in settings.items() for number in pair])
    return file.tobytes()


def by_pillow(rgb: np.ndarray, mode: str, **settings) -> bytes:
    file = io.BytesIO()
    Image.fromarray(rgb).convert(mode).save(file, "JPEG", **settings)
    return file.getvalue()


def segments(file: bytes) -> list[tuple[int, bytes]]:
    """Markers with their segments; that of the scan with everything behind it but the end marker."""
    found, at = [], 2
    while True:
        marker, length = file[at + 1], int.from_bytes(file[at + 2 : at + 4], "big")
        if marker == 0xDA:
            return found + [(marker, file[at:-2])]
        found.append((marker, file[at : at + 2 + length]))
        at += 2 + length


def scan_by_scan(width: int, height: int, factors: list[tuple[int, int]]) -> bytes:
    """A sequential file with a scan for each component, of which each has these sampling factors."""
    widest, highest = (max(pair[axis] for pair in factors) for axis in (0, 1))
    header, scans = b"", b""
    for at, (h, v) in enumerate(factors):
        size = (-(-width * h // widest), -(-height * v // highest))
        grey = by_pillow(picture(*size)[..., at], "L", quality=80)
        parts = segments(grey)
        if at == 0:
            header = b"".join(part for marker, part in parts if marker in (0xDB, 0xC4))
        scan = bytearray(parts[-1][1])
        scan[5] = at + 1
        scans += bytes(scan)
    components = b"".join(bytes([at + 1, h << 4 | v, 0]) for at, (h, v) in enumerate(factors))
    frame = bytes([8]) + height.to_bytes(2, "big") + width.to_bytes(2, "big") + bytes([len(factors)]) + components
    frame = b"\xff\xc0" + (len(frame) + 2).to_bytes(2, "big") + frame
    return b"\xff\xd8" + header + frame + scans + b"\xff\xd9"


def files() -> dict[str, bytes]:
    made = {}
    for width, height in SIZES:
        rgb = picture(width, height)
        for at, sampling in enumerate(SAMPLINGS):
            for progressive in (0, 1):
                restart, quality = (0, 3)[(at + progressive) % 2], (40, 93)[(at + width) % 2]
                name = f"{width}x{height} {sampling}{' progressive' * progressive} restart {restart} quality {quality}"
                made[name] = by_opencv(rgb, sampling, progressive, restart, quality)
        for mode in ("L", "CMYK", "RGB"):
            settings = {"keep_rgb": True} if mode == "RGB" else {}
            for progressive in (False, True):
                made[f"{width}x{height} {mode}{' progressive' * progressive}"] = by_pillow(
                    rgb, mode, quality=90, progressive=progressive, **settings
                )
    noise = RNG.integers(0, 256, (43, 59, 3), dtype=np.uint8)
    for quality in (1, 50, 100):
        made[f"noise, quality {quality}"] = by_pillow(noise, "RGB", quality=quality, optimize=True)
    for factors in (
        [(1, 1), (1, 1), (1, 1)],
        [(2, 2), (1, 1), (1, 1)],
        [(2, 1), (2, 1), (1, 1)],
        [(1, 1), (2, 2), (2, 1)],
        [(4, 2), (1, 1), (2, 2)],
        [(1, 4), (1, 1), (1, 2)],
    ):
        made[f"scan by scan {factors}"] = scan_by_scan(45, 37, factors)
    return made


def main() -> None:
    print("Pillow with libjpeg-turbo", features.version("libjpeg_turbo"), "OpenCV", cv2.__version__)
    container, listed = b"", []
    for name, file in files().items():
        image = Image.open(io.BytesIO(file))
        rgb = np.array(image.convert("RGB"))
        if image.mode != "CMYK":
            other = cv2.imdecode(np.frombuffer(file, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]
            assert np.array_equal(rgb, other), name
        digest = hashlib.sha256(rgb.tobytes()).hexdigest()
        listed.append([name, len(container), len(file), rgb.shape[1], rgb.shape[0], digest])
        container += file
    (OUT / "jpeg.bin").write_bytes(container)
    rows = ",\n".join(json.dumps(row) for row in listed)
    (OUT / "jpeg.json").write_text(f"[\n{rows}\n]\n")
    print(len(listed), "files,", len(container), "bytes")


if __name__ == "__main__":
    main()
