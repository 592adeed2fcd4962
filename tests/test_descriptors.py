"""Descriptors on disk: the same as in memory, whatever stops or divides the work."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from conftest import write_testset
from dask.distributed import Client, LocalCluster

from dinomix import descriptors
from dinomix.descriptors import describe_to, images_hash, model_hash, open_descriptors
from dinomix.model import ModelConfig, build_model, save_model
from dinomix.retrieval import describe
from dinomix.testsets import TestSet

CONFIG = ModelConfig(backbone="toy_vits14", image_size=28, out_channels=8, out_rows=2)


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(CONFIG)


@pytest.fixture
def paths(tmp_path, monkeypatch):
    monkeypatch.setattr(descriptors, "CHUNK", 4)
    return TestSet(write_testset(tmp_path / "city", places=11)).database  # chunks of 4, 4 and 3


def test_the_file_holds_what_describe_gives(model, paths, tmp_path):
    expected = describe(model, paths, progress=False)
    for dtype, error in (("float32", 1e-6), ("float16", 1e-3)):
        found = describe_to(tmp_path / f"{dtype}.npy", model, paths, dtype=dtype, progress=False)
        assert isinstance(found, np.memmap) and found.dtype == dtype
        np.testing.assert_allclose(found, expected, atol=error)
        assert not (tmp_path / f"{dtype}.part").exists()
    np.testing.assert_allclose(open_descriptors(tmp_path / "float32.npy"), expected, atol=1e-6)


def test_what_is_done_is_not_done_again(model, paths, tmp_path, monkeypatch):
    file = tmp_path / "d.npy"
    describe_to(file, model, paths, progress=False)
    monkeypatch.setattr(descriptors, "describe_batches", lambda *a, **b: pytest.fail("again"))
    describe_to(file, model, paths, progress=False)


@pytest.mark.parametrize("what", ["model", "image", "dtype", "fewer"])
def test_another_question_writes_the_file_anew(model, paths, tmp_path, what):
    file = tmp_path / "d.npy"
    first = np.array(describe_to(file, model, paths, progress=False))
    dtype = "float32"
    if what == "model":
        torch.manual_seed(1)
        model = build_model(CONFIG)
    elif what == "image":
        paths[2].write_bytes(paths[3].read_bytes())
    elif what == "dtype":
        dtype = "float16"
    else:
        paths = paths[1:]
    again = describe_to(file, model, paths, dtype=dtype, progress=False)
    np.testing.assert_allclose(again, describe(model, paths, progress=False), atol=1e-3)
    assert again.shape != first.shape or again.dtype != first.dtype or (again != first).any()


def test_a_run_that_breaks_off_goes_on_after_its_whole_chunks(model, paths, tmp_path, monkeypatch):
    whole = np.array(describe_to(tmp_path / "whole.npy", model, paths, progress=False))
    real, seen = descriptors.describe_batches, []

    def breaks_off(model, files, **options):
        for i, batch in enumerate(real(model, files, batch_size=1, **options)):
            if i == 6:  # in the middle of the second chunk
                raise KeyboardInterrupt
            yield batch

    def counts(model, files, **options):
        seen.extend(files)
        return real(model, files, **options)

    file = tmp_path / "d.npy"
    monkeypatch.setattr(descriptors, "describe_batches", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        describe_to(file, model, paths, progress=False)
    with pytest.raises(FileNotFoundError, match="no finished descriptors"):
        open_descriptors(file)
    monkeypatch.setattr(descriptors, "describe_batches", counts)
    np.testing.assert_allclose(describe_to(file, model, paths, progress=False), whole, atol=1e-6)
    assert seen == paths[4:]


def test_shards_share_one_file(model, paths, tmp_path):
    file = tmp_path / "d.npy"
    assert describe_to(file, model, paths, shard=(1, 2), progress=False) is None
    found = describe_to(file, model, paths, shard=(0, 2), progress=False)
    np.testing.assert_allclose(found, describe(model, paths, progress=False), atol=1e-6)


@pytest.mark.parametrize("step", ["replaced", "named"])
def test_a_kill_while_finishing_loses_nothing(model, paths, tmp_path, monkeypatch, step):
    file = tmp_path / "d.npy"

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        if step == "replaced":  # the file has its name, and nothing yet says what it is
            patch.setattr(descriptors, "atomic_path", killed)
        else:
            patch.setattr(descriptors.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            describe_to(file, model, paths, progress=False)
    found = describe_to(file, model, paths, progress=False)
    np.testing.assert_allclose(found, describe(model, paths, progress=False), atol=1e-6)


VICTIM = """
import sys
from pathlib import Path
from dinomix import descriptors
from dinomix.model import load_model
descriptors.CHUNK = 4
folder = Path(sys.argv[1])
model = load_model(folder / "model.safetensors")
paths = sorted((folder / "city").rglob("database/*.jpg"))
descriptors.describe_to(folder / "killed.npy", model, paths, batch_size=1, progress=False)
"""


def test_killed_processes_end_like_an_unbroken_one(model, paths, tmp_path):
    whole = describe_to(tmp_path / "whole.npy", model, paths, batch_size=1, progress=False)
    save_model(model, tmp_path / "model.safetensors")
    script = tmp_path / "victim.py"
    script.write_text(VICTIM)
    part, kills = tmp_path / "killed.part", 0
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    for done in (0, 1, 2):  # killed as soon as so many chunks are there
        victim = subprocess.Popen([sys.executable, script, tmp_path], env=env)
        while victim.poll() is None and not (part / str(done)).exists():
            time.sleep(0.001)
        victim.send_signal(signal.SIGKILL)
        kills += victim.wait() == -signal.SIGKILL
    assert kills
    subprocess.run([sys.executable, script, tmp_path], env=env, check=True)
    assert (tmp_path / "killed.npy").read_bytes() == (tmp_path / "whole.npy").read_bytes()
    assert len(whole) == 11


def die_once(marker):
    """Make the next batch kill the worker that computes it, if no other one has died yet."""
    real = descriptors.describe_batches

    def deadly(*args, **options):
        if not marker.exists():
            marker.touch()
            os._exit(1)
        return real(*args, **options)

    descriptors.describe_batches = deadly


def test_a_cluster_describes_chunks_and_survives_a_dead_worker(model, paths, tmp_path):
    marker = tmp_path / "died"
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster,
        Client(cluster) as client,
    ):
        client.run(die_once, marker)
        found = describe_to(tmp_path / "d.npy", model, paths, client=client)
    assert marker.exists()
    np.testing.assert_allclose(found, describe(model, paths, progress=False), atol=1e-6)


def test_the_hashes_see_weights_config_and_files(model, paths):
    torch.manual_seed(1)
    other = build_model(CONFIG)
    assert model_hash(model) != model_hash(other)
    other.load_state_dict(model.state_dict())
    assert model_hash(model) == model_hash(other)
    assert images_hash(paths) == images_hash(list(paths)) != images_hash(paths[::-1])
    os.utime(paths[0], ns=(1, 1))
    assert images_hash(paths) != images_hash(paths[1:])


def test_a_broken_image_is_named_and_the_other_chunks_stay(model, paths, tmp_path):
    good = paths[9].read_bytes()
    paths[9].write_bytes(b"broken")
    os.utime(paths[9], ns=(1, 1))
    with pytest.raises(OSError, match="cannot decode") as error:
        describe_to(tmp_path / "d.npy", model, paths, batch_size=1, progress=False)
    assert str(paths[9]) in str(error.value)
    assert {path.name for path in (tmp_path / "d.part").iterdir()} >= {"0", "1"}
    assert json.loads((tmp_path / "d.part" / "identity.json").read_text())["shape"][0] == 11
    paths[9].write_bytes(good)
    assert len(describe_to(tmp_path / "d.npy", model, paths, progress=False)) == 11


def test_errors_name_the_value(model, paths, tmp_path):
    with pytest.raises(ValueError, match=r"d\.bin"):
        describe_to(tmp_path / "d.bin", model, paths)
    with pytest.raises(ValueError, match="int8"):
        describe_to(tmp_path / "d.npy", model, paths, dtype="int8")
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        describe_to(tmp_path / "d.npy", model, paths, shard=(2, 2))
    with pytest.raises(ValueError, match="no images"):
        describe_to(tmp_path / "d.npy", model, [])
    with pytest.raises(FileNotFoundError, match="nowhere"):
        describe_to(tmp_path / "d.npy", model, [tmp_path / "nowhere.jpg"])
