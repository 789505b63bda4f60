"""Write photographs in every variant that hospitals' archives hold to crates/vision/tests/data/photographs.

One synthetic picture, saved by Pillow and OpenCV (or chunk by chunk where neither can), beside the pixels that they read
back. `photographs.json` lists file, expected pixels and the largest difference allowed in any channel: 0 where the format
is exact, a few levels where decoders may round in their own ways.

    python reference/photograph_vectors.py

Needs numpy, opencv-python and Pillow. Pictures with transparency are expected over black.
"""

import json
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageOps

OUT = Path(__file__).parent.parent / "crates" / "vision" / "tests" / "data" / "photographs"
SECRET = "a description that must not survive"
CASES = []


def scene() -> np.ndarray:
    """A smooth, colourful picture with a red corner that tells the orientations apart."""
    y, x = np.mgrid[0:26, 0:37].astype(np.float64)
    r = 128 + 90 * np.sin(x / 7 + y / 9)
    g = 120 + 80 * np.cos(x / 11 - y / 6)
    b = 110 + 70 * np.sin(x * y / 170) + 2 * y
    rgb = np.clip(np.stack([r, g, b], -1), 0, 255).round().astype(np.uint8)
    rgb[2:8, 3:15] = (250, 10, 10)
    return cv2.GaussianBlur(rgb, (0, 0), 1.5)


def case(name: str, tolerance: int, expected: np.ndarray | None = None) -> None:
    """Lists a file that is in OUT; without other pixels, with those that Pillow reads from it."""
    if expected is None:
        expected = np.array(ImageOps.exif_transpose(Image.open(OUT / name)).convert("RGB"))
    Image.fromarray(expected).save(OUT / f"{name}.expected.png", optimize=True)
    CASES.append([name, f"{name}.expected.png", tolerance])


def exif(orientation: int, endian: str = "<") -> bytes:
    data = Image.Exif()
    data.endian = endian
    data[0x0112] = orientation
    data[0x010E] = SECRET
    return data.tobytes()


def over_black(rgb: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    return (rgb.astype(np.float64) * alpha[..., None] / 255).round().astype(np.uint8)


def jpegs(image: Image.Image) -> None:
    sharp = {"quality": 97, "subsampling": 0}
    image.save(OUT / "big_endian_exif5.jpg", exif=exif(5, ">"), **sharp)
    image.save(OUT / "exif_orientation_9.jpg", exif=exif(9), **sharp)
    image.save(OUT / "rgb_adobe.jpg", keep_rgb=True, **sharp)
    image.save(OUT / "restart_markers.jpg", restart_marker_rows=1, **sharp)
    for name in ("big_endian_exif5", "exif_orientation_9", "rgb_adobe", "restart_markers"):
        case(f"{name}.jpg", 3)
    image.convert("L").save(OUT / "grey_progressive.jpg", quality=97, progressive=True)
    case("grey_progressive.jpg", 3)
    image.save(OUT / "half_width_chroma.jpg", quality=97, subsampling=1)
    case("half_width_chroma.jpg", 12)

    cmyk = image.convert("CMYK")
    ink = np.array(cmyk).astype(np.float64)
    black = ink[..., :3].min(-1) * 0.6  # under-colour removal, so that black carries something
    ink = np.dstack([(ink[..., :3] - black[..., None]) * 255 / (255 - black[..., None]), black]).round().astype(np.uint8)
    Image.fromarray(ink, "CMYK").save(OUT / "cmyk.jpg", **sharp)
    Image.fromarray(ink, "CMYK").save(OUT / "cmyk_progressive.jpg", progressive=True, **sharp)
    # YCCK: the luma and chroma of the inverted inks, black as it is. Saved as four plain channels, which Pillow inverts on
    # their way into the file, then marked as YCCK in the Adobe segment.
    luma = np.array(Image.fromarray(ink[..., :3], "RGB").convert("YCbCr"))
    plain = 255 - np.dstack([luma, 255 - ink[..., 3]])
    Image.fromarray(plain.astype(np.uint8), "CMYK").save(OUT / "ycck.jpg", **sharp)
    data = bytearray((OUT / "ycck.jpg").read_bytes())
    segment = data.index(b"\xff\xee")
    assert data[segment + 4 : segment + 9] == b"Adobe" and data[segment + 15] == 0
    data[segment + 15] = 2
    (OUT / "ycck.jpg").write_bytes(data)
    for name in ("cmyk", "cmyk_progressive", "ycck"):
        case(f"{name}.jpg", 4)


def adam7(rgb: np.ndarray) -> bytes:
    """An interlaced PNG file, unfiltered."""
    height, width = rgb.shape[:2]
    passes = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)]
    rows = b"".join(
        b"\0" + row.tobytes() for x, y, dx, dy in passes for row in rgb[y::dy, x::dx] if rgb[y::dy, x::dx].size
    )

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def pngs(rgb: np.ndarray, image: Image.Image, alpha: np.ndarray) -> None:
    (OUT / "interlaced.png").write_bytes(adam7(rgb))
    case("interlaced.png", 0, rgb)
    for bits in (1, 2, 4, 8):
        image.quantize(2**bits).save(OUT / f"palette_{bits}_bits.png", bits=bits)
        case(f"palette_{bits}_bits.png", 0)
    wide = np.dstack([rgb[..., ::-1], alpha]).astype(np.uint16) * 257
    cv2.imwrite(str(OUT / "rgba16.png"), wide)
    case("rgba16.png", 0, over_black(rgb, alpha))
    read = cv2.imread(str(OUT / "rgba16.png"), cv2.IMREAD_UNCHANGED)
    assert (read == wide).all()


def webps(rgb: np.ndarray, image: Image.Image, alpha: np.ndarray) -> None:
    image.save(OUT / "lossy.webp", quality=95)
    case("lossy.webp", 12)
    image.save(OUT / "lossless.webp", lossless=True)
    case("lossless.webp", 0)
    image.save(OUT / "exif6.webp", lossless=True, exif=exif(6))
    case("exif6.webp", 0)
    Image.fromarray(np.dstack([rgb, alpha])).save(OUT / "alpha.webp", lossless=True, exact=True)
    case("alpha.webp", 0, over_black(rgb, alpha))
    image.save(OUT / "animation.webp", lossless=True, save_all=True, append_images=[ImageOps.invert(image)], duration=100)
    case("animation.webp", 0, rgb)


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    rgb = scene()
    image = Image.fromarray(rgb)
    alpha = np.linspace(0, 255, rgb.shape[1]).round().astype(np.uint8)[None].repeat(rgb.shape[0], 0)
    jpegs(image)
    pngs(rgb, image, alpha)
    webps(rgb, image, alpha)
    (OUT / "photographs.json").write_text(json.dumps(CASES, indent=0) + "\n")


if __name__ == "__main__":
    main()
