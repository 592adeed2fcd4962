from pathlib import Path

import pytest

from dinomix.plumbing.workspace import data_root, require


def test_data_root_is_the_environments_then_the_checkouts(monkeypatch, tmp_path):
    monkeypatch.setenv("DINOMIX_DATA", str(tmp_path / "big disk"))
    assert data_root() == tmp_path / "big disk"
    monkeypatch.delenv("DINOMIX_DATA")
    checkout = Path(__file__).parents[2]
    monkeypatch.chdir(checkout / "notebooks")
    assert data_root() == checkout / "data"
    monkeypatch.chdir(tmp_path)
    assert data_root() == tmp_path / "data"


def test_everything_that_is_missing_is_listed(tmp_path):
    (tmp_path / "there").mkdir()
    needed = {"there": "x", "gsv": "get it from its authors", "weights/a.pth": "from its page"}
    with pytest.raises(FileNotFoundError) as error:
        require(needed, tmp_path)
    head, *lines = str(error.value).splitlines()
    assert str(tmp_path) in head and "DINOMIX_DATA" in head
    assert lines == ["  gsv: get it from its authors", "  weights/a.pth: from its page"]
    with pytest.raises(FileNotFoundError, match=r"lacks all or parts of gsv: x$") as error:
        require({"there": "x", "gsv": "x"}, tmp_path)
    assert error.value._render_traceback_() == [f"error: {error.value}"]  # as IPython asks
    (tmp_path / "there" / "toycity.started.json").touch()  # rendering was interrupted
    with pytest.raises(FileNotFoundError, match=r"parts of there: x$"):
        require({"there": "x"}, tmp_path)
    (tmp_path / "there" / "toycity.started.json").unlink()
    assert require({"there": "x"}, tmp_path) == tmp_path
