"""Published checkpoints, made up in their layouts, against their authors' code written out."""

import hashlib
import io
import threading
from collections import Counter, OrderedDict
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from unittest import mock

import pytest
import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor

import dinomix
from dinomix.exchange.published import LAYOUTS, files_here, load_published, published_models
from dinomix.plumbing.errors import HubError
from tests.backbones.slowly import tokens_slowly
from tests.test_weights import dinov2_shapes


def mixer_shapes(channels: int, n: int, depth: int, d: int, r: int) -> dict[str, tuple[int, ...]]:
    shapes = {}
    for layer in range(depth):
        shapes |= {f"aggregator.mix.{layer}.mix.0.{part}": (n,) for part in ("weight", "bias")}
        for linear in (1, 3):
            shapes[f"aggregator.mix.{layer}.mix.{linear}.weight"] = (n, n)
            shapes[f"aggregator.mix.{layer}.mix.{linear}.bias"] = (n,)
    return shapes | {
        "aggregator.channel_proj.weight": (d, channels),
        "aggregator.channel_proj.bias": (d,),
        "aggregator.row_proj.weight": (r, n),
        "aggregator.row_proj.bias": (r,),
    }


def dino_mix_shapes(
    size: str = "s", n: int = 256, depth: int = 2, d: int = 8, r: int = 4
) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the authors' release; DINOv2-g has SwiGLU instead of an MLP."""
    vit = dinov2_shapes(f"dinov2_vit{size}14")
    vit = {f"backbone.dino_model.{k}": shape for k, shape in vit.items() if k[:5] != "norm."}
    return vit | mixer_shapes(vit["backbone.dino_model.cls_token"][2], n, depth, d, r)


def mixvpr_shapes(n: int = 400, depth: int = 4, d: int = 1024, r: int = 4) -> dict:
    """Names and shapes of MixVPR's release: torchvision's ResNet-50 up to layer3."""
    with torch.device("meta"):
        resnet = torchvision.models.resnet50(weights=None)
    cnn = {
        f"backbone.model.{key}": tuple(tensor.shape)
        for key, tensor in resnet.state_dict().items()
        if not key.startswith(("layer4", "fc"))
    }
    return cnn | mixer_shapes(1024, n, depth, d, r)


def random_tensors(shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    """Tensors that all matter and let numbers neither grow nor vanish."""
    powers = ("aggregation.1.p", "aggregation.0.1.p", "aggregator.p")
    generator = torch.Generator().manual_seed(1)
    tensors = {}
    for key, shape in shapes.items():
        noise = torch.randn(shape, generator=generator)
        if key.endswith("num_batches_tracked"):
            tensors[key] = torch.tensor(7)
        elif key.endswith("running_var"):
            tensors[key] = 1 + 0.1 * noise.abs()
        elif key in powers:
            tensors[key] = 2.5 + noise.abs()
        elif len(shape) < 2:
            is_scale = key.endswith(("weight", "gamma"))
            tensors[key] = is_scale + 0.1 * noise
        else:
            tokens = key.endswith(("token", "pos_embed", "queries"))
            tensors[key] = noise if tokens else noise / noise[0].numel() ** 0.5
    return tensors


def load_shapes(path: Path, shapes: dict[str, tuple[int, ...]]) -> dinomix.PlaceModel:
    """Load such tensors into a model, both without memory: a file of them would be refused."""
    kind = {"num_batches_tracked": torch.int64}
    tensors = {
        key: torch.zeros(shape, dtype=kind.get(key.split(".")[-1]), device="meta")
        for key, shape in shapes.items()
    }
    with (
        torch.device("meta"),
        mock.patch("dinomix.exchange.published.read_tensors", return_value=tensors),
    ):
        return load_published(path)


def mixed(tensors: dict[str, Tensor], maps: Tensor) -> Tensor:
    """The mixer as the paper and both releases have it: channels first, then rows."""
    part = {k.removeprefix("aggregator."): t for k, t in tensors.items()}
    x = maps.flatten(2)  # (B, s, n)
    n = x.shape[2]
    for layer in range(sum(k.endswith("mix.0.weight") for k in part)):
        one = {k.removeprefix(f"mix.{layer}.mix."): t for k, t in part.items()}
        y = F.layer_norm(x, (n,), one["0.weight"], one["0.bias"], 1e-5)
        y = F.relu(F.linear(y, one["1.weight"], one["1.bias"]))
        x = x + F.linear(y, one["3.weight"], one["3.bias"])
    x = F.linear(x.permute(0, 2, 1), part["channel_proj.weight"], part["channel_proj.bias"])
    x = F.linear(x.permute(0, 2, 1), part["row_proj.weight"], part["row_proj.bias"])
    return F.normalize(x.flatten(1), p=2, dim=-1)  # (B, d*r)


def dinov2_slowly(
    tensors: dict[str, Tensor], trunk: str, images: Tensor, heads: int, offset: float = 0.1
) -> Tensor:
    """DINOv2's tokens (B, 1 + n, s); `offset` is the 0.1 with which its hub code resizes."""
    vit = {k.removeprefix(trunk): t for k, t in tensors.items() if k.startswith(trunk)}
    h, w, s = images.shape[2] // 14, images.shape[3] // 14, vit["cls_token"].shape[2]
    places = vit["pos_embed"][:, 1:].reshape(1, 37, 37, s).permute(0, 3, 1, 2)
    factors = ((h + offset) / 37, (w + offset) / 37)
    places = F.interpolate(
        places, scale_factor=factors, mode="bicubic", recompute_scale_factor=not offset
    )
    places = places.permute(0, 2, 3, 1).reshape(h * w, s)
    return tokens_slowly(vit, images, heads, torch.cat([vit["pos_embed"][0, :1], places]))


def as_map(tokens: Tensor, images: Tensor) -> Tensor:
    h, w = images.shape[2] // 14, images.shape[3] // 14
    return tokens[:, 1:].permute(0, 2, 1).reshape(len(tokens), -1, h, w)


def dino_mix(tensors: dict[str, Tensor], images: Tensor, heads: int, offset: float) -> Tensor:
    """The authors' forward on DINOv2's hub code."""
    x = dinov2_slowly(tensors, "backbone.dino_model.", images, heads, offset)
    return mixed(tensors, as_map(x, images))


def lightning_file(tensors: dict[str, Tensor]) -> dict:
    """What Lightning puts around a model's tensors."""
    return {
        "epoch": 11,
        "global_step": 8592,
        "pytorch-lightning_version": "1.9.0",
        "state_dict": OrderedDict(tensors),
        "callbacks": {"ModelCheckpoint{'monitor': 'R1'}": {"best_model_score": torch.tensor(0.9)}},
        "optimizer_states": [{"state": {}, "param_groups": [{"lr": 0.005, "params": [0, 1]}]}],
        "lr_schedulers": [{"milestones": Counter({5: 1, 10: 1}), "gamma": 0.3}],
        "hparams_name": "kwargs",
        "hyper_parameters": {"backbone_arch": "dinov2_vits14", "milestones": [5, 10], "lr": 0.005},
    }


# DINO-Mix


def test_descriptors_equal_the_authors_code(tmp_path):
    tensors = random_tensors(dino_mix_shapes())
    torch.save(lightning_file(tensors), tmp_path / "dinov2_vits14_mix.ckpt")
    model = dinomix.load_published(tmp_path / "dinov2_vits14_mix.ckpt")
    assert not model.training
    images = torch.randn(2, 3, 224, 224)
    with torch.no_grad():
        descriptors = model(images)
        expected = dino_mix(tensors, images, heads=6, offset=0.1)
        elsewhere = dino_mix(tensors, images, heads=6, offset=0)
    assert descriptors.shape == (2, 32)
    torch.testing.assert_close(descriptors, expected, atol=1e-5, rtol=0)
    # Positions resized to the size, without the hub code's 0.1, would not do.
    assert (elsewhere - expected).abs().max() > 1e-3


@pytest.mark.filterwarnings("ignore:.*meta")
@pytest.mark.parametrize(
    ("size", "n", "depth", "d", "r", "side"),
    [
        ("s", 256, 2, 1024, 4, 224),
        ("b", 529, 0, 32, 4, 322),
        ("l", 256, 7, 64, 2, 224),
        ("g", 256, 2, 1024, 4, 224),
    ],
)
def test_shapes_tell_the_config(tmp_path, size, n, depth, d, r, side):
    model = load_shapes(tmp_path / "a.ckpt", dino_mix_shapes(size, n, depth, d, r))
    assert model.config == dinomix.ModelConfig(
        backbone=f"dinov2_vit{size}14",
        mix_depth=depth,
        out_channels=d,
        out_rows=r,
        image_size=side,
    )
    assert model.dim == d * r


@pytest.mark.filterwarnings("ignore:.*meta")
def test_the_release_has_189_tensors(tmp_path):
    shapes = dino_mix_shapes("b", d=1024, r=4)
    assert len(shapes) == 189
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 87_631_620
    model = load_shapes(tmp_path / "dinov2_vitb14_mix.ckpt", shapes)
    assert model.config == dinomix.PRESETS["dino_mix"]
    assert sum(p.numel() for p in model.parameters()) == 87_631_620 - 768  # the mask token


# MixVPR


def test_descriptors_equal_mixvpr(tmp_path):
    tensors = random_tensors(mixvpr_shapes(n=16, depth=2, d=8, r=2))
    counts = [key for key in tensors if key.endswith("num_batches_tracked")]
    del tensors[counts[0]], tensors[counts[-1]]  # older files lack them
    torch.save(tensors, tmp_path / "resnet50_MixVPR.ckpt")
    model = dinomix.load_published(tmp_path / "resnet50_MixVPR.ckpt")
    assert not model.training
    assert model.config.image_size == 64
    resnet = torchvision.models.resnet50(weights=None).eval()
    own = {k.removeprefix("backbone.model."): t for k, t in tensors.items() if "backbone" in k}
    missing, unexpected = resnet.load_state_dict(own, strict=False)
    assert not unexpected
    assert all(key.startswith(("layer4.", "fc.")) for key in missing)
    images = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        x = resnet.maxpool(resnet.relu(resnet.bn1(resnet.conv1(images))))
        expected = mixed(tensors, resnet.layer3(resnet.layer2(resnet.layer1(x))))
        torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=0)


@pytest.mark.filterwarnings("ignore:.*meta")
@pytest.mark.parametrize(("d", "r"), [(1024, 4), (256, 2), (64, 2)])
def test_mixvprs_three_releases(tmp_path, d, r):
    model = load_shapes(tmp_path / "a.ckpt", mixvpr_shapes(d=d, r=r))
    assert model.dim == d * r
    assert (model.config.image_size, model.backbone.grid) == (320, (20, 20))
    preset = dinomix.PRESETS["mixvpr_resnet50"].to_dict()
    assert model.config.to_dict() == {**preset, "out_channels": d, "out_rows": r}


# Convolutional networks of others


CHILDREN = {"conv1": 0, "bn1": 1, "layer1": 4, "layer2": 5, "layer3": 6, "layer4": 7}
INDEXED = {f"{name}.": f"{place}." for name, place in CHILDREN.items()}


def cnn(name: str) -> torch.nn.Module:
    """torchvision's network without numbers."""
    with torch.device("meta"):
        return getattr(torchvision.models, name)(weights=None).eval()


def cnn_names(name: str, stages: int, prefix: str, indexed: bool) -> dict[str, str]:
    """torchvision's names of what is before the map, and the names in a file."""
    keys = list(cnn(name).state_dict())
    if name == "vgg16":
        return {k: prefix + k.removeprefix("features.") for k in keys if "classifier" not in k}
    kept = tuple(INDEXED)[: 2 + stages]
    renamed = {
        k: INDEXED[f"{k.split('.')[0]}."] + k.split(".", 1)[1] for k in keys if "fc." not in k
    }
    return {k: prefix + (renamed[k] if indexed else k) for k in keys if k.startswith(kept)}


def cnn_map(tensors: dict[str, Tensor], name: str, names: dict[str, str], images: Tensor) -> Tensor:
    """torchvision's map, of a ResNet up to the last stage that the file has."""
    network = cnn(name)
    own = {k: tensors[theirs] for k, theirs in names.items()}
    network.load_state_dict(own, strict=False, assign=True)
    if name == "vgg16":
        return network.features[:29](images)  # its last convolution
    x = network.maxpool(network.relu(network.bn1(network.conv1(images))))
    for stage in sorted({k.split(".")[0] for k in names if k.startswith("layer")}):
        x = getattr(network, stage)(x)
    return x


def unit(x: Tensor) -> Tensor:
    return x / x.square().sum().sqrt()


def positions(maps: Tensor) -> list[list[Tensor]]:
    """The local descriptors of each image, one by one."""
    return [list(image.flatten(1).T) for image in maps]


def gem_slowly(locals_: list[Tensor], p: Tensor) -> Tensor:
    return (sum(x.clamp(min=1e-6) ** p for x in locals_) / len(locals_)) ** (1 / p)


def gem(head: dict[str, Tensor], maps: Tensor) -> Tensor:
    return torch.stack([unit(gem_slowly(image, head["p"])) for image in positions(maps)])


def gem_fc(head: dict[str, Tensor], maps: Tensor, gem: str = "1", fc: str = "3") -> Tensor:
    """Local descriptors of unit length, their generalised mean, a linear layer."""
    weight, bias, p = head[f"{fc}.weight"], head[f"{fc}.bias"], head[f"{gem}.p"]
    pooled = [gem_slowly([unit(x) for x in image], p) for image in positions(maps)]
    return torch.stack([unit(weight @ x + bias) for x in pooled])


def netvlad(head: dict[str, Tensor], maps: Tensor) -> Tensor:
    weight, centroids = head["conv.weight"][:, :, 0, 0], head["centroids"]
    descriptors = []
    for image in positions(maps):
        vlad = torch.zeros_like(centroids)
        for x in map(unit, image):
            for k, share in enumerate((weight @ x).softmax(0)):
                vlad[k] += share * (x - centroids[k])
        descriptors.append(unit(torch.cat([unit(row) for row in vlad])))
    return torch.stack(descriptors)


def convap(head: dict[str, Tensor], maps: Tensor) -> Tensor:
    """Fewer channels in each position, then the means of the map's quarters."""
    weight, bias = head["channel_pool.weight"][:, :, 0, 0], head["channel_pool.bias"]
    x = torch.einsum("ds,bshw->bdhw", weight, maps) + bias[:, None, None]
    rows, columns = x.shape[2] // 2, x.shape[3] // 2
    cells = [x[:, :, i : i + rows, j : j + columns] for i in (0, rows) for j in (0, columns)]
    x = torch.stack([cell.mean(dim=(2, 3)) for cell in cells], dim=2)  # (B, d, 4)
    return torch.stack([unit(image.flatten()) for image in x])


def attention(part: dict[str, Tensor], query: Tensor, x: Tensor, heads: int) -> Tensor:
    """Queries (m, c) look into x (n, c), one head after the other."""
    weights, biases = part["in_proj_weight"].chunk(3), part["in_proj_bias"].chunk(3)
    q, k, v = (y @ w.T + b for y, w, b in zip((query, x, x), weights, biases, strict=True))
    found = []
    for one in zip(*(y.chunk(heads, dim=1) for y in (q, k, v)), strict=True):
        found.append((one[0] @ one[1].T / one[0].shape[1] ** 0.5).softmax(dim=1) @ one[2])
    return torch.cat(found, dim=1) @ part["out_proj.weight"].T + part["out_proj.bias"]


def boq(head: dict[str, Tensor], maps: Tensor) -> Tensor:
    """Bag of queries: each block refines the positions, and its queries look into them."""

    def under(start: str) -> dict[str, Tensor]:
        return {k.removeprefix(start): t for k, t in head.items() if k.startswith(start)}

    def norm(x: Tensor, name: str) -> Tensor:
        centred = x - x.mean(1, keepdim=True)
        scaled = centred / (centred.square().mean(1, keepdim=True) + 1e-5).sqrt()
        return scaled * head[f"{name}.weight"] + head[f"{name}.bias"]

    def linear(x: Tensor, name: str) -> Tensor:
        return x @ head[f"{name}.weight"].T + head[f"{name}.bias"]

    channels = len(head["proj_c.bias"])
    heads = channels // 64
    descriptors = []
    for image in F.conv2d(maps, head["proj_c.weight"], head["proj_c.bias"], padding=1):
        x, answers = norm(image.flatten(1).T, "norm_input"), []
        for i in range(2):
            block = f"boqs.{i}"
            seen = attention(under(f"{block}.encoder.self_attn."), x, x, heads)
            x = norm(x + seen, f"{block}.encoder.norm1")
            hidden = linear(x, f"{block}.encoder.linear1").clamp(min=0)
            x = norm(x + linear(hidden, f"{block}.encoder.linear2"), f"{block}.encoder.norm2")
            q = head[f"{block}.queries"][0]
            q = norm(q + attention(under(f"{block}.self_attn."), q, q, heads), f"{block}.norm_q")
            answer = attention(under(f"{block}.cross_attn."), q, x, heads)
            answers.append(norm(answer, f"{block}.norm_out"))
        descriptors.append(unit(linear(torch.cat(answers).T, "fc").flatten()))
    return torch.stack(descriptors)


def boq_shapes(channels: int, c: int, queries: int, rows: int) -> dict[str, tuple[int, ...]]:
    with torch.device("meta"):
        encoder = torch.nn.TransformerEncoderLayer(c, 1, 4 * c).state_dict()
    attended = {k[10:]: t.shape for k, t in encoder.items() if k.startswith("self_attn.")}
    shapes = {"proj_c.weight": (c, channels, 3, 3), "proj_c.bias": (c,)}
    shapes |= {"norm_input.weight": (c,), "norm_input.bias": (c,)}
    for i in range(2):
        shapes[f"boqs.{i}.queries"] = (1, queries, c)
        shapes |= {f"boqs.{i}.encoder.{k}": tuple(t.shape) for k, t in encoder.items()}
        for name in ("self_attn", "cross_attn"):
            shapes |= {f"boqs.{i}.{name}.{k}": tuple(shape) for k, shape in attended.items()}
        for name in ("norm_q", "norm_out"):
            shapes |= {f"boqs.{i}.{name}.{part}": (c,) for part in ("weight", "bias")}
    shapes |= {"fc.weight": (rows, 2 * queries), "fc.bias": (rows,)}
    return {f"aggregator.{key}": shape for key, shape in shapes.items()}


def fc_shapes(channels: int, d: int, gem: str = "1", fc: str = "3") -> dict[str, tuple[int, ...]]:
    shapes = {f"{gem}.p": (1,), f"{fc}.weight": (d, channels), f"{fc}.bias": (d,)}
    return {f"aggregation.{key}": shape for key, shape in shapes.items()}


def vlad_shapes(channels: int, k: int) -> dict[str, tuple[int, ...]]:
    return {"aggregation.centroids": (k, channels), "aggregation.conv.weight": (k, channels, 1, 1)}


def convap_shapes(channels: int, d: int) -> dict[str, tuple[int, ...]]:
    weight = "aggregator.channel_pool.weight"
    return {weight: (d, channels, 1, 1), "aggregator.channel_pool.bias": (d,)}


# Network, its stages, how its names begin, whether they are indexed; aggregator, and its forward.
benchmark_fc = {"gem": "0.1", "fc": "1"}
CNNS = {
    "cosplace r18": ("resnet18", 4, "backbone.", True, fc_shapes(512, 8), gem_fc),
    "cosplace r50": ("resnet50", 4, "backbone.", True, fc_shapes(2048, 8), gem_fc),
    "cosplace r101": ("resnet101", 4, "backbone.", True, fc_shapes(2048, 8), gem_fc),
    "cosplace r152": ("resnet152", 4, "backbone.", True, fc_shapes(2048, 8), gem_fc),
    "cosplace vgg16": ("vgg16", 4, "backbone.", True, fc_shapes(512, 8), gem_fc),
    "convap": ("resnet50", 4, "backbone.model.", False, convap_shapes(2048, 8), convap),
    "boq": ("resnet50", 3, "backbone.net.", True, boq_shapes(1024, 128, 6, 4), boq),
    "netvlad r18": ("resnet18", 3, "backbone.", True, vlad_shapes(256, 5), netvlad),
    "netvlad r18 conv5": ("resnet18", 4, "backbone.", True, vlad_shapes(512, 5), netvlad),
    "netvlad r101": ("resnet101", 3, "backbone.", True, vlad_shapes(1024, 5), netvlad),
    "netvlad vgg16": ("vgg16", 4, "backbone.", True, vlad_shapes(512, 5), netvlad),
    "gem fc": (
        *("resnet18", 3, "backbone.", True, fc_shapes(256, 8, **benchmark_fc)),
        partial(gem_fc, **benchmark_fc),
    ),
    "gem fc conv5": (
        *("resnet18", 4, "backbone.", True, fc_shapes(512, 8, **benchmark_fc)),
        partial(gem_fc, **benchmark_fc),
    ),
    "gem": ("resnet18", 4, "backbone.model.", False, {"aggregator.p": (1,)}, gem),
}


def cnn_shapes(name: str, *layout: object, head: dict) -> dict[str, tuple[int, ...]]:
    own = cnn(name).state_dict()
    return {theirs: tuple(own[k].shape) for k, theirs in cnn_names(name, *layout).items()} | head


# Larger ones than others of the same layout, or made of two parts that others have.
LARGE = ("cosplace r50", "cosplace r101", "cosplace r152", "netvlad r101", "netvlad vgg16")


@pytest.mark.parametrize(
    "case", [pytest.param(c, marks=[pytest.mark.slow] * (c in LARGE)) for c in CNNS]
)
def test_descriptors_equal_those_of_other_cnns(tmp_path, case):
    *layout, head, forward = CNNS[case]
    tensors = random_tensors(cnn_shapes(*layout, head=head))
    torch.save(tensors, tmp_path / "a.pth")
    model = load_published(tmp_path / "a.pth")
    assert not model.training
    images = 30 * torch.randn(2, 3, 64, 128)  # as random weights weaken them layer by layer
    with torch.no_grad():
        maps = cnn_map(tensors, layout[0], cnn_names(*layout), images)
        part = {k.split(".", 1)[1]: tensors[k] for k in head}
        expected = forward(part, maps)
        torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=0)
    assert (expected[0] - expected[1]).norm() > 1e-3


def test_descriptors_equal_boq_on_dinov2(tmp_path):
    vit = dinov2_shapes("dinov2_vits14")  # with the last norm, which BoQ does not use
    head = boq_shapes(384, 192, 6, 4)
    shapes = {f"backbone.dino.{k}": shape for k, shape in vit.items()} | head
    tensors = random_tensors(shapes)
    torch.save(tensors, tmp_path / "dinov2.pth")
    model = load_published(tmp_path / "dinov2.pth")
    assert model.config.image_size == 322
    images = torch.randn(2, 3, 56, 70)
    with torch.no_grad():
        maps = as_map(dinov2_slowly(tensors, "backbone.dino.", images, heads=6), images)
        expected = boq({k.split(".", 1)[1]: tensors[k] for k in head}, maps)
        torch.testing.assert_close(model(images), expected, atol=1e-5, rtol=0)
    del shapes["backbone.dino.norm.bias"]
    with pytest.raises(ValueError, match=r"missing backbone\.dino\.norm\.bias"):
        load_shapes(tmp_path / "a.pth", shapes)


# SALAD, CliqueMining and MegaLoc


def salad_shapes(
    channels: int, m: int, cluster_dim: int, g: int, hidden: int, start: str = "aggregator."
) -> dict[str, tuple[int, ...]]:
    shapes = {"dust_bin": ()}
    for name, inputs, outputs, kernel in (
        *(("token_features.0", channels, hidden, ()), ("token_features.2", hidden, g, ())),
        ("cluster_features.0", channels, hidden, (1, 1)),
        ("cluster_features.3", hidden, cluster_dim, (1, 1)),
        *(("score.0", channels, hidden, (1, 1)), ("score.3", hidden, m, (1, 1))),
    ):
        shapes |= {f"{name}.weight": (outputs, inputs, *kernel), f"{name}.bias": (outputs,)}
    return {start + key: shape for key, shape in shapes.items()}


def salad(head: dict[str, Tensor], tokens: Tensor) -> Tensor:
    """Sinkhorn's scaling of exp(scores) as the paper has it, not in logarithms, one image each."""
    head = {k: t.double() for k, t in head.items()}

    def mlp(x: Tensor, name: str, last: int) -> Tensor:
        for layer in (0, last):
            weight = head[f"{name}.{layer}.weight"].flatten(1)
            x = (x.clamp(min=0) if layer else x) @ weight.T + head[f"{name}.{layer}.bias"]
        return x

    descriptors = []
    for token, *patches in tokens.double():
        x = torch.stack(patches)  # (n, s)
        scores, features = mlp(x, "score", 3), mlp(x, "cluster_features", 3)
        n, m = scores.shape
        kernel = torch.cat([scores, head["dust_bin"].expand(n, 1)], dim=1).exp()
        takes, gives = torch.ones(m + 1).double(), torch.ones(n).double()
        takes[-1], of_tokens = n - m, torch.ones(n).double()
        for _ in range(3):
            of_clusters = takes / (kernel.T @ of_tokens)
            of_tokens = gives / (kernel @ of_clusters)
        plan = of_tokens[:, None] * kernel * of_clusters
        entries = torch.zeros(features.shape[1], m).double()
        for k in range(m):
            entries[:, k] = unit(sum(plan[i, k] * features[i] for i in range(n)))
        token = unit(mlp(token, "token_features", 2))
        descriptors.append(unit(torch.cat([token, entries.flatten()])))
    return torch.stack(descriptors)


@pytest.mark.parametrize(
    ("trunk", "start", "mask"),
    [
        ("backbone.model.", "aggregator.", True),  # SALAD and CliqueMining
        ("backbone.model.", "aggregator.agg.", True),  # MegaLoc, until 2026
        ("backbone.", "aggregator.agg.", False),  # MegaLoc
    ],
)
def test_descriptors_equal_salad_and_megaloc(tmp_path, trunk, start, mask):
    vit = dinov2_shapes("dinov2_vits14")
    shapes = {f"{trunk}{k}": s for k, s in vit.items() if mask or k != "mask_token"}
    shapes |= (head := salad_shapes(384, 5, 7, 6, 16, start))
    if start == "aggregator.agg.":
        shapes |= {"aggregator.linear.weight": (9, 41), "aggregator.linear.bias": (9,)}
    tensors = random_tensors(shapes)
    torch.save(lightning_file(tensors), tmp_path / "a.ckpt")
    model = load_published(tmp_path / "a.ckpt")
    images = torch.randn(2, 3, 56, 42)
    with torch.no_grad():
        tokens = dinov2_slowly(tensors, trunk, images, heads=6)
        norm = (tensors[f"{trunk}norm.{part}"] for part in ("weight", "bias"))
        tokens = F.layer_norm(tokens, (384,), *norm, eps=1e-6)
        expected = salad({k.removeprefix(start): tensors[k] for k in head}, tokens)
        if start == "aggregator.agg.":
            weight, bias = tensors["aggregator.linear.weight"], tensors["aggregator.linear.bias"]
            expected = torch.stack([unit(weight @ x + bias) for x in expected.float()])
        torch.testing.assert_close(model(images), expected.float(), atol=1e-5, rtol=0)
    assert (expected[0] - expected[1]).norm() > 1e-2


def vitb(trunk: str, *without: str) -> dict[str, tuple[int, ...]]:
    shapes = dinov2_shapes("dinov2_vitb14").items()
    return {f"{trunk}{key}": shape for key, shape in shapes if key not in without}


MEGALOC = salad_shapes(768, 64, 256, 256, 512, "aggregator.agg.")
MEGALOC |= {"aggregator.linear.weight": (8448, 16640), "aggregator.linear.bias": (8448,)}


@pytest.mark.filterwarnings("ignore:.*meta")
@pytest.mark.parametrize(
    ("shapes", "count", "numbers", "dim", "size"),
    [
        (cnn_shapes(*CNNS["cosplace r18"][:4], head=fc_shapes(512, 512)), 123, 11_448_769, 512, 0),
        (
            *(cnn_shapes(*CNNS["cosplace r50"][:4], head=fc_shapes(2048, 2048)), 321),
            *(27_757_505, 2048, 0),
        ),
        (cnn_shapes(*CNNS["cosplace vgg16"][:4], head=fc_shapes(512, 512)), 29, 14_977_345, 512, 0),
        (
            *(cnn_shapes(*CNNS["convap"][:4], head=convap_shapes(2048, 2048)), 320),
            *(27_757_504, 8192, 320),
        ),
        (
            *(cnn_shapes(*CNNS["boq"][:4], head=boq_shapes(1024, 512, 64, 32)), 314),
            *(23_875_040, 16384, 384),
        ),
        (vitb("backbone.dino.") | boq_shapes(768, 384, 64, 32), 231, 95_206_560, 12288, 322),
        (
            vitb("backbone.model.") | salad_shapes(768, 64, 128, 256, 512),
            188,
            87_991_489,
            8448,
            322,
        ),
        (vitb("backbone.model.") | MEGALOC, 190, 228_640_321, 8448, 322),
        (vitb("backbone.", "mask_token") | MEGALOC, 189, 228_639_553, 8448, 322),
    ],
)
def test_the_releases_of_others(tmp_path, shapes, count, numbers, dim, size):
    real = [torch.Size(s).numel() for k, s in shapes.items() if not k.endswith("tracked")]
    assert (len(shapes), sum(real)) == (count, numbers)
    model = load_shapes(tmp_path / "a.pth", shapes)
    assert (model.dim, model.config.image_size) == (dim, size or (480, 640))


# What does not fit


DINO, MIX, RESNET = "backbone.dino_model.", "aggregator.", "backbone.model."


def case_shapes(case: str) -> dict[str, tuple[int, ...]]:
    *layout, head, _ = CNNS[case]
    return cnn_shapes(*layout, head=head)


COSPLACE, VLAD, VGG, BOQ = map(
    partial(partial, case_shapes), ("cosplace r18", "netvlad r18", "cosplace vgg16", "boq")
)


@pytest.mark.parametrize(
    ("layout", "name", "shape", "problem"),
    [
        *(
            (layout, name, None, "missing {name}")
            for layout, name in (
                (partial(dino_mix_shapes, "g"), f"{DINO}blocks.39.mlp.w12.bias"),  # SwiGLU's
                (dino_mix_shapes, f"{DINO}cls_token"),
                (dino_mix_shapes, f"{DINO}mask_token"),
                (dino_mix_shapes, f"{MIX}mix.1.mix.3.bias"),
                (dino_mix_shapes, f"{MIX}channel_proj.weight"),
                (dino_mix_shapes, f"{MIX}row_proj.weight"),
                (mixvpr_shapes, f"{RESNET}bn1.running_var"),
                (COSPLACE, "backbone.7.1.bn2.running_mean"),
                *((shapes, "aggregation.3.weight") for shapes in (COSPLACE, VGG)),
                (VGG, "backbone.28.bias"),
                (VLAD, "aggregation.conv.weight"),
                (BOQ, "aggregator.boqs.1.cross_attn.out_proj.bias"),
            )
        ),
        (dino_mix_shapes, f"{DINO}norm.weight", (3,), "unexpected {name}"),
        (dino_mix_shapes, "loss_fn.margin", (3,), "unexpected {name}"),
        (VLAD, "backbone.6.0.bn3.bias", (3,), "unexpected {name}"),
        (VLAD, "aggregation.conv.bias", (5,), "unexpected {name}"),
        (COSPLACE, "aggregation.1.p", (512,), "expected (1,)"),
        (VLAD, "aggregation.conv.weight", (5, 256, 3, 3), "expected (5, 256)"),
        (mixvpr_shapes, f"{RESNET}layer4.0.conv1.weight", (3,), "unexpected {name}"),
        (dino_mix_shapes, f"{DINO}pos_embed", (1, 257, 384), "expected (1, 1370, 384)"),
        (dino_mix_shapes, f"{DINO}mask_token", (1, 385), "expected (1, 384)"),
        (dino_mix_shapes, f"{MIX}mix.0.mix.1.weight", (512, 256), "expected (256, 256)"),
        (dino_mix_shapes, f"{MIX}row_proj.bias", (1,), "expected (4,)"),
        (mixvpr_shapes, f"{RESNET}conv1.weight", (64, 3, 3, 3), "expected (64, 3, 7, 7)"),
    ],
)
def test_a_tensor_that_does_not_fit_is_named(tmp_path, layout, name, shape, problem):
    shapes = layout() | {name: shape}
    if shape is None:
        del shapes[name]
    if problem.startswith("expected"):
        problem = f"{name} is {shape}, {problem}"
    with pytest.raises(ValueError, match=r"a\.ckpt does not fit") as error:
        load_shapes(tmp_path / "a.ckpt", shapes)
    assert str(error.value).splitlines()[1:] == [f"  {problem.format(name=name)}"]


@pytest.mark.parametrize(
    ("name", "shape", "complaints"),
    [
        ("channel_proj.weight", (8, 400), ["{} is (8, 400), expected (8, 384)"]),
        ("row_proj.weight", (4,), ["{} is (4,), expected 2 axes or more"]),
        ("row_proj.weight", (4, 255), ["{} is (4, 255)", "255 positions are no square"]),
        # for another grid: with what contradicts it
        ("row_proj.weight", (4, 529), ["{}, (4, 529)", "mix.0.mix.0.bias is (256,), expected"]),
    ],
)
def test_shapes_that_no_model_has(tmp_path, name, shape, complaints):
    shapes = {**dino_mix_shapes(), f"{MIX}{name}": shape}
    with pytest.raises(ValueError) as error:
        load_shapes(tmp_path / "a.ckpt", shapes)
    assert all(words.format(f"{MIX}{name}") in str(error.value) for words in complaints)


@pytest.mark.parametrize(
    ("shapes", "complaint"),
    [
        (case_shapes("cosplace r18") | {"backbone.6.2.bn1.bias": (1,)}, "6.* goes on in 3 ways"),
        (vitb("backbone.dino.") | boq_shapes(768, 200, 6, 4), "BoQ cannot share out 200 channels"),
    ],
)
def test_names_and_shapes_that_no_method_has(tmp_path, shapes, complaint):
    with pytest.raises(ValueError, match=r"a\.pth does not fit") as error:
        load_shapes(tmp_path / "a.pth", shapes)
    assert complaint in str(error.value)


def test_every_layout_is_in_the_table_of_models():
    table = published_models()
    methods = set(table["method"])
    assert {name for layout in LAYOUTS for name in layout.method.split(" or ")} == methods
    named = table.query("file != ''")
    assert named["name"].is_unique and named["file"].is_unique
    assert {"dino-mix", "megaloc", "boq-resnet50", "cosplace-vgg16-64"} <= set(named["name"])
    eigenplaces = table[table["name"] == "eigenplaces-resnet50-1024"].squeeze()
    assert eigenplaces["dimension"] == "1024"
    assert eigenplaces["file"] == "ResNet50_1024_eigenplaces.pth"
    for row in named.query("url != ''").itertuples():
        assert row.url.startswith(f"{row.source}/releases/download/v1.0")
        assert row.url.endswith(f"/{row.file}") and row.licence != "none stated"


@pytest.mark.parametrize(
    ("shapes", "seen"),
    [
        ({"module.conv.weight": (3,), "module.conv.bias": (3,)}, "2 tensors: module.conv (2)"),
        ({}, "0 tensors: none"),
    ],
)
def test_another_layout(tmp_path, shapes, seen):
    with pytest.raises(ValueError, match="in no published layout") as error:
        load_shapes(tmp_path / "a.ckpt", shapes)
    assert seen in str(error.value) and "DINO-Mix (backbone.dino_model.*" in str(error.value)


@pytest.mark.parametrize(
    ("shapes", "reason"),
    [
        (
            {"module.encoder.layers.0.norm1.bias": (1,), "module.aggregation.1.p": (1,)},
            "CricaVPR.* depends on the others",
        ),
        ({"aggregation.1.p": (1,)}, "GeM without a linear layer.* descriptors differ in length"),
    ],
)
def test_what_cannot_be_given_as_its_authors_do_is_refused_with_the_reason(
    tmp_path, shapes, reason
):
    with pytest.raises(ValueError, match=rf"a\.ckpt holds .*{reason}"):
        load_shapes(tmp_path / "a.ckpt", {"module.backbone.cls_token": (3,)} | shapes)


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "backbone.", "net.module."])
def test_a_common_prefix_is_cut_and_said(tmp_path, prefix):
    shapes = {f"{prefix}{key}": shape for key, shape in mixvpr_shapes().items()}
    with pytest.warns(UserWarning, match=f"a.ckpt: .* without their prefix '{prefix}', 0 left out"):
        model = load_shapes(tmp_path / "a.ckpt", shapes)
    assert model.config.aggregator == "mix" and model.dim == 4096
    twice = shapes | {f"ema.{key}": shape for key, shape in mixvpr_shapes().items()}
    with pytest.raises(ValueError, match=r"in no published layout.* ema\.") as error:
        load_shapes(tmp_path / "a.ckpt", twice)  # which of the two is meant?
    assert len(str(error.value).splitlines()) <= 10


def test_the_nearest_layout_is_found_behind_a_prefix(tmp_path):
    path = tmp_path / "gem.pt"  # has nothing of the mixer, whose name would tell the prefix
    torch.save({"module.backbone.trunk.cls_token": torch.zeros(1, 1, 4)}, path)
    with pytest.raises(ValueError, match=r"nearest is dinomix\. It holds 1 .*module\.backbone"):
        dinomix.load_published(path)


def test_tensors_of_our_own_go_straight_to_a_model(tmp_path):
    """What one function says that another one reads, that other one reads."""
    torch.manual_seed(0)
    config = dinomix.ModelConfig(backbone="toy_vits14", image_size=28, out_channels=4)
    model = dinomix.build_model(config)
    path = tmp_path / "own.pt"
    torch.save(model.state_dict(), path)
    for load in (dinomix.load_published, dinomix.open_model, dinomix.load_model):
        with pytest.raises(ValueError, match=r"own\.pt .*load_model\(path, config\)"):
            load(path)
    with pytest.raises(ValueError, match=r"nearest is dinomix\. It holds .* backbone\.trunk \("):
        dinomix.load_published(path)
    images = torch.randn(1, 3, 28, 28)
    assert torch.equal(dinomix.load_model(path, config)(images), model.eval()(images))
    other = dinomix.ModelConfig(backbone="toy_vits14", image_size=28, out_channels=8)
    with pytest.raises(
        ValueError, match=r"(?s)own\.pt.*does not fit.*is \(4, 96\), expected \(8, 96\)"
    ):
        dinomix.load_model(path, other)
    torch.save({"model": {f"module.{k}": t for k, t in model.state_dict().items()}}, path)
    with pytest.warns(UserWarning) as told:
        assert torch.equal(dinomix.load_model(path, config)(images), model(images))
    assert ["model is read" in str(w.message) or "'module.'" in str(w.message) for w in told] == [
        True
    ] * 2


@pytest.mark.parametrize(
    ("name", "complaint"),
    [
        ("no.ckpt", r"no file of weights at no\.ckpt"),
        ("salda", "no published model has that name: did you mean 'salad'"),
        ("./salad", "no file of weights at salad"),
        ("NetVLAD of the benchmark", "no file of weights"),  # in the table, by path alone
    ],
)
def test_neither_a_file_nor_a_name(tmp_path, monkeypatch, name, complaint):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match=complaint):
        load_published(name)


# By name


@pytest.fixture
def release(tmp_path, monkeypatch):
    """Say where the file of the model "made" is published; the data folder and torch.hub's."""
    monkeypatch.setenv("DINOMIX_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    row = published_models().iloc[:1].assign(name="made", file="made.ckpt", licence="X11")

    def publish(url: str, sha256: str = "") -> None:
        table = row.assign(url=url, sha256=sha256)
        monkeypatch.setattr("dinomix.exchange.published.published_models", lambda: table)

    return publish


def test_a_name_is_downloaded_once(tmp_path, release, capsys):
    torch.save(tensors := random_tensors(case_shapes("cosplace r18")), tmp_path / "a")
    digest = hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()
    release((tmp_path / "a").as_uri(), digest[:8])
    model = load_published("made")
    assert model.aggregator.proj.bias.equal(tensors["aggregation.3.bias"])
    told = capsys.readouterr().err
    assert f"made.ckpt from {(tmp_path / 'a').as_uri()}, licence: X11" in told
    (tmp_path / "a").unlink()
    assert load_published("made").config == model.config  # without its source
    assert capsys.readouterr().err == ""
    lying = list((tmp_path / "data" / "checkpoints").iterdir())
    assert [path.name for path in lying] == ["made.ckpt"]
    # torch.hub's own folder serves as well
    kept = tmp_path / "torch" / "hub" / "checkpoints" / "made.ckpt"
    kept.parent.mkdir(parents=True)
    lying[0].rename(kept)
    assert load_published("made").config == model.config


class Server(BaseHTTPRequestHandler):
    """A path says what goes wrong with a file of tensors."""

    def do_GET(self):
        if self.path == "/gone":
            return self.send_error(404)
        file = io.BytesIO()
        torch.save({"a": torch.zeros(1000)}, file)
        body = file.getvalue()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        html = b"<html>please log in</html>".ljust(len(body))
        sent = {"/whole": body, "/cut": body[: len(body) // 2], "/html": html}
        self.wfile.write(sent[self.path])

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def server():
    with HTTPServer(("127.0.0.1", 0), Server) as made:
        thread = threading.Thread(target=made.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{made.server_port}"
        made.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "sha256", "reason"),
    [
        ("/cut", "", r"made\.ckpt is damaged"),
        ("/html", "", r"made\.ckpt is damaged"),
        ("/whole", "0123abcd", "invalid hash value"),
        ("/gone", "", "404"),
        (None, "", "refused"),  # no network
    ],
)
def test_a_download_that_fails_leaves_nothing(tmp_path, release, server, path, sha256, reason):
    url = f"{server}{path}" if path else "http://127.0.0.1:1/made.ckpt"
    release(url, sha256)
    folder = tmp_path / "data" / "checkpoints"
    with pytest.raises(HubError, match=rf"{url} gave no whole file .*{reason}") as error:
        load_published("made")
    assert str(error.value).endswith(
        f"get made.ckpt from https://github.com/GaoShuang98/DINO-Mix and put it into {folder}"
    )
    assert not list(folder.iterdir())


def test_without_a_direct_link_it_says_what_to_put_where(tmp_path, release):
    release(url="")
    folder = tmp_path / "data" / "checkpoints"
    with pytest.raises(HubError, match=rf"no direct link.*made\.ckpt .*put it into {folder}"):
        load_published("made")


def test_the_table_tells_what_lies_in_the_data_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("DINOMIX_DATA", str(tmp_path))
    assert not published_models()["here"].any()
    path = tmp_path / "checkpoints" / "megaloc.torch"
    path.parent.mkdir()
    path.touch()
    (path.parent / "mine.pth").touch()
    here = published_models().set_index("name")["here"]
    assert here[here != ""].to_dict() == {"megaloc": str(path)}
    assert files_here(tmp_path) == {"megaloc": path, "mine.pth": path.with_name("mine.pth")}
