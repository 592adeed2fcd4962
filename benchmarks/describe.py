"""From JPEG files to descriptors: what is left of the model's own rate, and where the time goes.

    python benchmarks/describe.py --backbone dinov2_vits14

writes made photographs of a usual size and measures three things: decoders on one core, and by
how much each one's images differ from ours; the loader, with images that travel as bytes against
such that leave the workers in float32; `describe` against the same model on images that are in
memory already.
"""

import argparse
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from PIL import Image
from report import cores, in_new_process, record, timed
from torch.utils.data import DataLoader, Dataset
from torchvision.io import ImageReadMode, decode_jpeg

from dinomix import retrieval
from dinomix.images import read_image
from dinomix.model import ModelConfig, build_model
from dinomix.retrieval import ImageFiles, describe, load_images, normaliser, pick_device

SIZE = (640, 480)  # of most of the field's images
WORKERS = [count for count in (0, 1, 2, 4, 8, 16) if count <= cores()]
CNNS = ["timm/tf_efficientnet_lite0", "timm/resnet50"]  # whose maps are largest
REPEATS = 3  # the best one counts: what else the machine does only slows down


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


def resized(image: Image.Image, size: int) -> np.ndarray:  # (size, size, 3)
    return np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))


def with_pil(path: Path, size: int) -> np.ndarray:
    return resized(read_image(path), size)


def with_draft(path: Path, size: int) -> np.ndarray:
    with Image.open(path) as image:
        image.draft("RGB", (size, size))  # decodes at a half, a quarter or an eighth
        return resized(image, size)


def by_torchvision(path: Path) -> torch.Tensor:  # (3, H, W)
    return decode_jpeg(torch.from_numpy(np.fromfile(path, np.uint8)), ImageReadMode.RGB)


def with_torchvision(path: Path, size: int) -> np.ndarray:
    images = by_torchvision(path)[None]
    small = torch.nn.functional.interpolate(images, (size, size), mode="bilinear", antialias=True)
    return small[0].permute(1, 2, 0).numpy()


def with_torchvision_and_pil(path: Path, size: int) -> np.ndarray:
    return resized(Image.fromarray(by_torchvision(path).permute(1, 2, 0).numpy()), size)


def with_simplejpeg(path: Path, size: int) -> np.ndarray:
    import simplejpeg

    return resized(Image.fromarray(simplejpeg.decode_jpeg(path.read_bytes())), size)


# PyTurboJPEG is left out: its wheel holds no libjpeg-turbo and asks for the system's.
DECODERS: dict[str, Callable[[Path, int], np.ndarray]] = {
    "PIL (used here)": with_pil,
    "PIL, draft": with_draft,
    "torchvision.io, resized by PIL": with_torchvision_and_pil,
    "torchvision.io, resized by torch": with_torchvision,
    "simplejpeg, resized by PIL": with_simplejpeg,  # optional: pip install simplejpeg
}


def fastest(work: Callable[[], object]) -> float:
    """Seconds."""
    return min(timed(work) for _ in range(REPEATS))


def decoding(paths: list[Path], size: int) -> pd.DataFrame:
    """Images a second and core: each decoder, and by how much it differs from ours."""
    reference = np.stack([with_pil(path, size) for path in paths[:20]]).astype(np.int16)
    rows = []
    for name, decode in DECODERS.items():
        try:
            images = np.stack([decode(path, size) for path in paths[:20]])
        except ImportError:
            continue  # an optional package
        off = np.abs(images - reference)
        seconds = fastest(lambda decode=decode: [decode(path, size) for path in paths])
        rows.append(
            {
                "decoder": name,
                "images/s a core": len(paths) / seconds,
                "differs by, of 255": float(off.mean()),
                "at most": int(off.max()),
            }
        )
    return pd.DataFrame(rows)


class Normalised(Dataset):
    """What `ImageFiles` was before: each image leaves its worker normalised, in float32."""

    def __init__(self, files: ImageFiles, normalise: Callable) -> None:
        self.files, self.normalise = files, normalise

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return self.normalise(self.files[index][0])


def loading(backbone: str, paths: list[Path], size: int, batch: int) -> pd.DataFrame:
    """Normalised batches a loader brings to the device: bytes on the way, or float32."""
    device, model = pick_device(), build_model(ModelConfig(backbone=backbone, image_size=size))
    files, normalise = ImageFiles(paths, size), normaliser(model)
    there = normaliser(model).to(device)
    ways = {
        "float32 from the workers": (
            Normalised(files, normalise),
            lambda images: images.to(device, non_blocking=True),
        ),
        "bytes until the device": (
            files,
            lambda item: there(item[0].to(device, non_blocking=True)),
        ),
    }
    rows = []
    for workers in WORKERS:
        for name, (items, finish) in ways.items():

            def bring(items=items, finish=finish, workers=workers) -> None:
                pinned = device.type == "cuda"
                for item in DataLoader(items, batch, num_workers=workers, pin_memory=pinned):
                    images = finish(item)
                images.sum().item()  # waits for the device

            rate = len(paths) / fastest(bring)
            rows.append(
                {"workers": workers, "images travel as": name, "images/s": rate}
                | {"images/s a worker": rate / max(1, workers)}
            )
    return pd.DataFrame(rows)


def describing(backbone: str, paths: list[Path], size: int, batch: int) -> pd.DataFrame:
    """`describe` from files, with several numbers of workers, against the model alone."""
    model = build_model(ModelConfig(backbone=backbone, image_size=size)).eval()
    device = pick_device()
    images = load_images(model, paths[:batch]).to(device)
    model.to(device)

    def alone() -> None:
        with torch.inference_mode():
            for _ in range(len(paths) // batch):
                model(images).cpu()

    alone()
    rate_alone = len(paths) // batch * batch / fastest(alone)
    rows = [{"pipeline": "the model alone", "images/s": rate_alone, "of the model's rate": 1.0}]
    for workers in WORKERS:
        options = {"batch_size": batch, "workers": workers, "progress": False}
        rate = len(paths) / fastest(lambda options=options: describe(model, paths, **options))
        name = f"describe, {workers} workers" if workers else "describe, in one process"
        rows.append({"pipeline": name, "images/s": rate, "of the model's rate": rate / rate_alone})
    return pd.DataFrame(rows)


def described_in(
    keep: bool, backbone: str, paths: list[Path], size: int, batch: int
) -> tuple[float, float, np.ndarray]:
    """Seconds, the process' highest GiB, and descriptors; with glibc's own ways, or ours."""
    if not keep:
        retrieval.keep_freed_memory = lambda: None
    torch.manual_seed(0)
    model = build_model(ModelConfig(backbone=backbone, image_size=size, aggregator="gem"))
    options = {"batch_size": batch, "progress": False, "device": "cpu"}
    seconds = fastest(lambda: describe(model, paths, **options))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    return seconds, peak, describe(model, paths[:batch], **options)


def allocating(backbone: str, paths: list[Path], size: int, batch: int) -> pd.DataFrame:
    """`describe` on the CPU with glibc as it comes, and as `keep_freed_memory` sets it."""
    rows, found = [], {}
    for keep, name in ((False, "returned to the system"), (True, "kept")):
        seconds, peak, found[keep] = in_new_process(
            described_in, keep, backbone, paths, size, batch
        )
        rows.append({"freed memory is": name, "images/s": len(paths) / seconds, "peak, GiB": peak})
    table = pd.DataFrame(rows)
    table["times as fast"] = table["images/s"] / table["images/s"][0]
    return table.assign(**{"same bits": bool((found[False] == found[True]).all())})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="dinov2_vits14")
    parser.add_argument("--images", type=int, default=256)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=32)
    parts = ["decoding", "loading", "describing", "memory"]
    parser.add_argument("--only", choices=parts)
    options = parser.parse_args()
    wanted = [options.only] if options.only else parts
    with tempfile.TemporaryDirectory() as folder:
        paths = write_photographs(Path(folder), options.images)
        kilobytes = np.mean([path.stat().st_size for path in paths]) / 1000
        title = f"JPEG of {SIZE[0]} x {SIZE[1]} ({kilobytes:.0f} kB) to {options.size} px"
        given = (options.backbone, paths, options.size, options.batch)
        if "decoding" in wanted:
            record(
                f"Decoding: {title}",
                decoding(paths, options.size),
                "Where libjpeg-turbo decodes at full size, all agree; torch's resize rounds "
                "otherwise.",
            )
        if "loading" in wanted:
            record(f"Loading: {title}, {options.backbone}", loading(*given))
        if "describing" in wanted:
            record(f"Describing: {title}, {options.backbone}", describing(*given))
        if "memory" in wanted:
            for backbone in dict.fromkeys([options.backbone, *CNNS]):
                record(f"Freed memory: {title}, {backbone}", allocating(backbone, *given[1:]))


if __name__ == "__main__":
    main()
