"""Write the reference vectors of crates/vision to crates/vision/tests/data.

Every expected number comes from another implementation: skimage (similarity), OpenCV (warp), Pillow (decoding,
orientation, grey, resizing, HSV by `colorsys`), numpy (colour jitter, written from torchvision's documented formulas)
and ONNX Runtime (networks, which are exported from PyTorch with random weights or built node by node).

    python reference/vision_vectors.py [--edgeface edgeface_xxs.onnx]

Needs numpy, scikit-image, opencv-python, Pillow, torch, onnx and onnxruntime. The pictures are synthetic. With
`--edgeface`, the first embedding values of a public face network on two of the synthetic crops are written too; the
network itself is not part of the project.
"""

import argparse
import colorsys
import io
import json
import warnings
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image, ImageOps
from skimage.transform import SimilarityTransform
from torch import nn

OUT = Path(__file__).parent.parent / "crates" / "vision" / "tests" / "data"
TEMPLATE = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


def picture(width: int, height: int, phase: float = 0.0) -> np.ndarray:
    """A smooth, colourful, asymmetric picture without any repetition."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    u, v = x / width, y / height
    r = 128 + 90 * np.sin(5.1 * u + 2.3 * v + phase) + 30 * np.cos(17 * v * u)
    g = 120 + 80 * np.cos(3.7 * v - 4.9 * u * u + phase) + 35 * np.sin(23 * u)
    b = 110 + 70 * np.sin(6.3 * u * v + 1 + phase) + 60 * v
    return np.clip(np.stack([r, g, b], -1), 0, 255).round().astype(np.uint8)


def write_json(name: str, value) -> None:
    (OUT / name).write_text(json.dumps(value, separators=(",", ":")) + "\n")


def save(name: str, rgb: np.ndarray) -> None:
    Image.fromarray(rgb).save(OUT / name, optimize=True)


def alignment() -> None:
    rng = np.random.default_rng(1)
    photo = picture(200, 170)
    save("align_photo.png", photo)
    cases = []
    for index, (scale, degrees, shift, noise) in enumerate(
        [
            (0.9, 0, (95, 80), 0.0),
            (0.8, 20, (100, 85), 2.0),
            (1.4, -35, (110, 90), 4.0),
            (0.5, 170, (90, 80), 1.0),
            (1.2, 5, (30, 40), 3.0),  # partly outside the photograph
            (2.2, 12, (100, 85), 6.0),  # larger than the photograph
        ]
    ):
        angle = np.deg2rad(degrees)
        turn = scale * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
        points = (TEMPLATE - TEMPLATE.mean(0)) @ turn.T + shift + rng.normal(0, noise, (5, 2))
        points = points.astype(np.float32)
        transform = SimilarityTransform.from_estimate(points.astype(np.float64), TEMPLATE)
        matrix = transform.params[:2]
        crop = cv2.warpAffine(photo, matrix, (112, 112), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT)
        save(f"align_{index}.png", crop)
        cases.append({"points": points.tolist(), "matrix": matrix.tolist(), "crop": f"align_{index}.png"})
    write_json("align.json", cases)


def exif(orientation: int) -> bytes:
    data = Image.Exif()
    data[0x0112] = orientation
    data[0x010E] = "a description that must not survive"
    return data.tobytes()


def decoding() -> None:
    """One picture in every variant a decoder meets, with what Pillow or plain arithmetic makes of it."""
    scene = picture(40, 24)
    scene[2:8, 3:15] = (250, 10, 10)  # tells the corners apart
    scene = cv2.GaussianBlur(scene, (0, 0), 1.5)
    image = Image.fromarray(scene)
    save("decode_rgb.png", scene)
    cases = [["decode_rgb.png", "decode_rgb.png", 0]]

    def case(name: str, expected: np.ndarray, tolerance: int) -> None:
        save(f"expect_{Path(name).stem}.png", expected)
        cases.append([name, f"expect_{Path(name).stem}.png", tolerance])

    for orientation in range(1, 9):
        name = f"decode_exif{orientation}.jpg"
        image.save(OUT / name, quality=97, subsampling=0, exif=exif(orientation))
        case(name, np.array(ImageOps.exif_transpose(Image.open(OUT / name))), 3)
    image.save(OUT / "decode_exif6.png", exif=exif(6))
    expected = np.array(ImageOps.exif_transpose(Image.open(OUT / "decode_exif6.png")))
    save("expect_png6.png", expected)
    cases.append(["decode_exif6.png", "expect_png6.png", 0])

    image.save(OUT / "decode_progressive.jpg", quality=97, subsampling=0, progressive=True)
    case("decode_progressive.jpg", np.array(Image.open(OUT / "decode_progressive.jpg")), 3)
    # Chroma at half resolution: decoders interpolate it in their own ways.
    image.save(OUT / "decode_420.jpg", quality=95, subsampling=2)
    case("decode_420.jpg", np.array(Image.open(OUT / "decode_420.jpg")), 12)
    grey = image.convert("L")
    grey.save(OUT / "decode_grey.jpg", quality=97)
    case("decode_grey.jpg", np.array(Image.open(OUT / "decode_grey.jpg").convert("RGB")), 3)
    image.convert("CMYK").save(OUT / "decode_cmyk.jpg", quality=97, subsampling=0)
    case("decode_cmyk.jpg", np.array(Image.open(OUT / "decode_cmyk.jpg").convert("RGB")), 6)

    grey.save(OUT / "decode_grey.png")
    save("expect_greypng.png", np.array(grey.convert("RGB")))
    cases.append(["decode_grey.png", "expect_greypng.png", 0])
    grey.convert("1").save(OUT / "decode_bits.png")
    case("decode_bits.png", np.array(grey.convert("1").convert("RGB")), 0)
    wide = scene.astype(np.uint16) * 257
    cv2.imwrite(str(OUT / "decode_rgb16.png"), wide[:, :, ::-1])
    case("decode_rgb16.png", scene, 0)
    cv2.imwrite(str(OUT / "decode_grey16.png"), np.array(grey).astype(np.uint16) * 257)
    case("decode_grey16.png", np.array(grey.convert("RGB")), 0)
    palette = image.quantize(32)
    palette.save(OUT / "decode_palette.png")
    case("decode_palette.png", np.array(palette.convert("RGB")), 0)
    alpha = np.linspace(0, 255, 40).round().astype(np.uint8)[None, :].repeat(24, 0)
    over_black = (scene.astype(np.float64) * alpha[..., None] / 255).round().astype(np.uint8)
    Image.fromarray(np.dstack([scene, alpha])).save(OUT / "decode_rgba.png")
    case("decode_rgba.png", over_black, 0)
    grey_over_black = (np.array(grey).astype(np.float64) * alpha / 255).round().astype(np.uint8)
    Image.merge("LA", [grey, Image.fromarray(alpha)]).save(OUT / "decode_la.png")
    case("decode_la.png", np.dstack([grey_over_black] * 3), 0)
    palette.save(OUT / "decode_transparent.png", transparency=5)
    clear = np.array(palette) == 5
    expected = np.array(palette.convert("RGB"))
    expected[clear] = 0
    case("decode_transparent.png", expected, 0)
    write_json("decode.json", cases)


def blend(image: np.ndarray, other, factor: float) -> np.ndarray:
    return np.clip(factor * image + (1 - factor) * other, 0, 1)


def luma(image: np.ndarray) -> np.ndarray:
    return image @ np.array([0.2989, 0.587, 0.114])


def jitter(image: np.ndarray, steps) -> np.ndarray:
    """torchvision's adjust_brightness, _contrast, _saturation and _hue on floats in 0..1, in the given order."""
    for name, factor in steps:
        if name == "brightness":
            image = blend(image, 0.0, factor)
        elif name == "contrast":
            image = blend(image, luma(image).mean(), factor)
        elif name == "saturation":
            image = blend(image, luma(image)[..., None], factor)
        else:
            turned = [
                colorsys.hsv_to_rgb((h + factor) % 1.0, s, v)
                for h, s, v in (colorsys.rgb_to_hsv(*pixel) for pixel in image.reshape(-1, 3))
            ]
            image = np.array(turned).reshape(image.shape)
    return image


def augmentation() -> None:
    crop = picture(112, 112, 0.7)
    crop[10:20, 30:60] = (200, 200, 200)  # without hue
    crop[50:60, 20:40] = (0, 0, 0)
    crop[80:90, 60:90] = (255, 0, 128)
    save("crop.png", crop)
    save("crop2.png", picture(112, 112, 2.1))
    cases = []
    chains = [
        [["brightness", 0.8]],
        [["brightness", 1.2]],
        [["contrast", 0.8]],
        [["contrast", 1.2]],
        [["saturation", 0.8]],
        [["saturation", 1.2]],
        [["hue", -0.1]],
        [["hue", 0.1]],
        [["hue", 0.07], ["contrast", 1.15], ["brightness", 0.85], ["saturation", 1.1]],
        [["saturation", 0.9], ["brightness", 1.19], ["hue", -0.05], ["contrast", 0.82]],
    ]
    for index, steps in enumerate(chains):
        result = jitter(crop / 255.0, steps)
        save(f"jitter_{index}.png", (result * 255).round().astype(np.uint8))
        cases.append({"steps": steps, "crop": f"jitter_{index}.png"})
    write_json("jitter.json", cases)
    image = Image.fromarray(crop)
    save("grey.png", np.array(image.convert("L").convert("RGB")))
    for side in (50, 77, 100):
        small = image.resize((side, side), Image.Resampling.BILINEAR)
        save(f"shrink_{side}.png", np.array(small.resize((112, 112), Image.Resampling.BILINEAR)))


class Block(nn.Module):
    """The residual block of iResNet: BN, conv, BN, PReLU, conv, BN, with a projected shortcut where sizes change."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(inputs),
            nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.PReLU(outputs),
            nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.shortcut = (
            nn.Identity()
            if stride == 1
            else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs))
        )

    def forward(self, x):
        return self.body(x) + self.shortcut(x)


def mini_iresnet() -> nn.Module:
    torch.manual_seed(2)
    features = nn.BatchNorm1d(8, eps=2e-5)
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, 1, 1, bias=False),
        nn.BatchNorm2d(8),
        nn.PReLU(8),
        Block(8, 8, 2),
        Block(8, 8, 1),
        Block(8, 12, 2),
        Block(12, 16, 2),
        Block(16, 16, 2),
        nn.BatchNorm2d(16),
        nn.Dropout(0.4),
        nn.Flatten(),
        nn.Linear(16 * 7 * 7, 8),
        features,
    )
    for module in network.modules():
        if isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d)):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.3, 0.3)
            nn.init.uniform_(module.weight, 0.7, 1.3)
    # As in insightface: the last scale is fixed at one. The exporter then shares one constant through an Identity.
    nn.init.ones_(features.weight)
    nn.init.ones_(features.running_var)
    return network.eval()


def export(network: nn.Module) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            network,
            torch.zeros(1, 3, 112, 112),
            buffer,
            dynamo=False,
            opset_version=11,
            input_names=["input.1"],
            dynamic_axes={"input.1": {0: "None"}},
        )
    return buffer.getvalue()


def network_input(name: str) -> np.ndarray:
    rgb = np.array(Image.open(OUT / name)).astype(np.float32)
    return ((rgb / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None]


def run(model: bytes, crop: str, value: str | None = None) -> list[float]:
    """What ONNX Runtime computes for one crop, at the output or at another value."""
    if value is not None:
        proto = onnx.load_from_string(model)
        del proto.graph.output[:]
        proto.graph.output.append(helper.make_tensor_value_info(value, TensorProto.FLOAT, None))
        model = proto.SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: network_input(crop)})
    return [round(float(v), 7) for v in result.ravel()]


FEATURES, DIM = 147, 5


def tiny(*, linear="gemm", bias=True, norm=True, flat="Flatten", storage="raw", batch="N", shape=(3, 112, 112),
         elem=TensorProto.FLOAT, listed=False, tail=None, extra_output=False) -> bytes:
    """AveragePool -> Flatten -> Gemm -> BatchNormalization with one thing changed."""
    rng = np.random.default_rng(3)
    weight = rng.normal(0, 0.1, (DIM, FEATURES)).astype(np.float32)
    if storage.startswith("half"):
        weight = weight.astype(np.float16)
    vectors = {
        "bias": rng.normal(0, 0.5, DIM),
        "gamma": rng.uniform(0.5, 1.5, DIM),
        "beta": rng.normal(0, 0.5, DIM),
        "mean": rng.normal(0, 0.5, DIM),
        "var": rng.uniform(0.5, 1.5, DIM),
    }
    vectors = {name: value.astype(np.float32) for name, value in vectors.items()}
    nodes = [helper.make_node("AveragePool", ["image"], ["pooled"], "pool", kernel_shape=[16, 16], strides=[16, 16])]
    constants = []

    def constant(name: str, value: np.ndarray) -> None:
        if storage == "floats":
            kind = helper.np_dtype_to_tensor_dtype(value.dtype)
            constants.append(helper.make_tensor(name, kind, value.shape, value.ravel().tolist()))
        elif storage == "nodes":
            nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value)))
        else:
            constants.append(numpy_helper.from_array(value, name))

    if flat == "Reshape":
        constants.append(numpy_helper.from_array(np.array([-1, FEATURES], np.int64), "flat_shape"))
        nodes.append(helper.make_node("Reshape", ["pooled", "flat_shape"], ["features"], "flat"))
    else:
        nodes.append(helper.make_node("Flatten", ["pooled"], ["features"], "flat", axis=1))
    stored = weight if linear == "gemm" else np.ascontiguousarray(weight.T)
    if storage == "half":
        constant("weight_half", stored)
        nodes.append(helper.make_node("Cast", ["weight_half"], ["weight"], to=TensorProto.FLOAT))
    elif storage == "half_ints":
        bits = stored.view(np.uint16).ravel().tolist()
        constants.append(TensorProto(name="weight_half", data_type=TensorProto.FLOAT16, dims=stored.shape, int32_data=bits))
        nodes.append(helper.make_node("Cast", ["weight_half"], ["weight"], to=TensorProto.FLOAT))
    else:
        constant("weight", stored)
    if bias:
        constant("bias", vectors["bias"])
    inputs = ["features", "weight"] + (["bias"] if bias else [])
    if linear == "gemm":
        nodes.append(helper.make_node("Gemm", inputs, ["dense"], "fc", transB=1))
    elif linear == "gemm_plain":
        nodes.append(helper.make_node("Gemm", inputs, ["dense"], "fc", alpha=0.5, beta=2.0))
    else:
        nodes.append(helper.make_node("MatMul", inputs[:2], ["product" if bias else "dense"], "fc"))
        if bias:
            nodes.append(helper.make_node("Add", ["bias", "product"], ["dense"], "fc_bias"))
    last = "dense"
    if norm:
        for name in ("gamma", "beta", "mean", "var"):
            constant(name, vectors[name])
        nodes.append(
            helper.make_node("BatchNormalization", ["dense", "gamma", "beta", "mean", "var"], ["normed"], "bn", epsilon=1e-3)
        )
        last = "normed"
    if tail:
        nodes.append(helper.make_node(tail, [last], ["tail"], "tail"))
        last = "tail"
    dims = [batch, *shape]
    listed_inputs = [helper.make_tensor_value_info("image", elem, dims)]
    if listed:
        listed_inputs += [helper.make_tensor_value_info(c.name, c.data_type, list(c.dims)) for c in constants]
    outputs = [helper.make_tensor_value_info(last, TensorProto.FLOAT, [batch, DIM])]
    if extra_output:
        outputs.append(helper.make_tensor_value_info("pooled", TensorProto.FLOAT, None))
    graph = helper.make_graph(nodes, "tiny", listed_inputs, outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    return model.SerializeToString()


def networks() -> None:
    crops = ["crop.png", "crop2.png"]
    cases = []

    def case(name: str, model: bytes, value: str | None, neck: bool) -> None:
        (OUT / f"{name}.onnx").write_bytes(model)
        cases.append(
            {
                "file": f"{name}.onnx",
                "cut": value,
                "neck": neck,
                "crops": [
                    {"crop": crop, "features": run(model, crop, value), "output": run(model, crop)} for crop in crops
                ],
            }
        )

    case("mini_iresnet", export(mini_iresnet()), "/10/Flatten_output_0", True)
    variants = {
        "tiny": {},
        "tiny_reshape": {"flat": "Reshape"},
        "tiny_matmul": {"linear": "matmul"},
        "tiny_matmul_plain": {"linear": "matmul", "bias": False, "norm": False},
        "tiny_gemm_plain": {"linear": "gemm_plain"},
        "tiny_no_norm": {"norm": False, "tail": "Identity"},
        "tiny_floats": {"storage": "floats"},
        "tiny_nodes": {"storage": "nodes"},
        "tiny_half": {"storage": "half"},
        "tiny_half_ints": {"storage": "half_ints"},
        "tiny_one": {"batch": 1},
        "tiny_listed": {"listed": True},
    }
    for name, options in variants.items():
        case(name, tiny(**options), "features", True)
    case("tiny_tail", tiny(tail="Relu"), None, False)
    write_json("networks.json", cases)

    (OUT / "bad_last_channels.onnx").write_bytes(tiny(shape=(112, 112, 3)))
    (OUT / "bad_size.onnx").write_bytes(tiny(shape=(3, 224, 224)))
    (OUT / "bad_half.onnx").write_bytes(tiny(elem=TensorProto.FLOAT16))
    (OUT / "bad_batch.onnx").write_bytes(tiny(batch=8))
    (OUT / "bad_outputs.onnx").write_bytes(tiny(extra_output=True))
    whole = onnx.load_from_string(tiny())
    whole.graph.output[0].type.tensor_type.elem_type = TensorProto.INT64
    (OUT / "bad_output.onnx").write_bytes(whole.SerializeToString())
    (OUT / "bad_log.onnx").write_bytes(tiny(tail="Log"))
    (OUT / "bad_operator.onnx").write_bytes(tiny(tail="NoSuchOperator"))
    length = onnx.load_from_string(tiny())
    del length.graph.output[:]
    length.graph.output.append(helper.make_tensor_value_info("features", TensorProto.FLOAT, ["N", FEATURES - 1]))
    (OUT / "bad_length.onnx").write_bytes(length.SerializeToString())
    two = onnx.load_from_string(tiny())
    two.graph.input.append(helper.make_tensor_value_info("age", TensorProto.FLOAT, ["N", 1]))
    (OUT / "bad_inputs.onnx").write_bytes(two.SerializeToString())
    external = onnx.load_from_string(tiny())
    weight = next(t for t in external.graph.initializer if t.name == "weight")
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="weights.bin")
    (OUT / "bad_external.onnx").write_bytes(external.SerializeToString())
    nan = onnx.load_from_string(tiny())
    var = next(t for t in nan.graph.initializer if t.name == "var")
    var.raw_data = np.full(DIM, np.nan, np.float32).tobytes()
    (OUT / "bad_nan.onnx").write_bytes(nan.SerializeToString())
    short = onnx.load_from_string(tiny())
    weight = next(t for t in short.graph.initializer if t.name == "weight")
    weight.raw_data = weight.raw_data[:-8]
    (OUT / "bad_short.onnx").write_bytes(short.SerializeToString())
    cycle = onnx.load_from_string(tiny())
    cycle.graph.node[0].input[0] = "dense"
    (OUT / "bad_cycle.onnx").write_bytes(cycle.SerializeToString())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--edgeface", type=Path, help="edgeface_xxs.onnx, to write edgeface.json")
    arguments = parser.parse_args()
    onnxruntime.set_default_logger_severity(3)
    OUT.mkdir(parents=True, exist_ok=True)
    alignment()
    decoding()
    augmentation()
    networks()
    if arguments.edgeface:
        model = arguments.edgeface.read_bytes()
        write_json("edgeface.json", [{"crop": c, "start": run(model, c)[:32]} for c in ("crop.png", "crop2.png")])


if __name__ == "__main__":
    main()
