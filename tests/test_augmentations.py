"""Motion blur against its definition, and what the named augmentations do to an image."""

import math

import pytest
import torch

from dinomix.images import AUGMENTATIONS, MotionBlur, line_kernel


@pytest.mark.parametrize("length", [0.0, 1.0, 2.5, 3.0, 8.2])
@pytest.mark.parametrize("degrees", [0.0, -20.0, 45.0, 90.0])
def test_kernel_is_a_line(length, degrees):
    kernel = line_kernel(length, degrees)
    side = len(kernel)
    assert kernel.shape == (side, side) and side % 2 == 1
    assert kernel.sum().item() == pytest.approx(1)
    torch.testing.assert_close(kernel, kernel.flip(0, 1))  # it does not move the image
    middle = side // 2
    for y in range(side):
        for x in range(side):
            angle = math.radians(degrees)
            aside = (y - middle) * math.cos(angle) - (x - middle) * math.sin(angle)
            if abs(aside) >= 1:
                assert kernel[y, x] == 0


def test_horizontal_kernel_is_the_mean_of_a_row():
    torch.testing.assert_close(line_kernel(3, 0)[1], torch.full((3,), 1 / 3))
    assert line_kernel(3, 0)[[0, 2]].abs().max() < 1e-6


def test_blur_equals_slow_convolution():
    blur = MotionBlur()
    image = torch.randint(0, 256, (3, 9, 11), dtype=torch.uint8)
    params = {"share": 0.4, "degrees": 15.0}
    blurred = blur.transform(image, params)
    kernel = line_kernel(0.4 * 11, 15.0)
    half = len(kernel) // 2
    for channel, y, x in [(0, 0, 0), (1, 4, 5), (2, 8, 10), (0, 3, 9)]:
        total = 0.0
        for dy in range(-half, half + 1):
            for dx in range(-half, half + 1):
                row, column = min(max(y + dy, 0), 8), min(max(x + dx, 0), 10)
                total += kernel[dy + half, dx + half].item() * image[channel, row, column].item()
        assert abs(blurred[channel, y, x].item() - total) <= 0.501
    assert blurred.dtype == torch.uint8 and blurred.shape == image.shape


def test_lengths_and_slopes_are_drawn_from_their_ranges():
    blur = MotionBlur(longest=0.1, steepest=30)
    drawn = [blur.make_params([]) for _ in range(200)]
    shares, slopes = [d["share"] for d in drawn], [d["degrees"] for d in drawn]
    assert 0 <= min(shares) < 0.01 and 0.09 < max(shares) <= 0.1
    assert -30 <= min(slopes) < -25 and 25 < max(slopes) <= 30


@pytest.mark.parametrize("name", ["randaugment", "robust"])
def test_augmented_images_differ_and_stay_images(name):
    from torchvision.transforms import v2

    augment = v2.Compose([*AUGMENTATIONS[name], v2.ToDtype(torch.float32, scale=True)])
    image = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8)
    images = torch.stack([augment(image) for _ in range(60)])
    assert images.shape == (60, 3, 28, 28)
    assert images.min() >= 0 and images.max() <= 1
    assert len({tuple(i.flatten().tolist()) for i in images}) > 30
    if name == "robust":  # some are dark
        assert (images.mean((1, 2, 3)) < 0.3).sum() > 5


def test_none_is_nothing():
    assert AUGMENTATIONS["none"] == []
