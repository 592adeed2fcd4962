"""A small model, photos 10 m apart, and a query."""

import numpy as np
import pytest
import torch

import dinomix
from dinomix.model import ModelConfig, build_model
from tests.conftest import write_image


def make_model(seed=0):
    torch.manual_seed(seed)
    config = ModelConfig(backbone="toy_vits14", image_size=28, out_channels=8, out_rows=2)
    return build_model(config)


@pytest.fixture(scope="session")
def model():
    return make_model()


@pytest.fixture
def root(tmp_path):
    """Six photos 10 m apart, and one of which nobody knows where it was taken."""
    rng = np.random.default_rng(0)
    for i in range(6):
        name = f"@{400_000 + 10 * i:.2f}@5000000.00@31@T@@@p{i}@@@@@@@@.jpg"
        write_image(tmp_path / "photos" / name, rng)
    write_image(tmp_path / "photos" / "old" / "unknown.jpg", rng)
    return tmp_path / "photos"


@pytest.fixture
def query(tmp_path):
    write_image(tmp_path / "q.jpg", np.random.default_rng(9))
    return tmp_path / "q.jpg"


def find(model, root, query, **options):
    return dinomix.localize(model, root, query, progress=False, **options)
