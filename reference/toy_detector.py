"""A face detector for tests: a YuNet by its outputs that sees a face wherever there is light.

Input 1 x 3 x 64 x 64. On a photograph that is not black throughout there is one face, always in the same place; on one
whose mean is above 200 of 255 there is a second, smaller one in the upper left corner. Needs numpy and onnx.

    python reference/toy_detector.py        # writes crates/fedgestalt/tests/data/toy_yunet.onnx
"""

import pathlib

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OUT = pathlib.Path(__file__).parent.parent / "crates/fedgestalt/tests/data/toy_yunet.onnx"
SIDE = 64
# Left, top, width, height, and eyes, nose, mouth in pixels of the input, in the order in which YuNet gives them.
FACE = (16, 14, 32, 40, [[24, 26], [40, 26], [32, 35], [26, 44], [38, 44]])
OTHER = (2, 2, 8, 10, [[4, 5], [8, 5], [6, 7], [4.5, 9.5], [7.5, 9.5]])


def main():
    nodes = [
        helper.make_node("ReduceMax", ["input"], ["brightest"], keepdims=0),
        helper.make_node("ReduceMean", ["input"], ["mean"], keepdims=0),
        helper.make_node("Greater", ["brightest", "black"], ["is_lit"]),
        helper.make_node("Greater", ["mean", "bright"], ["is_bright"]),
        helper.make_node("Cast", ["is_lit"], ["lit"], to=TensorProto.FLOAT),
        helper.make_node("Cast", ["is_bright"], ["very"], to=TensorProto.FLOAT),
    ]
    weights = {"black": np.float32(8), "bright": np.float32(200)}
    outputs = []
    for stride in [8, 16, 32]:
        width = SIDE // stride
        anchors = width * width
        # YuNet decodes boxes and points from the anchor's place, in strides; sizes are logarithms.
        out = {"cls": np.zeros((1, anchors, 1)), "obj": np.zeros((1, anchors, 1))}
        out |= {"bbox": np.zeros((1, anchors, 4)), "kps": np.zeros((1, anchors, 10))}
        for (left, top, w, h, points), at, place in [(FACE, 32, (1, 1)), (OTHER, 8, (0, 0))]:
            if stride != at:
                continue
            row, column = place
            anchor = row * width + column
            out["cls"][0, anchor] = out["obj"][0, anchor] = 0.9
            centre = np.array([left + w / 2, top + h / 2]) / stride - [column, row]
            out["bbox"][0, anchor] = [*centre, np.log(w / stride), np.log(h / stride)]
            out["kps"][0, anchor] = (np.array(points) / stride - [column, row]).ravel()
        for name, values in out.items():
            name = f"{name}_{stride}"
            weights[f"{name}_fixed"] = values.astype(np.float32)
            # The outputs have to depend on the input; the second face goes out where it is not bright.
            by = "very" if name == "obj_8" else "lit"
            nodes.append(helper.make_node("Mul", [f"{name}_fixed", by], [name]))
            outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, values.shape))
    graph = helper.make_graph(
        nodes,
        "toy_yunet",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, [1, 3, SIDE, SIDE])],
        outputs,
        [numpy_helper.from_array(np.asarray(value, np.float32), name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], producer_name="")
    model.ir_version = 8
    onnx.checker.check_model(model)
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_bytes(model.SerializeToString())
    print(OUT.name, OUT.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
