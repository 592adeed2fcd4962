"""Descriptors on disk: the same as in memory, whatever stops or divides the work."""

import hashlib
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from dask.distributed import Client, LocalCluster

from dinomix.data import TestSet
from dinomix.images import UnreadableImageError
from dinomix.model import ModelConfig, build_model, save_model
from dinomix.plumbing.files import atomic_path, config_hash
from dinomix.retrieval import SkippedImageWarning, describe, skipped_images
from dinomix.scale import descriptors
from dinomix.scale.descriptors import (
    ChunkedArray,
    describe_to,
    images_hash,
    model_hash,
    open_descriptors,
    open_skipped,
    write_hloc,
)
from tests.conftest import write_image, write_testset
from tests.runs.test_train import python

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
    assert {path.name for path in tmp_path.iterdir()} == {
        *(f"{dtype}.{suffix}" for dtype in ("float32", "float16") for suffix in ("npy", "json")),
        "city",
    }
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

    def killed_at_the_record(path):
        return killed() if path == tmp_path / "d.json" else atomic_path(path)

    with monkeypatch.context() as patch:
        if step == "replaced":  # the file has its name, and nothing yet says what it is
            patch.setattr(descriptors, "atomic_path", killed_at_the_record)
        else:
            patch.setattr(ChunkedArray, "clear", killed)
        with pytest.raises(KeyboardInterrupt):
            describe_to(file, model, paths, progress=False)
    found = describe_to(file, model, paths, progress=False)
    np.testing.assert_allclose(found, describe(model, paths, progress=False), atol=1e-6)


VICTIM = """
import sys
from pathlib import Path
from dinomix.scale import descriptors
from dinomix.model import load_model
descriptors.CHUNK = 4
folder = Path(sys.argv[1])
model = load_model(folder / "model.safetensors")
paths = sorted((folder / "city").rglob("database/*.jpg"))
descriptors.describe_to(folder / "killed.npy", model, paths, batch_size=1, progress=False)
"""


@pytest.mark.slow  # quick: tests/reliability/test_kill.py
def test_killed_processes_end_like_an_unbroken_one(model, paths, tmp_path):
    whole = describe_to(tmp_path / "whole.npy", model, paths, batch_size=1, progress=False)
    save_model(model, tmp_path / "model.safetensors")
    script = tmp_path / "victim.py"
    script.write_text(VICTIM)
    kills = 0
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    for done in (0, 1, 2):  # killed as soon as so many chunks are there
        victim = subprocess.Popen([sys.executable, script, tmp_path], env=env)
        while victim.poll() is None and not list(tmp_path.glob(f"killed.*.part/{done}")):
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
        np.testing.assert_allclose(found, describe(model, paths, progress=False), atol=1e-6)
        paths[5].write_bytes(b"broken")
        found = describe_to(tmp_path / "d.npy", model, paths, client=client, on_error="skip")
    assert marker.exists()
    assert skipped_images(paths, found) == [paths[5]]
    assert open_skipped(tmp_path / "d.npy") == [str(paths[5])]


def test_the_hashes_see_weights_config_and_files(model, paths):
    torch.manual_seed(1)
    other = build_model(CONFIG)
    assert model_hash(model) != model_hash(other)
    other.load_state_dict(model.state_dict())
    assert model_hash(model) == model_hash(other)
    assert images_hash(paths) == images_hash(list(paths)) != images_hash(paths[::-1])
    os.utime(paths[0], ns=(1, 1))
    assert images_hash(paths) != images_hash(paths[1:])


def test_another_image_size_never_reads_the_wrong_descriptors(paths, tmp_path):
    model, file = build_model(replace(CONFIG, aggregator="gem")), tmp_path / "d.npy"
    own = model_hash(model)
    assert own == model_hash(model, 28) == model_hash(model, [28, 28])
    assert len({own, *(model_hash(model, size) for size in (42, (28, 42), "native"))}) == 4
    for size in (None, 42, "native", None):
        found = describe_to(file, model, paths, image_size=size, progress=False)
        expected = describe(model, paths, image_size=size, progress=False)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not np.allclose(found, describe(model, paths, image_size=42, progress=False), atol=1e-4)


def test_another_version_of_a_formula_has_another_hash(model, monkeypatch):
    """SALAD's entries were in another order: its stored descriptors must not meet new ones."""
    options = {"clusters": 3, "cluster_dim": 2, "token_dim": 2, "hidden": 4}
    salad = build_model(replace(CONFIG, aggregator="salad", aggregator_options=options))
    now, mixed = model_hash(salad), model_hash(model)
    monkeypatch.setattr(type(salad.aggregator), "version", 1)
    digest = hashlib.sha256(config_hash(salad.config.to_dict()).encode())  # as it was
    for name, tensor in sorted(salad.state_dict().items()):
        digest.update(name.encode() + tensor.numpy().tobytes())
    assert model_hash(salad) == digest.hexdigest()[:16] != now
    assert model_hash(model) == mixed


def test_a_broken_image_is_named_and_the_other_chunks_stay(model, paths, tmp_path):
    good = paths[9].read_bytes()
    paths[9].write_bytes(b"broken")
    os.utime(paths[9], ns=(1, 1))
    with pytest.raises(OSError, match="cannot decode") as error:
        describe_to(tmp_path / "d.npy", model, paths, batch_size=1, progress=False)
    assert str(paths[9]) in str(error.value)
    (part,) = tmp_path.glob("d.*.part")
    assert {path.name for path in part.iterdir()} >= {"0", "1"}
    paths[9].write_bytes(good)
    assert len(describe_to(tmp_path / "d.npy", model, paths, progress=False)) == 11


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"file": "d.bin"}, r"d\.bin"),
        ({"dtype": "int8"}, "int8"),
        ({"shard": (2, 2)}, r"\(2, 2\)"),
        ({"shard": "all"}, "'all'"),
        ({"on_error": "ignore"}, "on_error is 'ignore'"),
        ({"paths": []}, "no images"),
    ],
)
def test_errors_name_the_value(model, paths, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words):
        describe_to(**{"file": "d.npy", "model": model, "paths": paths, **options})
    assert {path.name for path in tmp_path.iterdir()} == {"city"}


# ------------------------------------------------------------------------------- damaged files


def test_skipped_images_are_listed_and_never_silent(model, paths, tmp_path, monkeypatch):
    file, good = tmp_path / "d.npy", paths[9].read_bytes()
    whole = np.array(describe_to(file, model, paths, on_error="skip", progress=False))
    assert open_skipped(file) == []
    paths[9].write_bytes(good[:200])
    paths[2].write_bytes(b"")
    with pytest.warns(SkippedImageWarning) as told:
        found = describe_to(file, model, paths, on_error="skip", progress=False)
    assert {str(path) in str([str(w.message) for w in told]) for path in (paths[2], paths[9])}
    assert open_skipped(file) == [str(paths[2]), str(paths[9])]
    assert np.isnan(found[[2, 9]]).all()
    np.testing.assert_allclose(np.delete(found, [2, 9], 0), np.delete(whole, [2, 9], 0), atol=1e-6)
    with monkeypatch.context() as patch:
        patch.setattr(descriptors, "describe_batches", lambda *a, **b: pytest.fail("again"))
        describe_to(file, model, paths, on_error="skip", progress=False)
        with pytest.raises(UnreadableImageError, match="2 images") as error:
            describe_to(file, model, paths, progress=False)
    assert str(paths[2]) in str(error.value)
    paths[9].write_bytes(good)  # mended
    paths[2].write_bytes(good)
    assert not np.isnan(describe_to(file, model, paths, progress=False)).any()
    assert open_skipped(file) == []


@pytest.mark.filterwarnings("ignore::dinomix.retrieval.SkippedImageWarning")
def test_skipped_images_survive_shards_and_kills(model, paths, tmp_path, monkeypatch):
    for number in (1, 6, 10):  # one in each chunk
        paths[number].write_bytes(b"broken")
    options = {"on_error": "skip", "dtype": "float16", "progress": False}
    describe_to(tmp_path / "whole.npy", model, paths, batch_size=4, **options)
    real, file = ChunkedArray.mark_done, tmp_path / "d.npy"

    def killed(array, chunk, skipped):
        if chunk == 2:
            raise KeyboardInterrupt
        real(array, chunk, skipped)

    with monkeypatch.context() as patch:
        patch.setattr(ChunkedArray, "mark_done", killed)
        with pytest.raises(KeyboardInterrupt):
            describe_to(file, model, paths, shard=(0, 2), batch_size=1, **options)
    assert describe_to(file, model, paths, shard=(0, 2), batch_size=4, **options) is None
    found = describe_to(file, model, paths, shard=(1, 2), batch_size=4, **options)
    assert skipped_images(paths, found) == [paths[1], paths[6], paths[10]]
    assert open_skipped(file) == [str(paths[i]) for i in (1, 6, 10)]


@pytest.mark.parametrize("what", ["missing", "loop"])
def test_what_is_not_there_is_an_error_before_anything_is_computed(model, paths, tmp_path, what):
    gone = tmp_path / "gone.jpg"
    if what == "loop":
        gone.symlink_to(gone)
    with pytest.raises(OSError, match=r"gone\.jpg"):
        describe_to(tmp_path / "d.npy", model, [*paths, gone], on_error="skip", progress=False)
    assert not list(tmp_path.glob("d.*"))


def test_names_of_all_kinds_can_be_described(model, tmp_path):
    names = ["two words.jpg", "北京 é.jpg", "@@ a@b.jpg", os.fsdecode(b"\xff.jpg")]
    paths = [tmp_path / "photos" / name for name in names]
    for path in paths:
        write_image(path, np.random.default_rng(0))
    paths[3].write_bytes(b"broken")
    with pytest.warns(SkippedImageWarning):
        describe_to(tmp_path / "d.npy", model, paths, on_error="skip", progress=False)
    assert open_skipped(tmp_path / "d.npy") == [str(paths[3])]


# ------------------------------------------------------------------------------- processes

SHARD = """
import os, signal, sys
from pathlib import Path
from dinomix.scale import descriptors
from dinomix.model import load_model

folder, out, dies = Path(sys.argv[1]), sys.argv[2], len(sys.argv) > 3
descriptors.CHUNK = 4
describe, mark = descriptors.describe_batches, descriptors.ChunkedArray.mark_done

def told(model, paths, **options):
    print(*(f"described {Path(path).name}" for path in paths), sep="\\n", flush=True)
    return describe(model, paths, **options)

def last(array, chunk, skipped):
    mark(array, chunk, skipped)
    os.kill(os.getpid(), signal.SIGKILL)

descriptors.describe_batches = told
if dies:
    descriptors.ChunkedArray.mark_done = last
model = load_model(folder / "model.safetensors")
paths = sorted((folder / "city").rglob("database/*.jpg"))
options = {"on_error": "skip", "batch_size": 4, "device": "cpu", "progress": False}
descriptors.describe_to(folder / out, model, paths, shard="auto", **options)
"""
LAUNCH = "-m accelerate.commands.launch --multi_gpu --num_processes=2 --num_machines=1"
LAUNCH += " --mixed_precision=no --dynamo_backend=no --main_process_port=0"  # on the CPU it is both


@pytest.fixture
def sharded(model, tmp_path):
    """A script that describes 19 images, one of them broken, in five chunks."""
    paths = TestSet(write_testset(tmp_path / "city", places=19)).database
    paths[6].write_bytes(b"broken")
    save_model(model, tmp_path / "model.safetensors")
    (tmp_path / "shard.py").write_text(SHARD)
    return tmp_path / "shard.py", paths


def assert_as_of_one_process(file, model, paths):
    one = describe(model, paths, on_error="skip", progress=False)
    np.testing.assert_allclose(open_descriptors(file), one, atol=1e-6)  # NaN where it is NaN
    assert open_skipped(file) == [str(path) for path in skipped_images(paths, one)]


@pytest.mark.slow  # quick: the next one, which starts the processes itself
@pytest.mark.filterwarnings("ignore::dinomix.retrieval.SkippedImageWarning")
def test_processes_of_accelerate_share_the_work(model, sharded, tmp_path):
    script, paths = sharded
    told = python(script, tmp_path, "two.npy", launcher=LAUNCH.split())
    described = sorted(line for line in told.splitlines() if line.startswith("described"))
    assert described == sorted(f"described {path.name}" for path in paths)  # each by one of them
    assert_as_of_one_process(tmp_path / "two.npy", model, paths)
    assert not list(tmp_path.glob("*.part"))


@pytest.mark.filterwarnings("ignore::dinomix.retrieval.SkippedImageWarning")
def test_a_killed_process_costs_its_chunk_alone(model, sharded, tmp_path):
    script, paths = sharded

    def shard(rank, *args):
        env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        env |= {"RANK": str(rank), "WORLD_SIZE": "2"}
        command = [sys.executable, script, tmp_path, "two.npy", *args]
        return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)

    both = shard(0), shard(1, "dies")  # at work together: the second one dies after a chunk
    told = [process.communicate()[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, -signal.SIGKILL]
    assert not (tmp_path / "two.npy").exists()
    assert told[0] == [f"described {path.name}" for path in (*paths[:4], *paths[8:12], *paths[16:])]
    again = shard(1)
    assert again.communicate()[0].splitlines() == [f"described {p.name}" for p in paths[12:16]]
    assert_as_of_one_process(tmp_path / "two.npy", model, paths)


def test_hloc_reads_descriptors(model, tmp_path):
    h5py = pytest.importorskip("h5py")
    rng, images = np.random.default_rng(0), tmp_path / "images"
    paths = [images / "db" / "a b.jpg", images / "db" / "half.jpg", images / "q" / "c.jpg"]
    for path in paths:
        write_image(path, rng)
    paths[1].write_bytes(b"half")
    with pytest.warns(SkippedImageWarning):
        kept = describe_to(tmp_path / "d.npy", model, paths, dtype="float16", on_error="skip")
    with pytest.warns(SkippedImageWarning, match="1 images were skipped.*half.jpg"):
        write_hloc(tmp_path / "d.h5", paths, kept)
    names = []
    with h5py.File(tmp_path / "d.h5") as store:
        store.visititems(  # as hloc's list_h5_names
            lambda _, each: (
                names.append(each.parent.name) if isinstance(each, h5py.Dataset) else None
            )
        )
        assert sorted(names) == ["/db/a b.jpg", "/q/c.jpg"]
        for name, row in (("db/a b.jpg", 0), ("q/c.jpg", 2)):
            assert store[name]["global_descriptor"].dtype == np.float16
            np.testing.assert_array_equal(store[name]["global_descriptor"].__array__(), kept[row])
    write_hloc(tmp_path / "e.h5", paths[2:], kept[2:], root=tmp_path)
    with h5py.File(tmp_path / "e.h5") as store:
        assert "images/q/c.jpg/global_descriptor" in store
    for wrong in (kept[:2], kept[0], kept.reshape(3, -1, 1)):
        with pytest.raises(ValueError, match="is not a row of numbers for 3 images"):
            write_hloc(tmp_path / "e.h5", paths, wrong)


def test_without_h5py(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ImportError, match=r"pip install 'dinomix\[export\]'"):
        write_hloc(tmp_path / "d.h5", ["a.jpg"], np.ones((1, 2)))
