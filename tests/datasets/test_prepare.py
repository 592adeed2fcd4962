"""What holds for every data set: idempotent, resumable, nothing replaced, offenders named."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import dinomix
from dinomix.datasets.prepare import PREPARERS, MissingImagesError, planning, preparation
from dinomix.datasets.prepare import prepare as prepare_loudly
from dinomix.plumbing import files
from tests.made_downloads import PITTS_UTM, cells, write_dbstruct, write_nordland, write_pitts


def prepare(*args, **options):
    return prepare_loudly(*args, progress=False, **options)


def entries(root: Path) -> dict[str, tuple]:
    """Everything below `root`: where links lead, and what files hold and when they changed."""
    return {
        str(path.relative_to(root)): (
            os.readlink(path) if path.is_symlink() else path.read_bytes(),
            path.lstat().st_mtime_ns,
        )
        for path in sorted(root.rglob("*"))
        if not path.is_dir()
    }


@pytest.fixture
def pitts(tmp_path):
    return write_pitts(tmp_path / "raw")


@pytest.mark.parametrize("copy", [False, True])
def test_second_run_changes_nothing_and_says_so(pitts, tmp_path, copy):
    out = tmp_path / "out"
    first = prepare("pitts30k", pitts, out, copy=copy)
    assert (first.made, first.kept) == (24, 0)
    assert "placed 24, kept 0" in str(first)
    before = entries(out)
    assert len(before) == 24
    second = prepare("pitts30k", pitts, out, copy=copy)
    assert (second.made, second.kept) == (0, 24)
    assert "nothing to do, all 24 images were in place" in str(second)
    assert "test/database: 6" in str(second)
    assert entries(out) == before


def test_links_are_absolute_and_copies_are_whole(pitts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    prepare("pitts30k", "raw", "links")
    prepare("pitts30k", "raw", "copies", copy=True)
    for link in (tmp_path / "links" / "images").glob("*/*/*"):
        assert link.is_symlink() and Path(os.readlink(link)).is_absolute()
        copy = tmp_path / "copies" / link.relative_to(tmp_path / "links")
        assert not copy.is_symlink() and copy.read_bytes() == link.read_bytes()
        assert copy.stat().st_mtime_ns == link.stat().st_mtime_ns


@pytest.mark.parametrize("copy", [False, True])
def test_killed_run_goes_on(pitts, tmp_path, copy):
    prepare("pitts30k", pitts, tmp_path / "whole", copy=copy)
    out = tmp_path / "out"
    prepare("pitts30k", pitts, out, copy=copy)
    folder = out / "images" / "test" / "database"
    lost = sorted(folder.iterdir())[:2]
    for path in lost:
        path.unlink()
    half = folder / f".{lost[0].stem}-dinomix0123abcd{lost[0].suffix}"  # as atomic_path names it
    half.write_bytes(b"half")
    files._swept.clear()  # as in the next process
    summary = prepare("pitts30k", pitts, out, copy=copy)
    assert (summary.made, summary.kept) == (2, 22)
    left = entries(out).keys() - entries(tmp_path / "whole").keys()
    assert len(left) == (0 if copy else 1)  # hidden, so no test set reads it
    assert len(dinomix.TestSet(out, split="test").database) == 6


def test_run_killed_while_copying_leaves_no_broken_image(pitts, tmp_path, monkeypatch):
    copyfile = preparation.shutil.copyfile
    calls = []

    def dying(source, target):
        calls.append(source)
        if len(calls) == 10:
            Path(target).write_bytes(b"half")
            raise KeyboardInterrupt
        copyfile(source, target)

    monkeypatch.setattr(preparation.shutil, "copyfile", dying)
    out = tmp_path / "out"
    with pytest.raises(KeyboardInterrupt):
        prepare("pitts30k", pitts, out, copy=True)
    assert len(entries(out)) == 9
    monkeypatch.undo()
    assert prepare("pitts30k", pitts, out, copy=True).made == 15


def test_copies_where_links_are_not_possible(pitts, tmp_path, monkeypatch):
    def refuse(source, target):
        raise PermissionError(1, "Operation not permitted")

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(os, "symlink", refuse)
        summary = prepare("pitts30k", pitts, out)
    assert summary.made == 24 and "links are not possible" in str(summary)
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert prepare("pitts30k", pitts, out).made == 0  # an equal file is as good as a link


@pytest.mark.parametrize(
    ("put", "expected"),
    [
        (lambda taken, other: taken.symlink_to(other), "is a link to .*yaw3.jpg, not to"),
        (lambda taken, _: taken.symlink_to("/gone.jpg"), "is a link to /gone.jpg, not to"),
        (lambda taken, _: taken.write_bytes(b"something else"), "differs from"),
        (lambda taken, _: taken.mkdir(), "is no file"),
    ],
    ids=["other link", "dangling link", "other file", "folder"],
)
def test_what_is_there_is_never_replaced(pitts, tmp_path, put, expected):
    out = tmp_path / "out"
    prepare("pitts30k", pitts, out)
    taken = min((out / "images" / "val" / "queries").iterdir())
    taken.unlink()
    put(taken, pitts / "queries_real" / "000" / "000000_pitch1_yaw3.jpg")
    before = entries(out)
    with pytest.raises(FileExistsError, match=f"1 entries.*{taken.name} {expected}"):
        prepare("pitts30k", pitts, out)
    assert entries(out) == before


def test_same_source_by_another_path_and_files_that_no_test_set_reads_do_no_harm(pitts, tmp_path):
    prepare("pitts30k", pitts, tmp_path / "out")
    (tmp_path / "out" / "images" / "val" / "database" / ".DS_Store").write_bytes(b"")
    (tmp_path / "alias").symlink_to(pitts)
    assert prepare("pitts30k", tmp_path / "alias", tmp_path / "out").kept == 24
    with pytest.raises(FileExistsError, match=r"24 entries.*where a copy was.*and 19 more"):
        prepare("pitts30k", pitts, tmp_path / "out", copy=True)


def test_strangers_would_become_part_of_the_test_set(tmp_path):
    write_nordland(tmp_path / "raw")
    prepare("nordland", tmp_path / "raw", tmp_path / "out")
    clean = tmp_path / "raw" / "nordland_imageNames.txt"
    clean.write_text("".join(clean.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(FileExistsError, match=r"2 entries.*images-00028.*is none of its images"):
        prepare("nordland", tmp_path / "raw", tmp_path / "out")


def test_missing_images_are_reported_together_and_nothing_is_written(pitts, tmp_path):
    gone = [f"002/002{pano:03d}_pitch{pitch}_yaw{yaw}.jpg" for pano in range(3)
            for pitch, yaw in ((1, 1), (2, 13))]  # fmt: skip
    for name in gone:
        (pitts / name).unlink()
    with pytest.raises(MissingImagesError, match=r"6 of the 24 .*002000_pitch1.* and 1 more") as e:
        prepare("pitts30k", pitts, tmp_path / "out")
    assert isinstance(e.value, FileNotFoundError)
    assert gone[4] in str(e.value) and gone[5] not in str(e.value)
    assert not (tmp_path / "out").exists()


def test_allow_missing_lists_them_until_they_are_there(pitts, tmp_path):
    out = tmp_path / "out"
    gone = [pitts / "002" / f"00200{pano}_pitch1_yaw1.jpg" for pano in range(2)]
    for path in gone:
        path.rename(path.with_suffix(".away"))
    summary = prepare("pitts30k", pitts, out, allow_missing=True)
    names = [str(path.relative_to(pitts)) for path in gone]
    assert summary.missing == tuple(names)
    assert summary.counts["test/database"] == 4 and summary.made == 22
    assert f"missing 2: {', '.join(names)}" in str(summary)
    assert (out / "missing.txt").read_text() == "".join(f"{name}\n" for name in names)
    before = entries(out)
    assert prepare("pitts30k", pitts, out, allow_missing=True).made == 0
    assert entries(out) == before
    for path in gone:
        path.with_suffix(".away").rename(path)
    summary = prepare("pitts30k", pitts, out)
    assert (summary.made, summary.kept, summary.missing) == (2, 22, ())
    assert not (out / "missing.txt").exists()


def test_two_images_of_one_name(pitts, tmp_path):
    names = ["000/000000_pitch1_yaw1.jpg", "001/000000_pitch1_yaw1.jpg"]
    queries = ["000/000000_pitch1_yaw3.jpg"], PITTS_UTM[:1]
    mat = pitts / "datasets" / "pitts30k_val.mat"
    write_dbstruct(mat, names, PITTS_UTM[[0, 0]], *queries)
    with pytest.raises(ValueError, match=r"1 images would have the name .*000/.*from .*001/"):
        prepare("pitts30k", pitts, tmp_path / "out")


@pytest.mark.parametrize("name", ["../../etc/x_pitch1_yaw1.jpg", "/etc/x_pitch1_yaw1.jpg",
                                  "..\\x_pitch1_yaw1.jpg", "C:x_pitch1_yaw1.jpg"])  # fmt: skip
def test_names_that_lead_out_of_the_download(tmp_path, name):
    folder = write_pitts(tmp_path / "raw", qImageFns=cells([name, "000/000000_pitch1_yaw3.jpg"]))
    with pytest.raises(ValueError, match=r"train.mat names 1 images that lead out.*x_pitch1_yaw1"):
        prepare("pitts30k", folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_unknown_set_and_missing_folder(tmp_path):
    with pytest.raises(ValueError, match=r"'pitts'; there are pitts30k, .*msls"):
        prepare("pitts", tmp_path, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere; expected the unpacked"):
        prepare("pitts30k", tmp_path / "nowhere", tmp_path / "out")


@pytest.mark.parametrize("name", PREPARERS)
def test_empty_folder_says_what_was_expected_and_where_to_get_it(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=r"holds no .*https?://"):
        prepare(name, tmp_path, tmp_path / "out")


def test_bar_is_shown_unless_it_is_off(pitts, tmp_path, capsys):
    prepare("pitts30k", pitts, tmp_path / "quiet")
    assert capsys.readouterr().err == ""
    prepare_loudly("pitts30k", pitts, tmp_path / "loud")
    assert "24/24" in capsys.readouterr().err


def test_utm_image():
    image = planning.utm_image(
        "test/queries",
        Path("/raw/1.png"),
        1234.5,
        678.9,
        zone=7,
        letter="T",
        latlon=(-0.5, -122.5),
        pano_id="p",
        tile=3,
        timestamp="201311",
        note="n",
    )
    assert (image.folder, image.source) == ("test/queries", "/raw/1.png")
    assert image.name == "@0001234.50@0000678.90@07@T@-00.50000@-122.50000@p@03@@@@@201311@n@.png"
    bare = planning.utm_image("", Path("1.jpg"), 0, 0)
    assert image.name.count("@") == bare.name.count("@") == 15
    for bad in ("a@b", "a/b", "a\\b"):
        with pytest.raises(ValueError, match="cannot be a field"):
            planning.utm_image("", Path("1.jpg"), 0, 0, pano_id=bad)


def test_importing_loads_no_torch_and_no_scipy():
    code = (
        "import sys, dinomix.datasets.prepare\n"
        "heavy = {'torch', 'scipy', 'pandas'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
