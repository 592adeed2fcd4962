"""Same seed, same machine: the same bytes, from processes that share nothing but the disk."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import write_testset
from tests.killing import JOBS, contents

# Each job of `killing.py` in turn; and what reaches a figure: a model is trained, evaluated on each
# condition, and its table drawn.
ALL = """
import sys
from pathlib import Path

from dinomix import ModelConfig, TrainConfig
from dinomix.figures import recall_bars, save_figure
from dinomix.study.results import save_results
from dinomix.study.study import Study, Variant
from tests.killing import JOBS

root, out, *names = sys.argv[1:]
for name in names:
    JOBS[name].run(Path(root, name), Path(out, name))

given, out = Path(root, "figure"), Path(out, "figure")
model = ModelConfig("toy_vits14", 1, out_channels=8, out_rows=2, image_size=28)
recipe = TrainConfig.preset("toy", epochs=2, places_per_batch=2, device="cpu")
tests = [given / "city"]
study = Study(given / "places", given / "city", tests, out / "runs", ks=(1, 5))
variants = [Variant("mix", model, recipe, seed=seed) for seed in (0, 1)]
tables = [study.test(variant).assign(profile="test") for variant in variants]
table = save_results(tables, out / "results" / "all.csv")
save_figure(recall_bars(table), out / "figures" / "all.png")
"""
NAMES = ["training", "training with workers", "describing"]  # rendering: test_toycity_writer.py


def made_twice(code: str, root: Path, given: Path, *names: str, launcher=()) -> list[Path]:
    """Run code in two new processes, with other hash seeds and working folders: what they made."""
    (root / "script.py").write_text(code)
    here = str(Path(__file__).parents[2])
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": here, "MPLBACKEND": "Agg"}
    outs = [root / "out1", root / "out2"]
    for hash_seed, out in enumerate(outs, 1):
        folder = root / f"started-{hash_seed}"
        folder.mkdir()
        command = [sys.executable, *launcher, root / "script.py", given, out, *names]
        seeded = env | {"PYTHONHASHSEED": str(hash_seed)}
        done = subprocess.run(command, env=seeded, cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
    return outs


@pytest.fixture(scope="module")
def twice(tmp_path_factory):
    """What every job made in one process, and in another one."""
    root = tmp_path_factory.mktemp("twice")
    for name in NAMES:
        (root / name).mkdir()
        JOBS[name].given(root / name)
    JOBS["training"].given(root / "figure")
    write_testset(root / "figure" / "city", places=8, split="val")
    return made_twice(ALL, root, root, *NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_another_process_makes_the_same(twice, name):
    one, other = (contents(out / name) for out in twice)
    assert one == other and len(one) > 1


def test_the_data_behind_a_figure_are_the_same(twice):
    """The figure itself has the same bytes, too."""
    one, other = (contents(out / "figure") for out in twice)
    assert one == other
    assert {"results/all.csv", "figures/all.png"} <= one.keys()


def test_workers_change_nothing(tmp_path):
    from dinomix import PlaceDataset, TestSet, TrainConfig, describe, load_model, train
    from dinomix.model import ModelConfig

    JOBS["training"].given(tmp_path)
    places, val = PlaceDataset(tmp_path / "places"), TestSet(tmp_path / "city")
    model = ModelConfig("toy_vits14", 1, out_channels=8, out_rows=2, image_size=28)
    recipe = {"epochs": 2, "places_per_batch": 2, "lr": 0.02, "augment": "randaugment"}
    for workers in (0, 2):
        config = TrainConfig(**recipe, workers=workers, device="cpu")
        run = train(model, places, val, config, out=tmp_path / f"{workers}", progress=False)
    assert contents(tmp_path / "0") == contents(tmp_path / "2")
    trained = load_model(run.folder / "last.safetensors")
    alone, shared = (
        describe(trained, val.database, workers=workers, progress=False) for workers in (0, 2)
    )
    assert alone.tobytes() == shared.tobytes()


PART = """
import sys
from pathlib import Path

from tests.killing import train_tiny

given, out = map(Path, sys.argv[1:])
train_tiny(given, out, "paper", epochs=2, places_per_batch=2, lr=0.02, augment="randaugment")
"""


@pytest.mark.slow  # quick: that they train like one, in tests/runs/test_train.py
def test_two_processes_train_the_same_twice(tmp_path):
    """`accelerate launch` and `torchrun` on the CPU: gloo adds in a fixed order."""
    given = tmp_path / "given"
    JOBS["training"].given(given)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2")
    one, other = map(contents, made_twice(PART, tmp_path, given, launcher=launcher))
    assert one == other
    assert any(name.endswith("last.safetensors") for name in one)
    config = next((tmp_path / "out1").glob("*/config.json"))
    assert json.loads(config.read_text())["finished"]
