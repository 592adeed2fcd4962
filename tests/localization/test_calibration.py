import dataclasses
import json
import re

import numpy as np
import pytest

from dinomix.data import TestSet
from dinomix.datasets.layouts import read_frames
from dinomix.evaluation import retrieve
from dinomix.localization import Calibration, Position, calibrate
from tests.conftest import write_image
from tests.localization.conftest import find, make_model


@pytest.fixture
def labelled(root, tmp_path):
    """The six photos themselves as queries, which are right, and three others, which are not."""
    database, rng = sorted(root.glob("@*")), np.random.default_rng(5)
    others = [tmp_path / f"other{i}.jpg" for i in range(3)]
    for path in others:
        write_image(path, rng)
    metres = np.array([[400_000.0 + 10 * i, 5_000_000] for i in range(6)])
    positions = metres, np.concatenate([metres, np.full((3, 2), 9e5)])
    return TestSet.from_lists("made", database, database + others, *positions, 25.0)


def test_answers_are_left_out_below_the_threshold(model, root, labelled, tmp_path):
    made = calibrate(model, labelled, 0.85, "similarity", progress=False)  # 6 of 7 are right
    sure = retrieve(model, labelled, 1, progress=False).confidence()
    assert made.threshold == np.sort(sure)[2]
    assert (made.precision, made.recall, made.answered) == (6 / 7, 1.0, 7 / 9)
    made.save(tmp_path / "new" / "c.json")
    assert Calibration.load(tmp_path / "new" / "c.json") == made

    asked = [labelled.queries[0], labelled.queries[6 + sure[6:].argmin()]]
    plain, found = (find(model, root, asked, k=2, reject=each) for each in (None, made))
    assert plain.estimates["rejected"].tolist() == ["", ""]
    kept, left = found.estimates.to_dict("records")
    assert kept == plain.estimates.to_dict("records")[0]
    assert np.isnan(left["latitude"]) and left["agreeing"] == 0
    score = found.matches["similarity"][2]
    reason = f"its similarity is {score:.3f}, below {made.threshold:.3f}, from which on 86%"
    assert left["rejected"] == f"{reason} were right on made"
    assert found.verdict(left, []) == f"not found: {left['rejected']}"
    same = ["query", "rank", "image", "similarity"]
    assert found.matches[same].equals(plain.matches[same])  # what was looked at can still be seen
    assert not found.matches["agrees"][2:].any() and found.matches["metres"][2:].isna().all()


@pytest.mark.parametrize(("method", "off"), [("margin", 1e-4), ("spread", 0.02)])
def test_localize_is_as_sure_as_the_calibration(model, root, labelled, method, off):
    """By all matches that were calibrated on, though fewer are asked for."""
    (root / "old" / "unknown.jpg").unlink()
    sure = retrieve(model, labelled, 10, progress=False).confidence(method)
    for threshold, rejected in ((sure[6] - off, False), (sure[6] + off, True)):
        made = calibrate(model, labelled, 0.1, method, progress=False)
        made = dataclasses.replace(made, threshold=float(threshold))
        found = find(model, root, labelled.queries[6], k=1, reject=made)
        assert bool(found.estimates["rejected"].item()) == rejected


def test_matches_without_a_position_speak_for_no_place():
    fields = {"model": "", "image_size": "", "dataset": "made", "queries": 1, "matches": 3}
    shares = dict.fromkeys(["precision", "recall", "answered"], 1.0)
    made = Calibration(method="margin", threshold=0.15, reach=25.0, **fields, **shares)
    here = Position.from_utm(4e5, 5e6, "31T")
    assert made.complaint([0.9, 0.8, 0.7], [here, here, Position.from_utm(5e5, 5e6, "31T")]) == ""
    for other in (None, Position.from_utm(4e5, 5e6)):  # unknown, and on another map
        assert "its margin is 0.100" in made.complaint([0.9, 0.8, 0.7], [here, other, here])
    assert made.complaint([0.9, 0.8, 0.7], [None] * 3) == made.complaint([0.9, 0.8], [here, None])


def test_what_cannot_be_calibrated_is_told_before_images_are_described(
    model, labelled, tmp_path, monkeypatch
):
    with pytest.raises(ValueError, match=r"no threshold has a precision of 1: the best is 0\.\d+"):
        wrong = labelled.from_lists("wrong", labelled.database, labelled.queries[:6],
            labelled.database_utm, np.roll(labelled.query_utm[:6], 3, axis=0))  # fmt: skip
        calibrate(model, wrong, 1, progress=False)
    monkeypatch.setattr("dinomix.localization.calibration.retrieve", None)
    for i in range(2):
        write_image(tmp_path / "rail" / f"{i}.jpg", np.random.default_rng(i))
    bare = TestSet.from_lists("bare", labelled.database, labelled.queries, None, None)
    frames = read_frames(tmp_path / "rail", tmp_path / "rail", 1, "rail")
    for test, precision, method, complaint in (
        (bare, 0.9, "similarity", "bare: it is unknown where"),
        (frames, 0.9, "margin", "rail is in frames, not in metres: calibrate similarity"),
        (labelled, 0.9, "margins", "no confidence 'margins'; did you mean 'margin'?"),
        (labelled, 95, "similarity", "precision is 95; it should be a share such as 0.95"),
        (labelled, "0.9", "similarity", "precision is '0.9'; it should be a number"),
    ):
        with pytest.raises(ValueError, match=re.escape(complaint)):
            calibrate(model, test, precision, method)


def test_a_calibration_of_something_else_is_refused(model, root, query, labelled, tmp_path):
    made = calibrate(model, labelled, 0.5, progress=False)
    with pytest.raises(ValueError, match=f"calibrated was model {made.model} at 28 x 28, and"):
        find(make_model(1), root, query, reject=made)
    with pytest.raises(ValueError, match=r"calibrated was model .* at 42 x 42, and"):
        find(model, root, query, reject=dataclasses.replace(made, image_size="42 x 42"))
    for method, complaint in (("surest", "no confidence 'surest'"), (5, "method is 5; it should")):
        (tmp_path / "c.json").write_text(json.dumps(dataclasses.asdict(made) | {"method": method}))
        with pytest.raises(ValueError, match=complaint):
            Calibration.load(tmp_path / "c.json")
    (tmp_path / "c.json").write_text('{"method": "margin"}')
    with pytest.raises(ValueError, match=r"Calibration\.threshold is missing"):
        Calibration.load(tmp_path / "c.json")
