import dataclasses
from pathlib import Path

import pytest

from dinomix.storage import atomic_path, config_hash, to_json


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


def test_hash_depends_on_values_not_on_order_or_type_of_container():
    @dataclasses.dataclass(frozen=True)
    class Config:
        lr: float = 0.1
        size: tuple[int, int] = (1, 2)

    assert config_hash(Config()) == config_hash({"size": [1, 2], "lr": 0.1})
    assert config_hash(Config()) != config_hash(Config(lr=0.2))
    assert config_hash("ab", "c") != config_hash("a", "bc")
    assert to_json(Path("a") / "b") == '"a/b"'


def test_what_has_no_stable_text_is_refused():
    with pytest.raises(TypeError, match="object"):
        config_hash(object())
