"""Write what OpenCV, scikit-image and ONNX Runtime make of real photographs: faces, matrices, crops, embeddings.

    python reference/agreement.py MATERIAL OUT

MATERIAL is the folder that the environment variable FEDGESTALT_MATERIAL names in the Rust tests: `models/yunet.onnx`,
`models/edgeface_xxs.onnx`, photographs in `faces/orl` and `cohort_dev/gmdb_images`. OUT gets `agreement.json`, the crops, the
decoded photographs, and `jpegs.json` with the SHA-256 of the pixels of every JPEG file; the tests of crates/vision read them as `agreement/` inside FEDGESTALT_MATERIAL, or where FEDGESTALT_AGREEMENT says.
Photographs are named by their paths inside MATERIAL; nothing of OUT is committed. The script also prints how far
OpenCV's own `FaceDetectorYN` is from the decoder used here.

Needs numpy, opencv-python, scikit-image, onnxruntime and Pillow.
"""

import argparse
import hashlib
import json
from pathlib import Path

import cv2
import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from skimage.transform import SimilarityTransform

from detector_reference import THRESHOLD, detect, letterbox

TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
LOOKS = [(640, 0.0), (320, 0.0), (160, 0.0), (1280, 0.0)]


def opencv(model: Path, photo: np.ndarray, side: int) -> np.ndarray:
    """Box and points of OpenCV's best face, in pixels of the photograph."""
    picture, offset, scale = letterbox(photo, side, 0.0)
    height, width = picture.shape[:2]
    detector = cv2.FaceDetectorYN.create(str(model), "", (width, height), THRESHOLD["YuNet"], 0.3, 1000)
    _, faces = detector.detect(np.ascontiguousarray(picture.astype(np.uint8)[..., ::-1]))
    if faces is None:
        return None
    x, y, w, h = faces[0, :4]
    return np.hstack([np.array([x, y, x + w, y + h]), faces[0, 4:14]]).reshape(-1, 2) * scale


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("material", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_ERROR)
    arguments.out.mkdir(parents=True, exist_ok=True)
    yunet = arguments.material / "models" / "yunet.onnx"
    session = onnxruntime.InferenceSession(str(yunet), providers=["CPUExecutionProvider"])
    embedder = onnxruntime.InferenceSession(
        str(arguments.material / "models" / "edgeface_xxs.onnx"), providers=["CPUExecutionProvider"]
    )
    photographs = sorted(arguments.material.glob("faces/orl/*/*"))[::8]
    photographs += sorted(arguments.material.glob("cohort_dev/gmdb_images/*.jpg"))[::30]
    cases, apart = [], []
    for index, path in enumerate(photographs):
        photo = np.array(ImageOps.exif_transpose(Image.open(path)).convert("RGB"))
        for side, padding in LOOKS:
            faces = detect(session, "YuNet", photo, side, padding)
            if faces:
                break
        else:
            raise SystemExit(f"no face on {path}")
        face = faces[0]
        found = opencv(yunet, photo, side)
        if found is not None:
            ours = np.array(face["bbox"] + sum(face["points"], [])).reshape(-1, 2)
            apart.append(np.abs(found - ours).max())
        points = np.array(face["points"], np.float32).astype(np.float64)
        matrix = SimilarityTransform.from_estimate(points, TEMPLATE).params[:2]
        crop = cv2.warpAffine(photo, matrix, (112, 112), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        Image.fromarray(crop).save(arguments.out / f"{index}.png")
        Image.fromarray(photo).save(arguments.out / f"{index}_decoded.png")
        values = ((crop.astype(np.float32) / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None]
        (embedding,) = embedder.run(None, {embedder.get_inputs()[0].name: values})
        cases.append(
            {
                "photo": str(path.relative_to(arguments.material)),
                "decoded": f"{index}_decoded.png",
                "side": side,
                "padding": padding,
                "faces": faces,
                "matrix": matrix.tolist(),
                "crop": f"{index}.png",
                "embedding": [round(float(v), 6) for v in embedding[0]],
            }
        )
    (arguments.out / "agreement.json").write_text(json.dumps(cases) + "\n")
    digests = []
    for path in sorted(arguments.material.rglob("*.jpg")):
        rgb = cv2.imread(str(path), cv2.IMREAD_COLOR)[..., ::-1]
        digests.append([str(path.relative_to(arguments.material)), hashlib.sha256(rgb.tobytes()).hexdigest()])
    (arguments.out / "jpegs.json").write_text(json.dumps(digests) + "\n")
    print(f"{len(cases)} photographs; {len(apart)} of them seen by OpenCV's FaceDetectorYN, at most {max(apart):.3f} pixels apart")


if __name__ == "__main__":
    main()
