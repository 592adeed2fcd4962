"""Made data in the published layouts, small enough for every test to have its own."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import settings
from PIL import Image

# The same examples in every run; and on a busy machine none fails for taking long.
settings.register_profile("same every time", derandomize=True, deadline=None)
settings.load_profile("same every time")

SHARED = Path(__file__).parents[2] / "shared"  # real photographs and weights, where there are any


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--require-browser", action="store_true", help="fail where no browser is, instead of skip"
    )


def code_blocks(page: str, language: str) -> list[str]:
    """The fenced code of one language in a page of Markdown."""
    return re.findall(rf"```{language}\n(.*?)```", page, re.DOTALL)


def write_image(path: Path, rng: np.random.Generator, size: tuple[int, int] = (28, 28)) -> None:
    """A JPEG of soft random blobs, which resizing and augmenting change as they do a photo."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blobs = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    Image.fromarray(blobs).resize(size, Image.Resampling.BICUBIC).save(path, quality=95)


def write_places(root: Path, places: int = 6, images: int = 4, city: str = "Madeup") -> Path:
    """A training set in the GSV-Cities layout."""
    rng = np.random.default_rng(0)
    rows = ["place_id,year,month,northdeg,city_id,lat,lon,panoid"]
    for place in range(places):
        for image in range(images):
            lat, lon = f"45.{place:04d}", f"3.{image:03d}"
            rows.append(
                f"{place},2020,{image + 1},{90 * image},{city},{lat},{lon},p{place}i{image}"
            )
            name = f"{city}_{place:07d}_2020_{image + 1:02d}_{90 * image:03d}_{lat}_{lon}"
            write_image(root / "Images" / city / f"{name}_p{place}i{image}.jpg", rng)
    (root / "Dataframes").mkdir(parents=True, exist_ok=True)
    (root / "Dataframes" / f"{city}.csv").write_text("\n".join(rows) + "\n")
    return root


def write_testset(
    root: Path, places: int = 5, split: str = "test", conditions: tuple[str, ...] = ("",)
) -> Path:
    """A test set in the UTM layout: places 100 m apart, one query of each condition 5 m off."""
    rng = np.random.default_rng(1)
    for place in range(places):
        name = f"@{400000 + 100 * place:.2f}@5000000.00@31@T@45.0@1.0@d{place}@@@@@@@@.jpg"
        write_image(root / "images" / split / "database" / name, rng)
        for condition in conditions:
            name = f"@{400005 + 100 * place:.2f}@5000000.00@31@T@45.0@1.0@q{place}@@@@@@@@.jpg"
            folder = f"queries_{condition}" if condition else "queries"
            write_image(root / "images" / split / folder / name, rng)
    return root


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture
def places_root(tmp_path: Path) -> Path:
    return write_places(tmp_path / "places")


@pytest.fixture
def test_root(tmp_path: Path) -> Path:
    return write_testset(tmp_path / "city", conditions=("day", "night"))
