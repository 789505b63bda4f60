"""Write iResNets in the layout of the insightface zoo's exports, with random weights.

The zoo's `glint360k_r50.onnx` and `glint360k_r100.onnx` are ONNX opset 11 files with the input `input.1` [None, 3, 112,
112] and one output [1, 512]. They end BatchNormalization -> Flatten -> Gemm -> BatchNormalization; PyTorch's exporter
folds every BatchNorm that follows a convolution into it, and leaves the first one of each block and the last two.
`--unfolded` leaves all of them. Weights are drawn from the seed; running statistics are those of a pass over synthetic
pictures, so that activations stay in range through a hundred layers. Speed, memory and rounding are those of the real
networks; the features mean nothing.

    python reference/iresnet.py --layers 50 --out r50.onnx
    python reference/iresnet.py --layers 100 --seed 2 --unfolded --out r100.onnx
    python reference/iresnet.py --fixtures          # crates/vision/tests/data/iresnet*.onnx and what they compute

Needs torch, numpy and onnx; `--fixtures` also Pillow and onnxruntime.
"""

import argparse
import io
import json
import warnings
from pathlib import Path

import numpy as np
import onnx
import torch
from torch import nn

# Blocks per stage (Duta et al. 2020, "Improved Residual Networks"; ArcFace, Deng et al. 2019); 6 is a toy of the same
# layout.
STAGES = {6: (1, 1, 1, 1), 18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}
FIXTURES = Path(__file__).parent.parent / "crates" / "vision" / "tests" / "data"


class Block(nn.Module):
    """BN, conv, BN, PReLU, conv (strided), BN; the shortcut is projected where sizes change."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.prelu = nn.PReLU(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, stride, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x):
        y = self.bn3(self.conv2(self.prelu(self.bn2(self.conv1(self.bn1(x))))))
        return y + (x if self.shortcut is None else self.shortcut(x))


class IResNet(nn.Module):
    """112 x 112 RGB in [-1, 1] to `dim` values; `width` is that of the first stage (64 in the zoo)."""

    def __init__(self, layers: int, width: int = 64, dim: int = 512):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.PReLU(width)
        )
        stages, inputs = [], width
        for number, blocks in enumerate(STAGES[layers]):
            outputs = width << number
            for block in range(blocks):
                stages.append(Block(inputs, outputs, 2 if block == 0 else 1))
                inputs = outputs
        self.stages = nn.Sequential(*stages)
        self.bn = nn.BatchNorm2d(inputs)
        self.fc = nn.Linear(inputs * 7 * 7, dim)
        self.features = nn.BatchNorm1d(dim)

    def trunk(self, x):
        """The flattened feature map before the last two layers."""
        return torch.flatten(self.bn(self.stages(self.stem(x))), 1)

    def forward(self, x):
        return self.features(self.fc(self.trunk(x)))


def pictures(count: int, rng: np.random.Generator) -> torch.Tensor:
    """Smooth colour fields with edges and noise, in [-1, 1]."""
    y, x = np.mgrid[0:112, 0:112] / 112.0
    images = np.zeros((count, 3, 112, 112))
    for image in images:
        for _ in range(12):
            u, v, phase = rng.normal(0, 6, 2).tolist() + [rng.uniform(0, 6.3)]
            image += rng.normal(0, 0.25, 3)[:, None, None] * np.sin(u * x + v * y + phase)
        cx, cy, radius = rng.uniform(0.3, 0.7), rng.uniform(0.3, 0.7), rng.uniform(0.1, 0.4)
        image += rng.normal(0, 0.4, 3)[:, None, None] * ((x - cx) ** 2 + (y - cy) ** 2 < radius**2)
        image += rng.normal(0, 0.05, image.shape)
    return torch.from_numpy(images.clip(-1, 1)).float()


@torch.no_grad()
def network(layers: int, seed: int, width: int = 64, dim: int = 512) -> IResNet:
    """A network with weights from the seed, in evaluation mode."""
    torch.manual_seed(seed)
    net = IResNet(layers, width, dim)
    for module in net.modules():
        match module:
            case nn.Conv2d():
                nn.init.kaiming_normal_(module.weight, nonlinearity="leaky_relu", a=0.25)
            case nn.PReLU():
                nn.init.uniform_(module.weight, 0.05, 0.4)
            case nn.BatchNorm2d() | nn.BatchNorm1d():
                nn.init.uniform_(module.weight, 0.7, 1.3)
                nn.init.normal_(module.bias, 0, 0.2)
                module.momentum = None
            case nn.Linear():
                nn.init.normal_(module.weight, 0, module.in_features**-0.5)
                nn.init.normal_(module.bias, 0, 0.1)
    for block in net.stages:
        block.bn3.weight *= 0.4
    # As in the zoo: the last scale is fixed at one.
    nn.init.ones_(net.features.weight)
    net.train()
    net(pictures(64, np.random.default_rng(seed)))
    return net.eval()


def export(net: nn.Module, unfolded: bool) -> bytes:
    """The ONNX file; the exporter folds BatchNorms only when it is told that it exports for evaluation."""
    mode = torch.onnx.TrainingMode.PRESERVE if unfolded else torch.onnx.TrainingMode.EVAL
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net,
            torch.zeros(1, 3, 112, 112),
            buffer,
            dynamo=False,
            opset_version=11,
            input_names=["input.1"],
            training=mode,
        )
    model = onnx.load_from_string(buffer.getvalue())
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "None"
    onnx.checker.check_model(model)
    return model.SerializeToString()


def fixtures() -> None:
    import onnxruntime
    from PIL import Image

    net = network(6, 3, width=2, dim=8)
    cases = []
    for name, unfolded in (("iresnet.onnx", False), ("iresnet_unfolded.onnx", True)):
        model = export(net, unfolded)
        (FIXTURES / name).write_bytes(model)
        proto = onnx.load_from_string(model)
        flat = next(node.output[0] for node in proto.graph.node if node.op_type == "Flatten")
        norms = sum(node.op_type == "BatchNormalization" for node in proto.graph.node)
        end = proto.graph.output[0].name
        proto.graph.output.append(onnx.helper.make_tensor_value_info(flat, onnx.TensorProto.FLOAT, None))
        session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
        crops = []
        for crop in ("crop.png", "crop2.png"):
            rgb = np.array(Image.open(FIXTURES / crop)).astype(np.float32)
            image = ((rgb / 255 - 0.5) / 0.5).transpose(2, 0, 1)[None]
            features, output = session.run([flat, end], {"input.1": image})
            rounded = [[round(float(v), 5) for v in values.ravel()] for values in (features, output)]
            crops.append({"crop": crop, "features": rounded[0], "output": rounded[1]})
        cases.append({"file": name, "cut": flat, "neck": True, "norms": norms, "crops": crops})
    text = json.dumps(cases, separators=(",", ":")) + "\n"
    (FIXTURES / "iresnet.json").write_text(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, choices=sorted(STAGES), default=50)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--unfolded", action="store_true", help="leave every BatchNormalization in the file")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--fixtures", action="store_true", help="write the test vectors instead")
    arguments = parser.parse_args()
    if arguments.fixtures:
        return fixtures()
    if arguments.out is None:
        parser.error("--out FILE says where the network goes")
    net = network(arguments.layers, arguments.seed)
    arguments.out.write_bytes(export(net, arguments.unfolded))
    with torch.no_grad():
        features = net.trunk(pictures(16, np.random.default_rng(arguments.seed + 1)))
    largest, spread = features.abs().max().item(), features.std().item()
    print(f"{arguments.out}: features of std {spread:.2f}, largest {largest:.1f}")


if __name__ == "__main__":
    main()
