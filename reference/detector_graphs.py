"""Write small stand-ins for face detectors, and what is detected with them, to crates/vision/tests/data/detectors.

The weights of SCRFD and RetinaFace are not free to ship. The graphs written here have the inputs and outputs of the published
exports (names, order, shapes, scaling, anchors, dynamic and fixed sizes) over a backbone made by hand that answers to small red
squares: a cell scores when it is red and the cells round it are not, so that each stride finds squares of its own size and
nothing finds a square that fills the picture. `detectors.json` holds what ONNX Runtime and the decoders of `detector_reference.py`
find on two painted pictures.

    python reference/detector_graphs.py

Needs numpy, onnx, onnxruntime and Pillow.
"""

import json
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

from detector_reference import STRIDES, detect

OUT = Path(__file__).parent.parent / "crates" / "vision" / "tests" / "data" / "detectors"
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)
FACE = (TEMPLATE - TEMPLATE.mean(0)) / 112  # five points round zero, in sides of a face


class Graph:
    """Nodes and constants, collected one by one."""

    def __init__(self, seed: int):
        self.nodes, self.constants, self.rng = [], [], np.random.default_rng(seed)

    def constant(self, value) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def add(self, op: str, inputs: list[str], name: str | None = None, **attributes) -> str:
        name = name or f"v{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], **attributes))
        return name

    def redness(self, pooled: str, red: int, scale: float, offsets: list[float]) -> str:
        """Logits `[1, anchors, rows, columns]`: red cells among others."""
        colour = np.full(3, -0.5)
        colour[red] = 1.0
        around = np.full((3, 3), -1 / 8)
        around[1, 1] = 1.0
        kernel = 20 * scale / 255 * colour[:, None, None] * around
        weights = self.constant(np.stack([kernel] * len(offsets)).astype(np.float32))
        bias = self.constant(np.array([-20 * (0.6 + offset) for offset in offsets], np.float32))
        return self.add("Conv", [pooled, weights, bias], kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1])

    def shape(self, pooled: str, values: np.ndarray, scale: float) -> str:
        """The given values in every cell, moved a little by the cell's colour."""
        weights = self.rng.normal(0, 0.05 * scale / 255, (len(values), 3, 1, 1)).astype(np.float32)
        return self.add("Conv", [pooled, self.constant(weights), self.constant(values.astype(np.float32))],
                        kernel_shape=[1, 1], strides=[1, 1])

    def rows(self, value: str, shape: list[int], name: str | None = None) -> str:
        """`[1, anchors * n, rows, columns]` as one line of n numbers per anchor."""
        last = self.add("Transpose", [value], perm=[0, 2, 3, 1])
        return self.add("Reshape", [last, self.constant(np.array(shape, np.int64))], name)

    def model(self, name: str, size, outputs: list[tuple[str, list]], opset: int = 11) -> bytes:
        inputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, 3, *size])]
        results = [helper.make_tensor_value_info(output, TensorProto.FLOAT, shape) for output, shape in outputs]
        graph = helper.make_graph(self.nodes, "stand-in", inputs, results, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=7)
        return model.SerializeToString()


def pool(graph: Graph, name: str, stride: int) -> str:
    return graph.add("AveragePool", [name], kernel_shape=[stride] * 2, strides=[stride] * 2, ceil_mode=1)


def yunet() -> bytes:
    """OpenCV's model zoo: BGR 0..255, twelve named outputs; one product of class and objectness is a score."""
    graph, named = Graph(1), []
    for stride in STRIDES:
        pooled = pool(graph, "input", stride)
        for output, n in (("cls", 1), ("obj", 1)):
            logits = graph.redness(pooled, 2, 1.0, [0.0])
            graph.rows(graph.add("Sigmoid", [logits]), [1, -1, n], f"{output}_{stride}")
        box = graph.shape(pooled, np.array([0.5, 0.5, np.log(1.3), np.log(1.7)]), 1.0)
        graph.rows(box, [1, -1, 4], f"bbox_{stride}")
        graph.rows(graph.shape(pooled, (FACE * 1.5 + 0.5).ravel(), 1.0), [1, -1, 10], f"kps_{stride}")
        named += [(f"{output}_{stride}", [1, "anchors", n]) for output, n in (("cls", 1), ("obj", 1), ("bbox", 4), ("kps", 10))]
    order = [f"{output}_{stride}" for output in ("cls", "obj", "bbox", "kps") for stride in STRIDES]
    return graph.model("input", ("height", "width"), sorted(named, key=lambda o: order.index(o[0])))


def scrfd(fixed: int | None, points: bool = True) -> bytes:
    """insightface: RGB in -1..1, nine unnamed outputs, two anchors per cell, scores first."""
    graph, outputs = Graph(2), {}
    boxes = np.array([0.2, 0.3, 1.2, 1.4, 0.4, 0.4, 1.5, 1.6])
    faces = np.hstack([(FACE * 1.4 + 0.5).ravel(), (FACE * 1.8 + 0.5).ravel()])
    for stride in STRIDES:
        pooled = pool(graph, "input.1", stride)
        n = 2 * (fixed // stride) ** 2 if fixed else -1
        lead = [1] if fixed else []
        scores = graph.rows(graph.redness(pooled, 0, 128.0, [0.0, 0.05]), lead + [n, 1])
        outputs[0, stride] = (graph.add("Sigmoid", [scores]), 1)
        box = graph.add("Relu", [graph.shape(pooled, boxes, 128.0)])
        outputs[1, stride] = (graph.rows(box, lead + [n, 4]), 4)
        if points:
            outputs[2, stride] = (graph.rows(graph.shape(pooled, faces, 128.0), lead + [n, 10]), 10)
    size = (fixed, fixed) if fixed else ("?", "?")
    results = [(name, [1, None, n] if fixed else [None, n]) for (_, _), (name, n) in sorted(outputs.items())]
    return graph.model("input.1", size, results)


def retinaface(size: int, fixed: bool, softmax: bool) -> bytes:
    """PyTorch: BGR less its mean, boxes, classes and points over two priors per cell, strides one after the other."""
    graph, parts = Graph(3), ([], [], [])
    priors = {8: (16, 32), 16: (64, 128), 32: (256, 512)}
    mean = graph.constant(np.array([104, 117, 123], np.float32).reshape(1, 3, 1, 1))
    colours = graph.add("Add", ["input0", mean])  # the backbone answers to colours, padding counts as black
    for stride in STRIDES:
        pooled = pool(graph, colours, stride)
        cells = 2 * (-(-size // stride)) ** 2 if fixed else -1
        boxes, points = [], []
        for side in priors[stride]:  # every prior draws a face of 1.5 cells
            boxes += [0.0, 0.0, np.log(1.3 * stride / side) / 0.2, np.log(1.7 * stride / side) / 0.2]
            points.append((FACE * 1.5 * stride / side / 0.1).ravel())
        face = graph.redness(pooled, 2, 1.0, [0.0, 0.05])
        none = graph.add("Mul", [face, graph.constant(np.float32(0))])
        classes = graph.add("Concat", [none, face], axis=1)  # background of both priors, face of both
        classes = graph.add("Gather", [classes, graph.constant(np.array([0, 2, 1, 3], np.int64))], axis=1)
        parts[0].append(graph.rows(graph.shape(pooled, np.array(boxes), 1.0), [1, cells, 4]))
        parts[1].append(graph.rows(classes, [1, cells, 2]))
        parts[2].append(graph.rows(graph.shape(pooled, np.hstack(points), 1.0), [1, cells, 10]))
    names = []
    for name, values, n in zip(("output0", "590", "589"), parts, (4, 2, 10)):
        joined = graph.add("Concat", values, None if n == 2 and softmax else name, axis=1)
        if n == 2 and softmax:
            graph.add("Softmax", [joined], name, axis=2)
        names.append((name, [1, None, n]))
    return graph.model("input0", (size, size), names, 13)


def paint(width: int, height: int, squares) -> np.ndarray:
    """Red squares (x, y, side) on a soft grey-green ground."""
    y, x = np.mgrid[0:height, 0:width]
    ground = 60 + 25 * np.sin(x / 37) + 20 * np.cos(y / 29)
    picture = np.stack([ground, ground + 8, ground - 5], -1)
    for left, top, side in squares:
        shade = 210 + 0.2 * (x + y)[top : top + side, left : left + side] % 40
        picture[top : top + side, left : left + side] = np.stack([shade, shade * 0.1, shade * 0.15], -1)
    return np.clip(picture, 0, 255).round().astype(np.uint8)


def free(model: bytes) -> bytes:
    """The same network with its declared sizes removed."""
    proto = onnx.load_from_string(model)
    for axis, name in ((2, "height"), (3, "width")):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    return proto.SerializeToString()


def main() -> None:
    OUT.mkdir(parents=True, exist_ok=True)
    onnxruntime.set_default_logger_severity(3)
    squares = [(32, 32, 32), (160, 96, 16), (232, 40, 8), (248, 160, 32), (96, 152, 17), (24, 120, 9), (120, 32, 8), (192, 192, 24)]
    many = [(x, y, 10 + (7 * x + 11 * y) % 60) for x in range(20, 600, 90) for y in range(15, 400, 95)]
    pictures = {"squares.png": paint(320, 224, squares), "large.png": paint(690, 450, many)}
    for name, picture in pictures.items():
        Image.fromarray(picture).save(OUT / name, optimize=True)
    graphs = {
        "yunet.onnx": ("YuNet", yunet(), None),
        "scrfd.onnx": ("SCRFD", scrfd(None), None),
        "scrfd_640.onnx": ("SCRFD", scrfd(640), (640, 640)),
        # As exported by PyTorch: one size declared, any size possible.
        "retinaface.onnx": ("RetinaFace", retinaface(640, False, True), None),
        # A size that the strides do not divide, and no softmax.
        "retinaface_200.onnx": ("RetinaFace", retinaface(200, True, False), (200, 200)),
    }
    cases = []
    for file, (kind, model, fixed) in graphs.items():
        (OUT / file).write_bytes(model)
        session = onnxruntime.InferenceSession(model if fixed else free(model), providers=["CPUExecutionProvider"])
        looks = []
        for picture, (side, padding) in [(p, s) for p in pictures for s in ((640, 0), (320, 0), (200, 0), (640, 0.5), (160, 0.25))]:
            if fixed and side > fixed[0]:
                continue
            faces = detect(session, kind, pictures[picture], side, padding, fixed)
            looks.append({"photo": picture, "side": side, "padding": padding, "faces": faces})
        counts = [len(look["faces"]) for look in looks]
        print(file, counts)
        assert max(counts) >= 2
        cases.append({"file": file, "kind": kind, "fixed": fixed, "looks": looks})
    (OUT / "detectors.json").write_text(json.dumps(cases, separators=(",", ":")) + "\n")

    (OUT / "bad_scrfd_without_points.onnx").write_bytes(scrfd(None, points=False))
    old = onnx.load_from_string(retinaface(200, False, True))
    for output, name in zip(old.graph.output, ("loc", "conf", "iou")):
        old.graph.node.append(helper.make_node("Identity", [output.name], [name]))
        output.name = name
    (OUT / "bad_yunet_2022.onnx").write_bytes(old.SerializeToString())
    other = onnx.load_from_string(yunet())
    keep = {"bbox_8", "kps_8", "cls_8"}
    outputs = [output for output in other.graph.output if output.name in keep]
    del other.graph.output[:]
    other.graph.output.extend(outputs)
    (OUT / "bad_three_outputs.onnx").write_bytes(other.SerializeToString())
    half = onnx.load_from_string(yunet())
    half.graph.input[0].type.tensor_type.elem_type = TensorProto.FLOAT16
    (OUT / "bad_half.onnx").write_bytes(half.SerializeToString())
    batch = onnx.load_from_string(yunet())
    batch.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 4
    (OUT / "bad_batch.onnx").write_bytes(batch.SerializeToString())


if __name__ == "__main__":
    main()
