"""Mixer and GeM against loops written from their formulas; what all aggregators share."""

import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch import Tensor

from dinomix.aggregators import (
    AGGREGATORS,
    SALAD,
    Aggregator,
    BoQ,
    ConvAP,
    CosPlaceHead,
    FeatureMixer,
    GeM,
    NetVLAD,
    build_aggregator,
)
from tests.aggregators.slowly import assert_equal, scrambled, unit

# Options that make each small; also for the model's tests.
SMALL = {
    "netvlad": {"clusters": 4},
    "salad": {"clusters": 5, "cluster_dim": 3, "token_dim": 4, "hidden": 16},
    "boq": {"channels": 32, "queries": 3, "row_dim": 2},
}


def mix_slowly(image_maps: Tensor, tensors: dict[str, Tensor], depth: int) -> list[float]:
    """Eq. 2-6 for one image's maps (s, h, w), in Python numbers."""
    x = [row.flatten().tolist() for row in image_maps]
    p = {key: tensor.tolist() for key, tensor in tensors.items()}
    n = len(x[0])
    for layer in range(depth):
        name = f"mix.{layer}.mix"
        for channel, row in enumerate(x):
            mean = sum(row) / n
            variance = sum((v - mean) ** 2 for v in row) / n
            normed = [
                (v - mean) / math.sqrt(variance + 1e-5) * p[f"{name}.0.weight"][i]
                + p[f"{name}.0.bias"][i]
                for i, v in enumerate(row)
            ]
            hidden = [
                max(0.0, sum(p[f"{name}.1.weight"][j][i] * normed[i] for i in range(n)) + bias)
                for j, bias in enumerate(p[f"{name}.1.bias"])
            ]
            x[channel] = [
                row[j] + sum(p[f"{name}.3.weight"][j][i] * hidden[i] for i in range(n)) + bias
                for j, bias in enumerate(p[f"{name}.3.bias"])
            ]
    out = []
    for c, channel_bias in enumerate(p["channel_proj.bias"]):
        weights = p["channel_proj.weight"][c]
        row = [sum(weights[s] * x[s][i] for s in range(len(x))) + channel_bias for i in range(n)]
        for r, row_bias in enumerate(p["row_proj.bias"]):
            # Entry c * r + i: all rows of one channel, then the next channel.
            out.append(sum(p["row_proj.weight"][r][i] * row[i] for i in range(n)) + row_bias)
    return unit(out)


@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("grid", [(3, 3), (2, 5)])
def test_mixer_equals_the_formulas(depth, grid):
    mixer = scrambled(FeatureMixer(6, grid, mix_depth=depth, out_channels=4, out_rows=3))
    maps = torch.randn(2, 6, *grid, dtype=torch.float64)
    out = mixer(maps)
    assert out.shape == (2, 12)
    assert_equal(out, [mix_slowly(image_maps, mixer.state_dict(), depth) for image_maps in maps])


@pytest.mark.parametrize(
    ("build", "parameters", "dim"),
    [
        *(
            (lambda depth=depth: FeatureMixer(768, (16, 16), mix_depth=depth), parameters, 4096)
            for depth, parameters in enumerate((788_484, 920_580, 1_052_676, 1_184_772, 1_316_868))
        ),
        (lambda: ConvAP(2048), 1_049_088, 2048),
        # A ResNet-50's channels to as many: one linear layer, and GeM's exponent.
        (lambda: CosPlaceHead(2048, out_channels=2048), 2048 * 2048 + 2048 + 1, 2048),
        # VGG-16's channels, 64 clusters, before any PCA.
        (lambda: NetVLAD(512), 2 * 64 * 512 + 64, 32_768),
        # ViT-B: three networks with 512 hidden channels, to 64, 128 and 256, and the dustbin.
        (lambda: SALAD(768), 1_411_009, 8448),
        # ViT-B, and a ResNet-50's third stage: 64 queries in each of two blocks.
        (lambda: BoQ(768, channels=384), 8_626_080, 12_288),
        (lambda: BoQ(1024), 15_301_152, 16_384),
    ],
)
def test_parameters_of_the_papers_aggregators(build, parameters, dim):
    aggregator = build()
    assert (sum(p.numel() for p in aggregator.parameters()), aggregator.dim) == (parameters, dim)


def test_initial_weights_of_the_mixer():
    torch.manual_seed(0)
    mixer = FeatureMixer(64, (16, 16), mix_depth=2, out_channels=100, out_rows=4)
    for layer in mixer.mix:
        for linear in (layer.mix[1], layer.mix[3]):
            assert linear.bias.abs().max() == 0
            assert linear.weight.std().item() == pytest.approx(0.02, rel=0.02)
        assert torch.equal(layer.mix[0].weight, torch.ones(256))
    # PyTorch's default: uniform within 1/sqrt(inputs), biases too.
    for projection in (mixer.channel_proj, mixer.row_proj):
        limit = projection.in_features**-0.5
        assert 0.9 * limit < projection.weight.abs().max() <= limit
        assert projection.bias.abs().max() > 0


@pytest.mark.parametrize("grid", [(4, 4), (3, 2), (1, 6)])
def test_another_grid_is_refused(grid):
    mixer = FeatureMixer(8, (2, 3))  # (3, 2) and (1, 6) have as many positions
    with pytest.raises(ValueError, match=f"2x3, not {grid[0]}x{grid[1]}: .*image_size"):
        mixer(torch.randn(1, 8, *grid))


def gem_slowly(image_maps: Tensor, p: float, eps: float = 1e-6) -> list[float]:
    channels = [[max(v, eps) ** p for v in row] for row in image_maps.flatten(1).tolist()]
    return unit((sum(values) / len(values)) ** (1 / p) for values in channels)


@pytest.mark.parametrize("p", [1.0, 3.0, 6.5])
def test_gem_equals_its_formula(p):
    maps = torch.randn(2, 5, 3, 4, dtype=torch.float64)
    assert_equal(GeM(5, p=p).double()(maps), [gem_slowly(image_maps, p) for image_maps in maps])


def test_gem_learns_its_exponent_and_survives_flat_maps():
    gem = GeM(4)
    assert [p.item() for p in gem.parameters()] == [3.0]
    gem(torch.randn(2, 4, 3, 3))[:, 0].sum().backward()
    assert gem.p.grad.abs() > 0
    flat = -torch.ones(1, 4, 2, 2)  # all clamped
    torch.testing.assert_close(gem(flat), torch.full((1, 4), 0.5))


def test_gem_of_a_half_precision_model_does_not_overflow():
    maps = 60 * torch.randn(2, 4, 5, 5).half()  # the cubes do not fit float16
    out = GeM(4).half()(maps)
    torch.testing.assert_close(out, GeM(4)(maps.float()))


# What holds for all of them


def small(name: str, grid: tuple[int, int] = (3, 4)) -> Aggregator:
    settings = {"mix_depth": 1, "out_channels": 6, "out_rows": 2}
    return build_aggregator(name, 8, grid, **settings, **SMALL.get(name, {}))


def inputs(aggregator: Aggregator, batch: int, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Maps, and class tokens for those that take them."""
    maps = torch.randn(batch, 8, 3, 4, dtype=dtype)
    return [maps, torch.randn(batch, 8, dtype=dtype)] if aggregator.takes_token else [maps]


@pytest.mark.parametrize("name", AGGREGATORS)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_descriptors_have_unit_length_in_float32_under_autocast(name, dtype):
    aggregator = small(name)
    images = inputs(aggregator, 5, dtype)
    with torch.autocast("cpu", dtype=dtype):
        out = aggregator(*images)
    assert out.dtype == torch.float32
    assert out.shape == (5, aggregator.dim)
    torch.testing.assert_close(out.norm(dim=1), torch.ones(5), atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_other_precisions_give_about_the_same(name):
    aggregator = small(name).eval()
    images = inputs(aggregator, 5)
    out = aggregator(*images)
    exact = aggregator.double()(*(x.double() for x in images))
    assert exact.dtype == torch.float64
    torch.testing.assert_close(out.double(), exact, atol=1e-5, rtol=0)
    rough = aggregator.bfloat16()(*(x.bfloat16() for x in images))
    assert rough.dtype == torch.float32
    assert (rough * out).sum(dim=1).min() > 0.99


# A constant added to a column of scores is what Sinkhorn's first step takes away again.
NO_INFLUENCE = {"salad": {"dustbin", "score.3.bias"}}


@pytest.mark.parametrize("name", AGGREGATORS)
def test_every_parameter_gets_a_gradient(name):
    aggregator = small(name).double()
    images = [x.requires_grad_() for x in inputs(aggregator, 4, torch.float64)]
    out = aggregator(*images)
    (out * torch.randn_like(out)).sum().backward()
    gradients = {key: p.grad for key, p in aggregator.named_parameters()}
    gradients |= {f"input {i}": x.grad for i, x in enumerate(images)}
    assert all(gradient.isfinite().all() for gradient in gradients.values())
    idle = {key for key, gradient in gradients.items() if gradient.abs().max() < 1e-12}
    assert idle == NO_INFLUENCE.get(name, set())


@pytest.mark.parametrize("name", AGGREGATORS)
def test_descriptors_do_not_depend_on_the_batch(name):
    aggregator = small(name).eval()
    images = inputs(aggregator, 6)
    with torch.no_grad():
        together = aggregator(*images)
        apart = torch.cat([aggregator(*(x[i : i + 1] for x in images)) for i in range(6)])
    assert (together[0] - together[1]).abs().max() > 1e-3  # they do tell images apart
    torch.testing.assert_close(together, apart, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", sorted(AGGREGATORS.keys() - {"mix"}))
def test_other_grids_fit_all_but_the_mixer(name):
    aggregator = small(name)
    images = inputs(aggregator, 2)
    images[0] = torch.randn(2, 8, 5, 3)
    assert aggregator(*images).shape == (2, aggregator.dim)


@pytest.mark.parametrize("name", AGGREGATORS)
def test_only_netvlad_has_to_see_features_and_the_mixer_may(name):
    aggregator = small(name)
    before = {key: tensor.clone() for key, tensor in aggregator.state_dict().items()}
    aggregator.initialise(torch.randn(3, 8, 3, 4))
    changed = {key for key, t in aggregator.state_dict().items() if not torch.equal(t, before[key])}
    assert bool(changed) == (name in ("netvlad", "mix"))
    assert aggregator.needs_features == (name == "netvlad")


@pytest.mark.parametrize(
    ("h", "w", "blocks"),
    [
        *((h, w, [[0, 1], [2, 3]]) for h, w in ((4, 6), (5, 5), (2, 3))),
        *((h, w, [[0], [1]]) for h, w in ((4, 6), (5, 5), (2, 3))),
        (1, 3, [[0, 1]]),
        (5, 4, [[0, 1], [2, 3], [4, 5]]),
        (1, 3, [[0]]),
    ],
)
def test_a_mixer_that_saw_images_averages_whitened_channels_in_blocks(h, w, blocks):
    """Blocks of a grid that r does not divide share the rows and columns between them."""
    channels, kept, grid, rows = 5, 4, (h, w), sum(map(len, blocks))
    maps = torch.randn(40, channels, *grid) @ torch.randn(w, w) + torch.randn(channels, 1, 1)
    mixer, wide = (FeatureMixer(channels, grid, 2, d, rows) for d in (kept, 12))
    mixer.initialise(maps)
    descriptors = mixer.pool(maps).reshape(40, kept, rows).detach().double().numpy()

    points = maps.double().permute(0, 2, 3, 1).reshape(-1, channels).numpy()
    whitened = PCA(whiten=True).fit_transform(points).reshape(40, *grid, channels)
    down, across, means = len(blocks), len(blocks[0]), []
    for i in range(rows):
        y, x = next((y, x) for y in range(down) for x in range(across) if blocks[y][x] == i)
        part = whitened[:, y * h // down : -(-(y + 1) * h // down)]
        part = part[:, :, x * w // across : -(-(x + 1) * w // across)]
        mean = part.mean(axis=(1, 2))  # (40, channels); an axis has no sign
        assert np.abs(descriptors[:, :, i]) == pytest.approx(np.abs(mean[:, :kept]), abs=1e-4)
        means.append(mean)

    # More channels than the maps have: their inner products, and no two channels alike.
    wide.initialise(maps)
    products = sum(mean @ mean.T for mean in means)  # (40, 40)
    described = wide.pool(maps).detach().double()
    assert (described @ described.T).numpy() == pytest.approx(products, abs=1e-3)
    assert len(wide.channel_proj.weight.unique(dim=0)) == 12


def test_a_mixer_whose_map_has_too_few_blocks_says_so():
    for rows, grid in ((4, (1, 3)), (11, (5, 5))):
        with pytest.raises(ValueError, match=f"no {rows} blocks to start from: choose other out_r"):
            FeatureMixer(4, grid, 1, 8, rows).initialise(torch.randn(9, 4, *grid))


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("netvlad", "clusters", 1),
        ("convap", "pool_rows", 0),
        ("convap", "pool_columns", 2.0),
        *(("salad", option, 0) for option in ("clusters", "token_dim", "iterations")),
        *(
            ("salad", "cluster_dim", -1),
            ("salad", "projected", -1),
            ("salad", "hidden", "512"),
            ("boq", "layers", True),
        ),
        *(("boq", option, 0) for option in ("channels", "queries", "row_dim")),
    ],
)
def test_a_wrong_size_is_named(name, option, value):
    with pytest.raises(ValueError, match=rf"^{option} must be an integer of .*, not {value!r}"):
        build_aggregator(name, 8, (3, 4), **{option: value})


def test_build_aggregator_passes_what_each_takes():
    mixer = build_aggregator("mix", 8, (2, 3), mix_depth=1, out_channels=5, out_rows=2)
    assert (len(mixer.mix), mixer.dim, mixer.grid) == (1, 10, (2, 3))
    assert build_aggregator("gem", 8, (2, 3), out_channels=5).dim == 8


@pytest.mark.parametrize(
    ("name", "options", "complaint"),
    [
        ("vlad", {}, "unknown aggregator 'vlad': choose one of mix"),
        ("convap", {"rows": 3}, r"no options \['rows'\]; it has \['pool_ro"),
        ("mix", {"clusters": 3}, r"no options \['clusters'\]; it has none"),
    ],
)
def test_unknown_names_and_options(name, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        build_aggregator(name, 8, (2, 3), **options)
