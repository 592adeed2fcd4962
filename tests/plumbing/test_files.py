import dataclasses
from pathlib import Path

import pytest

from dinomix.plumbing import files as storage
from dinomix.plumbing.files import atomic_path, config_hash, to_json


def test_atomic_path_replaces_only_when_the_block_ends_well(tmp_path):
    target = tmp_path / "new" / "file.txt"
    with atomic_path(target) as temporary:
        temporary.write_text("first")
        assert temporary.suffix == ".txt"
        assert not target.exists()
    with pytest.raises(RuntimeError), atomic_path(target) as temporary:
        temporary.write_text("half of the sec")
        raise RuntimeError
    assert target.read_text() == "first"
    assert [path.name for path in target.parent.iterdir()] == ["file.txt"]


def test_what_is_written_can_be_read_by_whom_a_new_file_can(tmp_path):
    (tmp_path / "plain").touch()
    with atomic_path(tmp_path / "ours") as temporary:
        temporary.unlink()
        temporary.touch(mode=0o600)
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path):
    """But not what a living one is writing, nor a stranger's hidden file."""
    dead, plain = tmp_path / ".old-dinomix0123abcd.csv", tmp_path / ".a.b-dinomix0123abcd"
    dead.write_text("half")
    plain.write_text("half")
    stranger = tmp_path / ".old-0123abcd.csv"
    stranger.write_text("mine")
    with atomic_path(tmp_path / "first.csv") as first:
        first.write_text("slow")
        assert not dead.exists() and not plain.exists() and stranger.exists()
        storage._swept.clear()  # as in another process
        with atomic_path(tmp_path / "second.csv") as second:
            second.write_text("quick")
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {stranger.name, "first.csv", "second.csv"}


def test_a_writer_may_put_another_file_in_place_of_its_own(tmp_path):
    """As safetensors does: it is claimed again before it gets its name."""
    with atomic_path(tmp_path / "a.bin") as temporary:
        other = tmp_path / "other"
        other.write_text("new")
        other.replace(temporary)
    assert (tmp_path / "a.bin").read_text() == "new"


def test_hash_depends_on_values_not_on_order_or_type_of_container():
    @dataclasses.dataclass(frozen=True)
    class Config:
        lr: float = 0.1
        size: tuple[int, int] = (1, 2)

    assert config_hash(Config()) == config_hash({"size": [1, 2], "lr": 0.1})
    assert config_hash(Config()) != config_hash(Config(lr=0.2))
    assert config_hash("ab", "c") != config_hash("a", "bc")
    assert to_json(Path("a") / "b") == '"a/b"'
    with pytest.raises(TypeError, match="object"):
        config_hash(object())
