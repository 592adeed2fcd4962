import numpy as np
import pytest
import torch
from PIL import Image

from dinomix.images import UnreadableImageError, eval_transform, read_image, train_transform

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.3, 0.4)


def test_eval_transform_resizes_then_normalises():
    pixels = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)
    image = Image.fromarray(pixels)
    ours = eval_transform((28, 56), MEAN, STD)(image)
    small = np.asarray(image.resize((56, 28), Image.Resampling.BILINEAR), dtype=np.float32) / 255
    expected = (small - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    assert ours.dtype == torch.float32
    np.testing.assert_allclose(ours.numpy(), expected.transpose(2, 0, 1), atol=1e-5)


def test_augmentation_changes_images_and_none_does_not():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28, 3), dtype=np.uint8))
    plain = eval_transform(28, MEAN, STD)(image)
    assert torch.equal(train_transform(28, MEAN, STD, "none")(image), plain)
    torch.manual_seed(0)
    augmented = train_transform(28, MEAN, STD, "randaugment")(image)
    assert augmented.shape == plain.shape and not torch.equal(augmented, plain)


def test_unknown_augmentation_is_named():
    with pytest.raises(ValueError, match=r"'mixup'.*randaugment"):
        train_transform(28, MEAN, STD, "mixup")


@pytest.mark.parametrize("content", [b"", b"not an image", b"\xff\xd8\xff\xe0 half a JPEG"])
def test_unreadable_image_is_named(tmp_path, content):
    path = tmp_path / "broken.jpg"
    path.write_bytes(content)
    with pytest.raises(UnreadableImageError, match=r"broken\.jpg"):
        read_image(path)


def test_truncated_image_is_named(tmp_path):
    path = tmp_path / "cut.jpg"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (99, 99, 3), dtype=np.uint8)).save(
        path
    )
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UnreadableImageError, match=r"cut\.jpg"):
        read_image(path)


def test_missing_image_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        read_image(tmp_path / "gone.jpg")


def test_images_come_upright_and_in_rgb(tmp_path):
    image = Image.new("L", (20, 10))
    exif = Image.Exif()
    exif[0x0112] = 6  # orientation: turned by 90 degrees
    image.save(tmp_path / "turned.jpg", exif=exif)
    upright = read_image(tmp_path / "turned.jpg")
    assert upright.size == (10, 20) and upright.mode == "RGB"
