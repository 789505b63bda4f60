"""Face detectors in numpy and ONNX Runtime: what crates/vision's detectors are held against.

Written from the publications and the documented outputs of the networks, with whole arrays where the Rust code goes anchor by
anchor. Used by `detector_graphs.py` and `agreement.py`; needs numpy, onnxruntime and Pillow.
"""

import itertools

import numpy as np
from PIL import Image

STRIDES = (8, 16, 32)
OVERLAP = {"YuNet": 0.3, "SCRFD": 0.4, "RetinaFace": 0.4}
THRESHOLD = {"YuNet": 0.6, "SCRFD": 0.5, "RetinaFace": 0.6}


def letterbox(photo: np.ndarray, side: int, padding: float, fixed=None):
    """The photograph in a canvas, with the offset and scale (x, y) that lead back."""
    height, width = photo.shape[:2]
    scale = side / (max(width, height) * (1 + 2 * padding))
    size = np.maximum(np.floor(np.array([width, height]) * scale + 0.5).astype(int), 1)
    offset = np.floor(size * padding + 0.5).astype(int)
    canvas = fixed if fixed else tuple(-(-np.minimum(size + 2 * offset, side) // 32) * 32)
    small = Image.fromarray(photo).resize(tuple(size), Image.Resampling.BILINEAR, reducing_gap=2.0)
    picture = np.zeros((canvas[1], canvas[0], 3), np.float32)
    part = np.asarray(small)[: canvas[1] - offset[1], : canvas[0] - offset[0]]
    picture[offset[1] : offset[1] + part.shape[0], offset[0] : offset[0] + part.shape[1]] = part
    return picture, offset, np.array([width, height]) / size


def to_input(picture: np.ndarray, kind: str) -> np.ndarray:
    if kind == "SCRFD":
        values = (picture - 127.5) / 128
    elif kind == "YuNet":
        values = picture[..., ::-1]
    else:
        values = picture[..., ::-1] - np.array([104, 117, 123], np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1)[None], dtype=np.float32)


def grid(width: int, height: int, stride: int) -> np.ndarray:
    """Columns and rows of a stride's cells, row by row."""
    y, x = np.mgrid[: -(-height // stride), : -(-width // stride)]
    return np.stack([x.ravel(), y.ravel()], -1).astype(np.float64)


def decode_yunet(outputs: dict, width: int, height: int):
    boxes, points, scores = [], [], []
    for stride in STRIDES:
        cls, obj, bbox, kps = (outputs[f"{k}_{stride}"][0].astype(np.float64) for k in ("cls", "obj", "bbox", "kps"))
        cells = grid(width, height, stride)
        scores.append(np.sqrt(np.clip(cls[:, 0], 0, 1) * np.clip(obj[:, 0], 0, 1)))
        centre, size = (cells + bbox[:, :2]) * stride, np.exp(bbox[:, 2:]) * stride
        boxes.append(np.hstack([centre - size / 2, centre + size / 2]))
        points.append((kps.reshape(-1, 5, 2) + cells[:, None]) * stride)
    return np.vstack(boxes), np.vstack(points), np.hstack(scores)


def decode_scrfd(outputs: list, width: int, height: int):
    boxes, points, scores = [], [], []
    for index, stride in enumerate(STRIDES):
        score, bbox, kps = (outputs[index + 3 * k].astype(np.float64).reshape(-1, n) for k, n in enumerate((1, 4, 10)))
        anchors = np.repeat(grid(width, height, stride) * stride, 2, axis=0)
        boxes.append(np.hstack([anchors - bbox[:, :2] * stride, anchors + bbox[:, 2:] * stride]))
        points.append(anchors[:, None] + kps.reshape(-1, 5, 2) * stride)
        scores.append(score[:, 0])
    return np.vstack(boxes), np.vstack(points), np.hstack(scores)


def decode_retinaface(outputs: list, width: int, height: int):
    loc, conf, landms = (output[0].astype(np.float64) for output in outputs)
    priors = []
    for stride, sides in zip(STRIDES, ((16, 32), (64, 128), (256, 512))):
        for (x, y), side in itertools.product(grid(width, height, stride), sides):
            priors.append([(x + 0.5) * stride, (y + 0.5) * stride, side])
    priors = np.array(priors)
    centre = priors[:, :2] + loc[:, :2] * 0.1 * priors[:, 2:]
    size = priors[:, 2:] * np.exp(loc[:, 2:] * 0.2)
    points = priors[:, None, :2] + landms.reshape(-1, 5, 2) * 0.1 * priors[:, None, 2:]
    if np.abs(conf.sum(1) - 1).max() > 1e-3:  # exported before the softmax
        conf = np.exp(conf) / np.exp(conf).sum(1, keepdims=True)
    return np.hstack([centre - size / 2, centre + size / 2]), points, conf[:, 1]


def suppress(boxes: np.ndarray, scores: np.ndarray, overlap: float) -> list[int]:
    order, keep = list(np.argsort(-scores, kind="stable")), []
    while order:
        best = order.pop(0)
        keep.append(int(best))
        low, high = np.maximum(boxes[best, :2], boxes[order, :2]), np.minimum(boxes[best, 2:], boxes[order, 2:])
        both = np.clip(high - low, 0, None).prod(1)
        area = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        iou = both / (area[best] + area[order] - both)
        order = [index for index, value in zip(order, iou) if value <= overlap]
    return keep


def detect(session, kind: str, photo: np.ndarray, side: int, padding: float = 0.0, fixed=None, threshold=None) -> list[dict]:
    """All faces, best first: box, five points, score; in pixels of the photograph."""
    picture, offset, scale = letterbox(photo, side, padding, fixed)
    height, width = picture.shape[:2]
    outputs = session.run(None, {session.get_inputs()[0].name: to_input(picture, kind)})
    if kind == "YuNet":
        outputs = {o.name: value for o, value in zip(session.get_outputs(), outputs)}
    decode = {"YuNet": decode_yunet, "SCRFD": decode_scrfd, "RetinaFace": decode_retinaface}[kind]
    boxes, points, scores = decode(outputs, width, height)
    found = scores >= (THRESHOLD[kind] if threshold is None else threshold)
    boxes, points, scores = boxes[found], points[found], scores[found]
    return [
        {
            "bbox": ((boxes[i].reshape(2, 2) - offset) * scale).ravel().round(4).tolist(),
            "points": ((points[i] - offset) * scale).round(4).tolist(),
            "score": round(float(scores[i]), 6),
        }
        for i in suppress(boxes, scores, OVERLAP[kind])
    ]
