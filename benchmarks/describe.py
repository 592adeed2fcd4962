"""From JPEG files to descriptors: what is left of the model's own rate, and who decodes fastest.

    python benchmarks/describe.py --backbone dinov2_vits14

writes made photographs of a usual size, describes them, and compares with the same model on images
that are in memory already.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from report import record
from torchvision.io import ImageReadMode, decode_jpeg

from dinomix.images import read_image
from dinomix.model import ModelConfig, build_model
from dinomix.retrieval import describe, image_files, pick_device

SIZE = (640, 480)  # of most of the field's images


def write_photographs(folder: Path, count: int) -> list[Path]:
    """Made JPEGs with detail at all scales, as a photograph has it; about 30 kB each."""
    rng = np.random.default_rng(0)
    paths = []
    for i in range(count):
        picture = np.zeros((SIZE[1], SIZE[0], 3), np.float32)
        for side in (4, 16, 64, 256):
            blobs = Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8))
            picture += np.asarray(blobs.resize(SIZE, Image.Resampling.BICUBIC), np.float32) / side
        picture *= 255 / picture.max()
        paths.append(folder / f"{i:05d}.jpg")
        Image.fromarray(picture.astype(np.uint8)).save(paths[-1], quality=90)
    return paths


def with_pil(path: Path, size: int) -> object:
    return read_image(path).resize((size, size), Image.Resampling.BILINEAR)


def with_draft(path: Path, size: int) -> object:
    with Image.open(path) as image:
        image.draft("RGB", (size, size))  # decodes at a half, a quarter or an eighth
        return image.convert("RGB").resize((size, size), Image.Resampling.BILINEAR)


def with_torchvision(path: Path, size: int) -> object:
    data = torch.from_numpy(np.fromfile(path, np.uint8))
    image = decode_jpeg(data, ImageReadMode.RGB)
    return torch.nn.functional.interpolate(
        image[None], (size, size), mode="bilinear", antialias=True
    )


def with_simplejpeg(path: Path, size: int) -> object:
    import simplejpeg

    image = Image.fromarray(simplejpeg.decode_jpeg(path.read_bytes()))
    return image.resize((size, size), Image.Resampling.BILINEAR)


DECODERS: dict[str, Callable[[Path, int], object]] = {
    "PIL (used here)": with_pil,
    "PIL, draft": with_draft,
    "torchvision.io": with_torchvision,
    "simplejpeg": with_simplejpeg,
}


def decoding(paths: list[Path], size: int) -> pd.DataFrame:
    """Images a second and core: each decoder, and by how much it differs from ours."""
    reference = [np.asarray(with_pil(path, size), np.float32) for path in paths[:20]]
    rows = []
    for name, decode in DECODERS.items():
        try:
            images = [np.asarray(decode(path, size), np.float32) for path in paths[:20]]
        except ImportError:
            continue  # an optional package
        images = [np.moveaxis(i[0], 0, -1) if i.ndim == 4 else i for i in images]
        started = time.perf_counter()
        for path in paths:
            decode(path, size)
        off = np.mean([np.abs(a - b).mean() for a, b in zip(images, reference, strict=True)])
        rate = len(paths) / (time.perf_counter() - started)
        rows.append({"decoder": name, "images/s a core": rate, "differs by, of 255": float(off)})
    return pd.DataFrame(rows)


def describing(backbone: str, paths: list[Path], size: int, batch: int) -> pd.DataFrame:
    """`describe` from files, with several numbers of workers, against the model alone."""
    model = build_model(ModelConfig(backbone=backbone, image_size=size)).eval()
    device = pick_device()
    files = image_files(model, paths[:batch])
    images = torch.stack([files[i] for i in range(batch)])
    model.to(device)
    with torch.inference_mode():
        model(images.to(device))
        started = time.perf_counter()
        for _ in range(len(paths) // batch):
            model(images.to(device)).cpu()
    alone = len(paths) // batch * batch / (time.perf_counter() - started)
    rows = [{"pipeline": "the model alone", "images/s": alone, "of the model's rate": 1.0}]
    for workers in (0, 1, 2, 4):
        started = time.perf_counter()
        describe(model, paths, batch_size=batch, workers=workers, progress=False)
        rate = len(paths) / (time.perf_counter() - started)
        name = f"describe, {workers} workers" if workers else "describe, in one process"
        rows.append({"pipeline": name, "images/s": rate, "of the model's rate": rate / alone})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="dinov2_vits14")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photographs(Path(folder), options.images)
        kilobytes = np.mean([path.stat().st_size for path in paths]) / 1000
        title = f"JPEG of {SIZE[0]} x {SIZE[1]} ({kilobytes:.0f} kB) to {options.size} px"
        record(f"Decoding: {title}", decoding(paths, options.size))
        table = describing(options.backbone, paths, options.size, options.batch)
        record(f"Describing: {title}, {options.backbone}", table)


if __name__ == "__main__":
    main()
