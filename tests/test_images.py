"""Image files of every kind: read as promised, or named; and transforms against slow loops."""

import errno
import math
import os
import struct
import warnings
import zlib
from io import BytesIO

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torchvision.transforms import InterpolationMode, v2

from dinomix.images import (
    AUGMENTATIONS,
    MotionBlur,
    Normalise,
    UnreadableImageError,
    eval_transform,
    line_kernel,
    read_image,
    train_transform,
)
from dinomix.plumbing.imagenames import image_formats, list_images

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
PIXELS = np.random.default_rng(0).integers(0, 256, (60, 40, 3), dtype=np.uint8)


def blobs(size=(64, 48)):
    """Soft colours, which survive a JPEG."""
    few = Image.fromarray(np.random.default_rng(0).integers(0, 256, (3, 4, 3), dtype=np.uint8))
    return few.resize(size, Image.Resampling.BICUBIC)


def encoded(image, format, **options):
    file = BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def the_old_way(image, size, augmented=()):
    """One image at a time, in float32 before it leaves the worker."""
    resize = v2.Resize(size, interpolation=InterpolationMode.BILINEAR, antialias=True)
    scaled = v2.ToDtype(torch.float32, scale=True)
    steps = [resize, v2.ToImage(), *augmented, scaled, v2.Normalize(list(MEAN), list(STD))]
    for step in steps:
        image = step(image)
    return torch.as_tensor(image)


def test_images_travel_as_bytes_and_end_in_the_same_numbers():
    images = [blobs(size) for size in ((64, 48), (200, 150), (30, 20))]
    pixels = torch.stack([eval_transform((28, 56))(image) for image in images])
    assert pixels.dtype == torch.uint8 and pixels.shape == (3, 3, 28, 56)
    assert type(pixels) is torch.Tensor
    ours = Normalise(MEAN, STD)(pixels)
    assert torch.equal(ours, torch.stack([the_old_way(image, (28, 56)) for image in images]))
    by_pil = np.asarray(images[0].resize((56, 28), Image.Resampling.BILINEAR), np.float32) / 255
    expected = (by_pil - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    np.testing.assert_allclose(ours[0].numpy(), expected.transpose(2, 0, 1), atol=1e-5)


@pytest.mark.parametrize(
    ("width", "height", "step", "expected"),
    [(60, 47, 1, (47, 60)), (60, 47, 14, (42, 56)), (28, 42, 14, (42, 28)), (5, 30, 14, (28, 14))],
)
def test_native_is_the_image_s_own_size_rounded_down(width, height, step, expected):
    image = blobs((width, height))
    pixels = eval_transform("native", step)(image)
    assert torch.equal(pixels, eval_transform(expected)(image))
    if expected == (height, width):
        assert (pixels.permute(1, 2, 0).numpy() == np.asarray(image)).all()


@pytest.mark.parametrize("augment", AUGMENTATIONS)
def test_augmented_images_end_in_the_same_numbers(augment):
    transform, image = train_transform((28, 28), augment), blobs()
    ours, expected = [], []
    for seed in range(12):
        torch.manual_seed(seed)
        ours.append(transform(image))
        torch.manual_seed(seed)
        expected.append(the_old_way(image, (28, 28), AUGMENTATIONS[augment]))
    pixels = torch.stack(ours)
    assert pixels.dtype == (torch.float32 if augment == "robust" else torch.uint8)
    assert torch.equal(Normalise(MEAN, STD)(pixels), torch.stack(expected))
    assert torch.equal(pixels, torch.stack(ours))  # they stay as they were
    assert (augment == "none") == all(torch.equal(one, ours[0]) for one in ours)


def test_unknown_augmentation_is_named():
    with pytest.raises(ValueError, match=r"'mixup'.*randaugment"):
        train_transform(28, "mixup")


def write(tmp_path, content, name="photo.jpg"):
    path = tmp_path / name
    path.write_bytes(content)
    return path


GREY, DEEP = PIXELS[:, :, 0], np.random.default_rng(1).integers(0, 2**16, (20, 30), np.uint16)
PALETTE = blobs().quantize(16)
FADED = PALETTE.copy()
FADED.info["transparency"] = bytes(range(0, 256, 16))


COLOURS, WHITE = Image.fromarray(PIXELS), np.uint8(255)


def see_through(image):
    image = image.copy()
    image.putalpha(Image.fromarray(PIXELS[:, :, 1]))
    return image


@pytest.mark.parametrize(
    ("image", "format", "expected"),
    [
        *((COLOURS, format, PIXELS) for format in ("PNG", "WEBP", "TIFF", "BMP")),
        (COLOURS.convert("L"), "PNG", COLOURS.convert("L").convert("RGB")),
        (Image.fromarray(GREY > 128), "PNG", np.stack([WHITE * (GREY > 128)] * 3, axis=2)),
        # of 16 bits the upper 8 stay: Pillow alone would make everything above 255 white
        *((Image.fromarray(DEEP), f, np.stack([DEEP // 256] * 3, axis=2)) for f in ("PNG", "TIFF")),
        (PALETTE, "PNG", PALETTE.convert("RGB")),
        # transparency is dropped, and colours stay
        (see_through(COLOURS), "PNG", PIXELS),
        (see_through(COLOURS.convert("L")), "PNG", COLOURS.convert("L").convert("RGB")),
        (FADED, "PNG", PALETTE.convert("RGB")),
    ],
)
def test_pixels_of_all_kinds_become_rgb(tmp_path, image, format, expected):
    """By the content, whatever the name says."""
    path = write(tmp_path, encoded(image, format, lossless=True), "photo.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = read_image(path)
    assert found.mode == "RGB" and np.array_equal(np.asarray(found), np.asarray(expected))


@pytest.mark.parametrize("highest", [65535, 1023])
def test_a_deep_pgm_keeps_its_upper_bits(tmp_path, highest):
    deep = np.random.default_rng(1).integers(0, highest + 1, (5, 7))
    content = b"P5 7 5 %d\n" % highest + deep.astype(">u2").tobytes()
    found = np.asarray(read_image(write(tmp_path, content, "depth.pgm")))
    expected = deep * 65535 // highest // 256
    assert np.abs(found.astype(int) - expected[:, :, None]).max() <= (highest < 65535)


SUFFIXES = (
    "jpg jfif jpe jpeg png apng webp tif tiff bmp dib gif jp2 j2k pcx ppm pnm tga sgi avif ico"
)


@pytest.mark.parametrize("suffix", [*SUFFIXES.split(), "mpo", "heic", "heif"])
def test_images_of_all_suffixes_are_listed_and_read(tmp_path, suffix):
    if suffix.startswith("hei"):
        pytest.importorskip("pillow_heif")
    image_formats()  # else Pillow could not write HEIC
    blobs().save(path := tmp_path / f"a.{suffix}")
    if suffix == "tga":  # which has no first bytes to be known by
        with pytest.raises(FileNotFoundError, match=r"Left out are .*a\.tga"):
            list_images(tmp_path)
        return
    assert list_images(tmp_path) == [path]
    found = read_image(path)
    by_pillow = Image.open(path).convert("RGB")
    assert found.size == by_pillow.size and np.array_equal(np.asarray(found), np.asarray(by_pillow))


def test_heic_comes_upright_and_without_its_decoder_says_what_to_install(tmp_path, monkeypatch):
    pytest.importorskip("pillow_heif")
    assert "HEIF" in image_formats()
    exif = Image.Exif()
    exif[0x0112] = 6
    sideways = Image.fromarray(np.ascontiguousarray(np.rot90(np.asarray(blobs()))))
    sideways.save(path := tmp_path / "IMG_1.HEIC", exif=exif.tobytes(), quality=95)
    off = np.asarray(read_image(path), np.float32) - np.asarray(blobs(), np.float32)
    assert np.abs(off).mean() < 6
    monkeypatch.setattr("dinomix.images.image_formats", lambda: ("JPEG", "PNG"))
    with pytest.raises(UnreadableImageError, match=r"IMG_1\.HEIC.*'dinomix\[heic\]'"):
        read_image(path)


@pytest.mark.parametrize("mode", ["I", "F"])
def test_pixels_without_a_range_are_refused(tmp_path, mode):
    path = write(tmp_path, encoded(Image.new(mode, (4, 4)), "TIFF"), "heights.tif")
    with pytest.raises(UnreadableImageError, match=rf"heights\.tif: its pixels, of mode {mode}"):
        read_image(path)


def test_16_bits_a_channel_are_treated_alike_in_colour(tmp_path):
    colours = np.random.default_rng(1).integers(0, 2**16, (5, 7, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in colours)

    def block(kind, data):
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    header = struct.pack(">IIBBBBB", 7, 5, 16, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + block(b"IHDR", header)
    content += block(b"IDAT", zlib.compress(rows)) + block(b"IEND", b"")
    assert np.array_equal(np.asarray(read_image(write(tmp_path, content))), colours // 256)


def test_cmyk_is_converted(tmp_path):
    image = blobs()
    found = read_image(write(tmp_path, encoded(image.convert("CMYK"), "JPEG", quality=100)))
    assert found.mode == "RGB"
    off = np.asarray(found, np.float32) - np.asarray(image, np.float32)
    assert np.abs(off).mean() < 3


# What a camera does, held in each of EXIF's eight ways, to a picture that is upright.
TURNED = {
    1: lambda upright: upright,
    2: np.fliplr,
    3: lambda upright: np.rot90(upright, 2),
    4: np.flipud,
    5: lambda upright: upright.transpose(1, 0, 2),
    6: np.rot90,
    7: lambda upright: np.rot90(upright, 2).transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("orientation", TURNED)
def test_images_come_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(TURNED[orientation](PIXELS)))
    found = read_image(write(tmp_path, encoded(stored, "PNG", exif=exif)))
    assert found.size == (40, 60) and np.array_equal(np.asarray(found), PIXELS)


def metadata(*tags):
    """EXIF by hand, for Pillow would mend it: tags are (number, type, count, 4 bytes)."""
    entries = b""
    for number, kind, count, value in tags:
        entries += struct.pack("<HHI", number, kind, count) + value.ljust(4, b"\0")
    header = b"Exif\0\0II*\0" + struct.pack("<IH", 8, len(tags))
    return header + entries + bytes(4) + bytes(16)


TURN = (0x0112, 3, 1, b"\6")
BEHIND = struct.pack("<I", 8 + 2 + 12 * 2 + 4)  # two tags: zeros, which as a rational are 0/0


@pytest.mark.parametrize(
    "tags",
    [
        [(0x011A, 5, 1, BEHIND)],  # a resolution of 0/0
        [(0x9286, 5, 2, BEHIND)],
        [(0x0110, 5, 1, b"\xff\xff\xff\xff")],  # outside of the file
        [(0x8769, 2, 3, b"abc")],  # text in place of an offset
        [(0x8825, 4, 1, b"\xff\xff\xff\x7f")],
        [(0x927C, 12, 1000, b"\0")],
        [(0xA005, 9, 1, b"\xff\xff\xff\xff")],  # an offset of -1
    ],
)
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP"])
def test_broken_metadata_cost_no_pixels_and_no_turn(tmp_path, tags, format):
    exif = metadata(TURN, *tags)
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(PIXELS)))
    plain = read_image(write(tmp_path, encoded(stored, format, lossless=True)))
    found = read_image(write(tmp_path, encoded(stored, format, lossless=True, exif=exif)))
    assert np.array_equal(np.asarray(found), np.rot90(np.asarray(plain), -1))


@settings(max_examples=100, deadline=None)
@given(noise=st.binary(max_size=80))
def test_no_metadata_cost_pixels(tmp_path_factory, noise):
    path = tmp_path_factory.getbasetemp() / "noise.jpg"
    path.write_bytes(encoded(blobs(), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0" + noise))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's
        assert sorted(read_image(path).size) == [48, 64]


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "TIFF", "PNG"])
def test_xmp_says_which_side_is_up_where_exif_does_not(tmp_path, format):
    """Under every release of Pillow."""
    xmp = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
    options = {"xmp": xmp}
    if format == "PNG":
        options = {"pnginfo": (text := PngInfo())}
        text.add_itxt("XML:com.adobe.xmp", xmp.decode())
    if format == "TIFF":
        options = {"tiffinfo": {700: xmp}}
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(PIXELS)))
    assert read_image(write(tmp_path, encoded(stored, format, **options))).size == (40, 60)


@pytest.mark.parametrize("size", [(1, 1), (20_000, 90)])
def test_images_of_any_shape(tmp_path, size):
    image = read_image(write(tmp_path, encoded(Image.new("RGB", size, (10, 20, 30)), "PNG")))
    assert image.size == size
    pixels = eval_transform((2, 3))(image)
    assert pixels.permute(1, 2, 0).reshape(-1, 3).tolist() == [[10, 20, 30]] * 6


def test_of_an_animation_the_first_image_is_taken(tmp_path):
    frames = [Image.new("L", (4, 4), shade) for shade in (50, 200)]
    content = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert np.asarray(read_image(write(tmp_path, content))).max() == 50


@pytest.mark.parametrize("factor", [1.5, 3])
def test_a_decompression_bomb_is_an_error(tmp_path, monkeypatch, factor):
    """Also where Pillow itself would only warn, up to twice its limit."""
    path = write(tmp_path, encoded(Image.new("L", (3000, 1000)), "PNG"), "bomb.png")
    assert path.stat().st_size < 5000
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(3_000_000 / factor))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        with pytest.raises(UnreadableImageError, match=r"bomb\.png: .*[Ii]mage"):
            read_image(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_image(path).size == (3000, 1000)


def unreadable():
    photo = encoded(blobs((200, 150)), "JPEG")
    painted = encoded(Image.fromarray(PIXELS), "PNG")
    return {
        "empty": b"",
        "zeros": bytes(5000),
        "start of a JPEG": b"\xff\xd8\xff\xe0 half a JPEG",
        "half a JPEG": photo[: len(photo) // 2],
        "nearly a JPEG": photo[:-200],
        "half a PNG": painted[: len(painted) // 2],
        "a JPEG with a hole": photo[:500] + bytes(len(photo) - 500),
        "a PNG with a hole": painted[:500] + bytes(len(painted) - 500),
        "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
        "SVG": b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
    }


@pytest.mark.parametrize("kind", unreadable())
def test_an_unreadable_file_is_named(tmp_path, kind):
    path = write(tmp_path, unreadable()[kind], "broken.jpg")
    with pytest.raises(UnreadableImageError, match=r"cannot decode the image .*broken\.jpg: "):
        read_image(path)


FORMATS = {
    format: encoded(blobs((24, 16)), format) for format in ("JPEG", "PNG", "WEBP", "TIFF", "GIF")
}


@settings(max_examples=150, deadline=None)
@given(
    format=st.sampled_from(sorted(FORMATS)),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    kept=st.floats(0, 1),
)
def test_damage_of_any_kind_gives_an_image_or_names_the_file(
    tmp_path_factory, format, changes, kept
):
    content = bytearray(FORMATS[format])
    for where, value in changes:
        content[int(where * (len(content) - 1))] = value
    path = tmp_path_factory.getbasetemp() / "damaged.img"
    path.write_bytes(content[: int(kept * len(content))])
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, on odd metadata
            found = read_image(path)
    except UnreadableImageError as error:
        assert str(path) in str(error)
    else:
        assert found.mode == "RGB" and np.asarray(found).shape == (*found.size[::-1], 3)


NAMES = [
    "two words.jpg",
    "Straße 北京 é.jpg",
    "@@0@ a@b.jpg",
    "-rf.jpg",
    "%41.jpg",
    "no suffix",
    "a\nb",
]
if os.name != "nt":  # where file names are text
    NAMES.append(os.fsdecode(b"\xff\xfe.jpg"))


@pytest.mark.parametrize("name", NAMES)
def test_names_of_all_kinds(tmp_path, name):
    content = encoded(Image.fromarray(PIXELS), "PNG")
    assert np.array_equal(np.asarray(read_image(write(tmp_path, content, name))), PIXELS)
    assert read_image(str(tmp_path / name)).size == (40, 60)


def test_what_the_system_cannot_read_is_no_damage_and_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.jpg"):
        read_image(tmp_path / "gone.jpg")
    (tmp_path / "dangling.jpg").symlink_to(tmp_path / "gone.jpg")
    with pytest.raises(FileNotFoundError, match=r"dangling\.jpg"):
        read_image(tmp_path / "dangling.jpg")
    (tmp_path / "a.jpg").symlink_to(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "a.jpg")
    with pytest.raises(OSError, match=r"a\.jpg") as loop:
        read_image(tmp_path / "a.jpg")
    assert loop.value.errno == errno.ELOOP and not isinstance(loop.value, UnreadableImageError)
    with pytest.raises(IsADirectoryError, match=tmp_path.name):
        read_image(tmp_path)


def test_a_disk_that_fails_is_no_damage_and_the_file_is_named(tmp_path, monkeypatch):
    path = write(tmp_path, encoded(Image.fromarray(PIXELS), "PNG"))

    def fails(image):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(Image.Image, "load", fails)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", fails)
    with pytest.raises(OSError, match=r"photo\.jpg") as error:
        read_image(path)
    assert error.value.errno == errno.EIO and not isinstance(error.value, UnreadableImageError)


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
    augment = v2.Compose([*AUGMENTATIONS[name], v2.ToDtype(torch.float32, scale=True)])
    image = torch.randint(0, 256, (3, 28, 28), dtype=torch.uint8)
    images = torch.stack([augment(image) for _ in range(60)])
    assert images.shape == (60, 3, 28, 28)
    assert images.min() >= 0 and images.max() <= 1
    assert len({tuple(i.flatten().tolist()) for i in images}) > 30
    if name == "robust":  # some are dark
        assert (images.mean((1, 2, 3)) < 0.3).sum() > 5
