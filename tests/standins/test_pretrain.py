import json
import math
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors import safe_open

from dinomix.aggregators.gem import GeM
from dinomix.backbones import TOY, build_backbone
from dinomix.plumbing.files import to_json
from dinomix.plumbing.tensorfiles import read_tensors
from dinomix.standins import pretrain as module
from dinomix.standins.pretrain import (
    RECIPES,
    Heads,
    PretrainConfig,
    contrast,
    disturb,
    encode,
    encoded_widths,
    info_nce,
    patch_centres,
    pretrain,
    pretrain_files,
    random_boxes,
    view,
    warmup_cosine,
)
from dinomix.weights import TOY_WEIGHTS, load_backbone_weights


def test_info_nce_equals_a_slow_loop():
    torch.manual_seed(0)
    a, b = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    loss, matched = info_nce(a, b, 0.2)
    cosine = [[float(F.cosine_similarity(x, y, dim=0)) / 0.2 for y in b] for x in a]
    total, right = 0.0, 0
    for i in range(6):
        row, column = cosine[i], [cosine[j][i] for j in range(6)]
        for scores in (row, column):
            total += math.log(sum(math.exp(s) for s in scores)) - cosine[i][i]
        right += max(range(6), key=row.__getitem__) == i
    assert loss.item() == pytest.approx(total / 12)
    assert matched == pytest.approx(right / 6)


def test_boxes_lie_within_and_have_the_area_asked_for():
    torch.manual_seed(0)
    outer = torch.tensor([0.2, 0.1, 0.6, 0.8]).expand(500, 4)
    boxes = random_boxes(outer, (0.3, 0.5))
    assert (boxes[:, :2] >= outer[:, :2] - 1e-6).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= outer[:, :2] + outer[:, 2:] + 1e-6).all()
    share = boxes[:, 2] * boxes[:, 3] / (0.6 * 0.8)
    assert share.min() > 0.29 and share.max() < 0.501


def test_patch_centres_row_by_row():
    centres = patch_centres(2, torch.tensor([[0.0, 0.5, 1.0, 0.5]]))
    expected = torch.tensor([[[0.25, 0.625], [0.75, 0.625], [0.25, 0.875], [0.75, 0.875]]])
    torch.testing.assert_close(centres, expected)


def test_view_shows_what_is_in_the_box(monkeypatch):
    monkeypatch.setattr(module, "disturb", lambda images: images)
    x, y = torch.meshgrid(torch.linspace(0, 1, 50), torch.linspace(0, 1, 50), indexing="xy")
    images = torch.stack([x, y, 0 * x])[None]  # red tells x, green tells y
    box = torch.tensor([[0.2, 0.4, 0.5, 0.3]])
    crop = view(images, box, 20)
    mean, std = (torch.tensor(v)[:, None, None] for v in module.normalization("toy_vits14"))
    red, green, _ = (crop * std + mean)[0]
    assert red[:, 0].mean().item() == pytest.approx(0.2 + 0.5 / 40, abs=0.02)
    assert red[:, -1].mean().item() == pytest.approx(0.7 - 0.5 / 40, abs=0.02)
    assert green[0].mean().item() == pytest.approx(0.4 + 0.3 / 40, abs=0.02)


def test_a_patch_is_compared_with_the_same_spot_of_the_large_crop(monkeypatch):
    """A network whose features are the position itself must match every patch."""
    monkeypatch.setattr(module, "disturb", lambda images: images)
    x, y = torch.meshgrid(torch.linspace(0, 255, 160), torch.linspace(0, 255, 160), indexing="xy")
    photos = torch.stack([x, y, 0 * x], dim=-1).byte()[None, None].expand(1, 2, -1, -1, -1)
    compared = []
    monkeypatch.setattr(
        module, "info_nce", lambda a, b, t: (compared.append((a, b)), info_nce(a, b, t))[1]
    )

    def colours(_, images, pooled):
        grid = images.shape[-1] // 14
        patches = F.adaptive_avg_pool2d(images, grid).flatten(2).transpose(1, 2)
        return patches.mean(1), patches

    monkeypatch.setattr(module, "encode", colours)
    heads = torch.nn.Module()
    heads.image = heads.patch = torch.nn.Identity()
    for spots in (None, 7):
        contrast(None, heads, photos, (112, 70), PretrainConfig(spots=spots))
        spot, patch = compared.pop()
        assert len(spot) == len(patch) == (spots or 25)
        # bilinear sampling of the large map is exact for linear colours, but for its border
        assert (spot - patch).abs()[:, :2].median() < 0.02


def test_a_transformer_is_encoded_by_its_tokens():
    net = build_backbone("toy_vits14", image_size=56)
    tokens = net.tokens(images := torch.randn(2, 3, 56, 56))
    image, patches = encode(net, images)
    assert (image.shape[-1], patches.shape[-1]) == encoded_widths(net) == (96, 96)
    assert torch.equal(image, tokens[:, 0])
    assert torch.equal(patches, tokens[:, 1:])
    image, patches = encode(net, images, pooled=True)
    torch.testing.assert_close(image, GeM(96, eps=1e-4).pool(patches.mT.unflatten(2, (4, 4))))


def test_a_cnn_is_encoded_by_its_last_two_maps():
    net = build_backbone("toy_resnet", image_size=64, trained_blocks=0)
    earlier = build_backbone("toy_resnet", image_size=64, stage=3, trained_blocks=0)
    earlier.trunk.load_state_dict(net.trunk.state_dict(), strict=False)
    image, patches = encode(net, images := torch.randn(2, 3, 64, 96))
    assert (image.shape[-1], patches.shape[-1]) == encoded_widths(net) == (192, 128)
    last, before = net(images), earlier(images)
    assert patches.shape == (2, 4 * 6, 128)
    for b in range(2):
        positions = [last[b, :, i, j] for i in range(2) for j in range(3)]
        torch.testing.assert_close(image[b], sum(positions) / 6)
        for i in range(4):
            for j in range(6):
                torch.testing.assert_close(patches[b, 6 * i + j], before[b, :, i, j])


@pytest.mark.parametrize("name", TOY)
def test_crops_are_whole_patches(name):
    recipe = RECIPES[name]
    patch = 16 if name == "toy_resnet" else 14
    sizes = {*recipe.coarse_sizes, *recipe.fine_sizes}
    assert max(sizes) <= recipe.photo_size
    for size in sizes:
        _, patches = encode(build_backbone(name, image_size=112), torch.zeros(1, 3, size, size))
        assert patches.shape[1] == (size / patch) ** 2


def test_disturbed_images_differ_and_stay_in_range():
    torch.manual_seed(0)
    images = torch.rand(8, 3, 20, 20)
    other = disturb(images)
    assert other.min() >= 0 and other.max() <= 1 and (other - images).abs().mean() > 0.02


def test_learning_rate_warms_up_then_falls_to_zero():
    factors = [warmup_cosine(step, 100, 0.1) for step in range(101)]
    assert factors[0] == pytest.approx(0.1) and factors[9] == pytest.approx(1)
    assert factors[55] == pytest.approx(0.5) and factors[100] == pytest.approx(0)


@pytest.mark.parametrize("stopped", [1, 3])
@pytest.mark.parametrize("name", ["toy_vits14", "toy_resnet"])
def test_pretraining_goes_on_after_a_kill_as_if_unbroken(name, stopped, tmp_path, monkeypatch):
    rng = np.random.default_rng(0)
    blobs = torch.from_numpy(rng.random((16, 3, 8, 8), np.float32))
    photos = (F.interpolate(blobs, size=64, mode="bicubic").clamp(0, 1) * 255).byte()
    photos = photos.permute(0, 2, 3, 1).unflatten(0, (8, 2)).numpy()
    sizes = (42, 28) if name == "toy_vits14" else (48, 32)
    recipe = replace(RECIPES[name], coarse_sizes=sizes, fine_sizes=sizes, device="cpu")
    config = replace(recipe, batch_size=4, epochs=2.5, stop=4)
    unbroken = pretrain(name, photos, config, tmp_path / "none.pt", progress=False)
    monkeypatch.setattr(module, "SAVE_EVERY", 0)
    steps, checkpoint = [], tmp_path / "killed.pt"

    def step(*given):
        if len(steps) == stopped:
            raise KeyboardInterrupt
        steps.append(given)
        return contrast(*given)

    monkeypatch.setattr(module, "contrast", step)
    with pytest.raises(KeyboardInterrupt):
        pretrain(name, photos, config, checkpoint, progress=False)
    monkeypatch.setattr(
        module, "contrast", lambda *given: (steps.append(given), contrast(*given))[1]
    )
    resumed = pretrain(name, photos, config, checkpoint, progress=False)
    assert len(steps) == 4
    assert all(torch.equal(unbroken[key], resumed[key]) for key in unbroken)
    build_backbone(name, image_size=(112, 112)).trunk.load_state_dict(resumed)
    assert {t.dtype for key, t in resumed.items() if "batches" not in key} == {torch.float16}


def test_loss_falls():
    torch.manual_seed(0)
    photos = torch.randint(0, 256, (8, 1, 8, 8, 3), dtype=torch.uint8)
    photos = photos.repeat_interleave(8, 2).repeat_interleave(8, 3).expand(-1, 2, -1, -1, -1)
    net = build_backbone("toy_vits14", image_size=(56, 56), trained_blocks="all")
    for block in net.trunk.blocks:
        torch.nn.init.ones_(block.ls1.gamma)
    heads = Heads(96, 96, PretrainConfig(projection=16))
    optimizer = torch.optim.AdamW([*net.parameters(), *heads.parameters()], lr=1e-3)
    losses = []
    for _ in range(25):
        loss, _ = contrast(net, heads, photos, (56, 28), PretrainConfig())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert np.mean(losses[-5:]) < np.mean(losses[:5]) - 0.2


@pytest.mark.parametrize("stage", [3, None])
def test_the_shipped_resnet_fits_either_stage(stage):
    net = build_backbone("toy_resnet", image_size=112, stage=stage, trained_blocks=2)
    load_backbone_weights(net, "hub")
    shipped = read_tensors(TOY_WEIGHTS / "toy_resnet.safetensors")
    loaded = net.trunk.state_dict()
    assert shipped.keys() - loaded.keys() == net.cut_keys - {"fc.weight", "fc.bias"}
    assert all(torch.equal(tensor, shipped[key].float()) for key, tensor in loaded.items())


@pytest.mark.parametrize("name", TOY)
def test_shipped_weights_say_how_they_were_made(name):
    with safe_open(TOY_WEIGHTS / f"{name}.safetensors", "pt") as file:
        about = file.metadata()
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    assert {t.dtype for key, t in tensors.items() if "batches" not in key} == {torch.float16}
    assert about["backbone"] == name
    made = PretrainConfig(**json.loads(about["pretrained"]))  # later fields: as it was before them
    assert json.loads(to_json(made)) == json.loads(to_json(RECIPES[name]))
    assert sum(path.stat().st_size for path in TOY_WEIGHTS.glob("*.safetensors")) < 20 * 2**20


def test_files_are_of_their_views_and_nothing_else_is_left(tmp_path, monkeypatch, capsys):
    tiny = {"photo_size": 48, "coarse_sizes": (32, 32), "fine_sizes": (32, 32), "cities": 1}
    recipes = {"toy_resnet": PretrainConfig(**tiny, stop=1)}
    monkeypatch.setattr(module, "RECIPES", recipes)
    monkeypatch.setattr(module, "ProcessPoolExecutor", lambda mp_context: ThreadPoolExecutor(1))
    (file,) = pretrain_files(out=tmp_path, epochs=2, cameras=2)
    assert list(tmp_path.iterdir()) == [file] and "hours" in capsys.readouterr().err
    with safe_open(file, "pt") as opened:
        about = json.loads(opened.metadata()["pretrained"])
    assert (about["epochs"], about["cameras"], about["stop"]) == (2, 2, None)
