"""Train the small trunk that ships with fedgestalt, and export it to ONNX.

The trunk learns identities of the renderer in crates/synthface whose seeds are disjoint from every demo cohort
(`synthface::unaffected` has its own seed domain). Reproduce:

    cargo run -p synthface --release --example identities -- --subjects 6000 --images 10 --seed 1 --size 160 --out identities.u8
    python reference/train_trunk.py --crops identities.u8 --images 10 --seed 1 --epochs 12 \
        --out crates/fedgestalt/assets/trunk.onnx --log reference/train_trunk.log

Needs torch, numpy and onnx. The graph is written node by node (Conv with its BatchNorm folded, Relu, Add,
Flatten, Gemm, BatchNormalization), in the shape of the face networks of the field: everything up to Flatten is the
trunk, Gemm and BatchNormalization are the neck's starting weights.
"""

import argparse
import time

import numpy as np
import onnx
import torch
import torch.nn.functional as F
from onnx import TensorProto, helper, numpy_helper
from torch import nn

DIM = 128


class ConvBn(nn.Module):
    def __init__(self, cin, cout, kernel, stride):
        super().__init__()
        self.conv = nn.Conv2d(cin, cout, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(cout)

    def forward(self, x):
        return self.bn(self.conv(x))

    def folded(self):
        """Weight and bias of the one convolution that equals convolution + BatchNorm in eval mode."""
        scale = self.bn.weight / torch.sqrt(self.bn.running_var + self.bn.eps)
        weight = self.conv.weight * scale[:, None, None, None]
        bias = self.bn.bias - self.bn.running_mean * scale
        return weight.detach().float().numpy(), bias.detach().float().numpy()


class Block(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.a = ConvBn(channels, channels, 3, 1)
        self.b = ConvBn(channels, channels, 3, 1)

    def forward(self, x):
        return F.relu(x + self.b(F.relu(self.a(x))))


class Embedder(nn.Module):
    """112x112 RGB in [-1, 1] -> 64x7x7 map (the trunk's 3136 features) -> 128-d embedding."""

    def __init__(self):
        super().__init__()
        self.stem = ConvBn(3, 16, 3, 2)
        self.down = nn.ModuleList([ConvBn(16, 32, 3, 2), ConvBn(32, 64, 3, 2), ConvBn(64, 128, 3, 2)])
        self.blocks = nn.ModuleList([Block(32), Block(64), Block(128)])
        self.squeeze = ConvBn(128, 64, 1, 1)
        self.neck = nn.Linear(64 * 49, DIM)
        self.bn = nn.BatchNorm1d(DIM)

    def forward(self, x):
        x = F.relu(self.stem(x))
        for down, block in zip(self.down, self.blocks):
            x = block(F.relu(down(x)))
        x = self.squeeze(x)
        return self.bn(self.neck(x.flatten(1)))


def augment(x, generator):
    """x: N x 3 x 112 x 112 in [0, 1]. Mirror, exposure, colour, grey, shrink; one draw per image."""
    n = len(x)

    def uniform(lo, hi, *shape):
        return torch.rand(*shape, generator=generator) * (hi - lo) + lo

    flip = torch.rand(n, generator=generator) < 0.5
    x[flip] = x[flip].flip(-1)
    x = x * uniform(0.8, 1.2, n, 1, 1, 1) * uniform(0.93, 1.07, n, 3, 1, 1)
    mean = x.mean((1, 2, 3), keepdim=True)
    x = mean + (x - mean) * uniform(0.8, 1.2, n, 1, 1, 1)
    grey = torch.rand(n, generator=generator) < 0.25
    luma = (x * torch.tensor([0.299, 0.587, 0.114])[None, :, None, None]).sum(1, keepdim=True)
    x[grey] = luma[grey].expand(-1, 3, -1, -1)
    small = torch.rand(n, generator=generator) < 0.15
    if small.any():
        side = int(torch.randint(50, 101, (1,), generator=generator))
        x[small] = F.interpolate(F.interpolate(x[small], size=side, mode="bilinear"), size=112, mode="bilinear")
    return (x.clamp(0, 1) - 0.5) / 0.5


def cosine_margin_loss(z, centres, labels, scale=28.0, margin=0.25):
    logits = F.normalize(z) @ F.normalize(centres).T
    logits = logits - margin * F.one_hot(labels, len(centres))
    return F.cross_entropy(scale * logits, labels), logits


@torch.no_grad()
def verification(model, crops, labels):
    """Rank-1 of each held-out image among the other held-out images (leave one out, cosine)."""
    model.eval()
    z = torch.cat([F.normalize(model(torch.from_numpy(crops[i : i + 256]).permute(0, 3, 1, 2).float() / 127.5 - 1)) for i in range(0, len(crops), 256)])
    s = z @ z.T
    s.fill_diagonal_(-2)
    model.train()
    return (labels[s.argmax(1).numpy()] == labels).mean()


def export(model, path, card):
    model = model.eval().cpu()
    nodes, weights = [], []

    def tensor(name, value):
        weights.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def conv(name, layer, source, relu):
        w, b = layer.folded()
        k, s = layer.conv.kernel_size[0], layer.conv.stride[0]
        nodes.append(helper.make_node("Conv", [source, tensor(name + ".weight", w), tensor(name + ".bias", b)], [name], name=name,
                                      kernel_shape=[k, k], strides=[s, s], pads=[k // 2] * 4))
        if not relu:
            return name
        nodes.append(helper.make_node("Relu", [name], [name + ".relu"], name=name + ".relu"))
        return name + ".relu"

    x = conv("stem", model.stem, "input", True)
    for i, (down, block) in enumerate(zip(model.down, model.blocks)):
        x = conv(f"down{i}", down, x, True)
        y = conv(f"block{i}.b", block.b, conv(f"block{i}.a", block.a, x, True), False)
        nodes.append(helper.make_node("Add", [x, y], [f"block{i}.sum"], name=f"block{i}.sum"))
        nodes.append(helper.make_node("Relu", [f"block{i}.sum"], [f"block{i}"], name=f"block{i}"))
        x = f"block{i}"
    x = conv("squeeze", model.squeeze, x, False)
    nodes.append(helper.make_node("Flatten", [x], ["flatten"], name="flatten", axis=1))
    nodes.append(helper.make_node("Gemm", ["flatten", tensor("neck.weight", model.neck.weight.detach().numpy()), tensor("neck.bias", model.neck.bias.detach().numpy())],
                                  ["neck"], name="neck", transB=1))
    bn = model.bn
    bn_inputs = [tensor("bn." + n, v.detach().numpy()) for n, v in
                 [("weight", bn.weight), ("bias", bn.bias), ("mean", bn.running_mean), ("var", bn.running_var)]]
    nodes.append(helper.make_node("BatchNormalization", ["neck"] + bn_inputs, ["embedding"], name="bn", epsilon=bn.eps))
    graph = helper.make_graph(nodes, "fedgestalt-trunk", [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 112, 112])],
                              [helper.make_tensor_value_info("embedding", TensorProto.FLOAT, ["n", DIM])], weights)
    file = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name="fedgestalt", doc_string=card)
    onnx.checker.check_model(file)
    onnx.save(file, path)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--crops", required=True, help="raw u8 [N,112,112,3]; labels beside it in CROPS.labels (u32 LE)")
    p.add_argument("--seed", type=int, default=1)
    p.add_argument("--epochs", type=float, default=12)
    p.add_argument("--batch", type=int, default=128)
    p.add_argument("--lr", type=float, default=2e-3)
    p.add_argument("--held-out", type=int, default=200, help="subjects kept out to measure rank-1")
    p.add_argument("--threads", type=int, default=2)
    p.add_argument("--out", required=True)
    p.add_argument("--log", required=True)
    p.add_argument("--random", action="store_true", help="export the untrained network (the baseline to compare with)")
    a = p.parse_args()
    torch.manual_seed(a.seed)
    torch.set_num_threads(a.threads)
    model = Embedder()
    if a.random:
        export(model, a.out, "untrained")
        return
    labels = np.fromfile(a.crops + ".labels", dtype="<u4").astype(np.int64)
    crops = np.memmap(a.crops, dtype=np.uint8, mode="r", shape=(len(labels), 112, 112, 3))
    classes = int(labels.max()) + 1 - a.held_out
    train = np.flatnonzero(labels < classes)
    test = np.flatnonzero(labels >= classes)
    centres = nn.Parameter(torch.randn(classes, DIM) * 0.05)
    opt = torch.optim.AdamW(list(model.parameters()) + [centres], lr=a.lr, weight_decay=5e-3)
    generator = torch.Generator().manual_seed(a.seed)
    steps = int(a.epochs * (len(train) // a.batch))
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, a.lr, total_steps=steps, pct_start=0.1)
    model = model.to(memory_format=torch.channels_last)
    log = open(a.log, "w")

    def say(text):
        print(text, flush=True)
        log.write(text + "\n")
        log.flush()

    say(f"seed {a.seed}, {len(train)} images of {classes} subjects, {a.held_out} subjects held out, {steps} steps of {a.batch}; torch {torch.__version__}")
    say(f"rank-1 of held-out subjects before training: {100 * verification(model, crops[test], labels[test]):.2f} %")
    began, order, at, total, right = time.time(), None, 0, 0.0, 0.0
    for step in range(1, steps + 1):
        if order is None or at + a.batch > len(order):
            order, at = train[torch.randperm(len(train), generator=generator).numpy()], 0
        rows = np.sort(order[at : at + a.batch])
        at += a.batch
        x = torch.from_numpy(crops[rows]).permute(0, 3, 1, 2).float() / 255
        y = torch.from_numpy(labels[rows])
        with torch.autocast("cpu", torch.bfloat16):
            z = model(augment(x, generator).contiguous(memory_format=torch.channels_last))
        loss, logits = cosine_margin_loss(z.float(), centres, y, margin=0.25 * min(1.0, step / (0.3 * steps)))
        opt.zero_grad()
        loss.backward()
        opt.step()
        schedule.step()
        total += loss.item()
        right += (logits.argmax(1) == y).float().mean().item()
        if step % 100 == 0:
            rate = step * a.batch / (time.time() - began)
            say(f"step {step}/{steps} loss {total / 100:.3f} training rank-1 {right:.1f} % ({rate:.0f} images/s)")
            total = right = 0.0
        if step % 1000 == 0 or step == steps:
            say(f"step {step}: rank-1 of held-out subjects {100 * verification(model, crops[test], labels[test]):.2f} %")
            export(model.float(), a.out, "fedgestalt small trunk; trained on rendered identities only")
            model = model.to(memory_format=torch.channels_last).train()
    say(f"done in {time.time() - began:.0f} s")


if __name__ == "__main__":
    main()
