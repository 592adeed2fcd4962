"""A disk that fills up, a limit on files, a read-only folder: told, nothing lost, work goes on.

The jobs are those of `killing.py`, here in this process, on a small file system in memory.
"""

import errno
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import numpy as np
import pytest

from dinomix import load_model, open_descriptors, save_model
from dinomix.model import ModelConfig, build_model
from dinomix.plumbing.files import atomic_path, new_array
from dinomix.scale import descriptors
from tests.killing import JOBS, contents

WRITERS = ["training", "describing", "preparing copies", "results and figures"]
RENDERING = pytest.param("rendering", marks=pytest.mark.slow)  # starts processes of its own
KIB = 1024
TINY = ModelConfig("toy_vits14", 1, out_channels=8, out_rows=2, image_size=28)


class Disk:
    """A file system of its own, whose size can be changed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    def mount(self, options: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", self.folder]
        subprocess.run(command, check=True, capture_output=True)

    def resize(self, kib: int) -> None:
        self.mount(f"remount,rw,size={kib}k")

    def lock(self) -> None:
        self.mount("remount,ro")


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "disk")
    try:
        disk.mount("size=1m")
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"a small file system cannot be mounted here: {error}")
    yield disk
    subprocess.run(["umount", "--lazy", disk.folder], check=True)


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory):
    """The inputs of a job, and what it makes where there is room: made once for all tests."""
    made: dict[str, tuple[Path, dict[str, str], Path]] = {}

    def make(job: str) -> tuple[Path, dict[str, str], Path]:
        if job not in made:
            root = tmp_path_factory.mktemp("unbroken")
            (root / "given").mkdir()
            JOBS[job].given(root / "given")
            JOBS[job].run(root / "given", root / "out")
            made[job] = root / "given", contents(root / "out"), root / "out"
        return made[job]

    return make


def kib_of(out: Path) -> int:
    """What a folder takes on a file system with pages of 4 KiB."""
    files = [path for path in out.rglob("*") if path.is_file() and not path.is_symlink()]
    return sum(-(-path.stat().st_size // 4096) * 4 for path in files)


def assert_told(error: OSError, folder: Path) -> None:
    assert Path(error.filename).is_relative_to(folder)
    assert "free" in str(error) and "again" in str(error)


def assert_half_written_is_gone(whole: dict[str, str], out: Path) -> None:
    """No file is there that an unbroken job does not leave, but for what it goes on from."""
    goes_on = ("checkpoint.pt", "part", "started.json", "history.csv", "best.safetensors")
    for name in contents(out).keys() - whole.keys():
        assert any(word in name for word in goes_on) and "-dinomix" not in name, name


# ------------------------------------------------------------------------------- a full disk


@pytest.mark.parametrize("job", [*WRITERS, RENDERING])
def test_a_full_disk_is_told_and_work_goes_on(unbroken, disk, job):
    """Room for a third of the work, then for two thirds, then for all of it."""
    given, whole, reference = unbroken(job)
    out = disk.folder / "out"
    for share in (1 / 3, 2 / 3):
        disk.resize(max(64, int(share * kib_of(reference))))
        with pytest.raises(OSError, match=r"No space left on device .* free") as caught:
            JOBS[job].run(given, out)
        assert caught.value.errno == errno.ENOSPC
        assert_told(caught.value, disk.folder)
        assert_half_written_is_gone(whole, out)
    disk.resize(4 * kib_of(reference) + 8192)
    JOBS[job].run(given, out)
    assert contents(out) == whole


def test_finished_descriptors_stay_when_there_is_no_room_for_new_ones(unbroken, disk, monkeypatch):
    given, _, _ = unbroken("describing")
    model = load_model(given / "model.safetensors")
    paths = sorted((given / "city").rglob("*.jpg"))
    file = disk.folder / "d.npy"
    disk.resize(kib_of(given) + 8192)
    before = np.array(descriptors.describe_to(file, model, paths[:4], progress=False))
    disk.resize(64)

    def never(*args, **options):
        pytest.fail("an image was described, though there is no room for its descriptor")

    monkeypatch.setattr(descriptors, "_describe_chunks", never)
    with pytest.raises(OSError, match=r"No space left on device .* make room") as caught:
        descriptors.describe_to(file, model, paths * 50, progress=False)
    assert_told(caught.value, disk.folder)
    assert np.array_equal(open_descriptors(file), before)
    assert {path.name for path in disk.folder.iterdir()} == {"d.npy", "d.json"}


def test_a_map_is_given_only_with_all_its_room(disk):
    """Else the first write beyond what there is would end the process, without a word."""
    with pytest.raises(OSError, match="No space left on device"):
        new_array(disk.folder / "a.npy", "float32", (4096, KIB))
    array = new_array(disk.folder / "b.npy", "float16", (3, KIB))
    array[:] = 1
    array.flush()
    assert np.load(disk.folder / "b.npy").sum() == 3 * KIB


def test_a_model_that_cannot_be_saved_leaves_the_saved_one(disk):
    model = build_model(TINY)
    file = disk.folder / "m.safetensors"
    room = save_model(model, disk.folder.parent / "room.safetensors")
    disk.resize(-(-room.stat().st_size // KIB) + 64)
    saved = save_model(model, file).read_bytes()
    with pytest.raises(OSError, match=r"No space left .*m\.safetensors") as caught:
        save_model(build_model(TINY), file)
    assert caught.value.errno == errno.ENOSPC
    assert file.read_bytes() == saved and list(disk.folder.iterdir()) == [file]


# ------------------------------------------------------------------------------- a limit on files


@pytest.mark.parametrize("job", ["training", "describing"])
def test_a_limit_on_the_size_of_files_is_told(unbroken, tmp_path, job):
    """Works where nothing can be mounted: half of the largest file is refused."""
    resource = pytest.importorskip("resource")
    given, whole, reference = unbroken(job)
    largest = max(path.stat().st_size for path in reference.rglob("*") if path.is_file())
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, before[1]))
    try:
        with pytest.raises(OSError, match=r"File too large .* free") as caught:
            JOBS[job].run(given, tmp_path / "out")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert_told(caught.value, tmp_path)
    assert_half_written_is_gone(whole, tmp_path / "out")
    JOBS[job].run(given, tmp_path / "out")
    assert contents(tmp_path / "out") == whole


# ------------------------------------------------------------------------------- read-only


@pytest.mark.parametrize("job", [*WRITERS, "preparing links", RENDERING])
def test_a_read_only_folder_is_told_and_left_alone(unbroken, disk, job):
    given, whole, reference = unbroken(job)
    disk.resize(4 * kib_of(reference) + 8192)
    out = disk.folder / "out"
    out.mkdir()
    disk.lock()
    with pytest.raises(OSError, match="Read-only file system") as caught:
        JOBS[job].run(given, out)
    assert Path(caught.value.filename).is_relative_to(disk.folder)
    assert not list(out.iterdir())
    disk.resize(4 * kib_of(reference) + 8192)
    JOBS[job].run(given, out)
    assert contents(out) == whole


@pytest.mark.parametrize(
    "job", ["training", "describing", "preparing copies", "preparing links", RENDERING]
)
def test_finished_work_can_be_used_where_nothing_can_be_written(unbroken, disk, job):
    given, whole, reference = unbroken(job)
    disk.resize(4 * kib_of(reference) + 8192)
    out = disk.folder / "out"
    JOBS[job].run(given, out)
    disk.lock()
    JOBS[job].run(given, out)
    assert contents(out) == whole


@pytest.mark.skipif(not hasattr(os, "geteuid"), reason="no such permissions on Windows")
def test_a_forbidden_folder_is_named():
    folder = Path(tempfile.mkdtemp())  # pytest's own are closed to others
    folder.chmod(0o555)
    me = os.geteuid()
    try:
        if me == 0:
            os.seteuid(65534)  # permissions do not bind root
        with pytest.raises(PermissionError) as caught, atomic_path(folder / "a.csv"):
            pytest.fail("nothing can be written there")
    finally:
        os.seteuid(me)
        folder.chmod(0o755)
        shutil.rmtree(folder)
    assert str(folder) in str(caught.value)


def test_errors_about_other_files_are_left_as_they_are(tmp_path):
    theirs = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/elsewhere/theirs")
    with pytest.raises(OSError) as caught, atomic_path(tmp_path / "ours.csv"):
        raise theirs
    assert caught.value is theirs and not list(tmp_path.iterdir())
