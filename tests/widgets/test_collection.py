"""What is loaded and described when, what is kept, and answers in words."""

import numpy as np
import pytest

from dinomix import TestSet, retrieve
from dinomix.datasets.layouts import read_folders, read_frames
from dinomix.evaluation import Retrieval
from dinomix.model import ModelConfig, build_model
from dinomix.widgets.collection import Collection, in_words, right_answers


@pytest.fixture
def model():
    config = ModelConfig(backbone="toy_vits14", image_size=28, out_channels=8, out_rows=2)
    return build_model(config, weights="hub")


def test_retrieves_as_the_package_does(model, test_root):
    test = TestSet(test_root)
    collection = Collection([test], {"a": model}, k=3)
    found, expected = collection.retrieval(test.name, "a"), retrieve(model, test, 3, progress=False)
    np.testing.assert_array_equal(found.ranked, expected.ranked)
    np.testing.assert_allclose(found.similarities, expected.similarities, rtol=1e-5)
    for mine, theirs in zip(found.positives, expected.positives, strict=True):
        np.testing.assert_array_equal(mine, theirs)


def test_loads_and_describes_once_when_asked(model, test_root):
    test, loads, told = TestSet(test_root), [], []
    collection = Collection([test], {"a": lambda: loads.append(1) or model})
    assert loads == [] and not collection.knows(test.name, "a")
    first = collection.retrieval(test.name, "a", told.append)
    assert collection.knows(test.name, "a")
    assert told[0] == "a: loading the model"
    assert told[-1] == "a, queries: 10 of 10 images described"
    told.clear()
    assert collection.retrieval(test.name, "a", told.append) is first
    assert collection.model("a") is model and loads == [1] and told == []


def test_what_the_report_raises_ends_the_describing(model, test_root, tmp_path):
    def report(words: str) -> None:
        if "8 of 10" in words:
            raise TimeoutError

    model.train()
    collection = Collection([TestSet(test_root)], {"a": model}, cache=tmp_path / "cache")
    with pytest.raises(TimeoutError):
        collection.retrieval("city-test", "a", report)
    assert not model.training and not collection.knows("city-test", "a")
    assert len(list((tmp_path / "cache").iterdir())) == 1  # the database's, which was done


def test_a_damaged_query_finds_nothing_and_the_others_do(model, test_root):
    test = TestSet(test_root)
    test.queries[3].write_bytes(b"no image")
    with pytest.warns(UserWarning, match="skipped"):
        found = Collection([test], {"a": model}, k=3).retrieval(test.name, "a")
    assert (found.ranked[3] == -1).all() and (np.delete(found.ranked, 3, 0) >= 0).all()


def test_descriptors_are_kept_on_disk_until_model_or_images_change(model, test_root, tmp_path):
    def describe_anew(model) -> bool:
        told = []
        collection = Collection([TestSet(test_root)], {"a": model}, cache=tmp_path / "cache")
        collection.retrieval("city-test", "a", told.append)
        return any("described" in line for line in told)

    assert describe_anew(model)
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert not describe_anew(model)
    model.aggregator.row_proj.bias.data += 1
    assert describe_anew(model)
    image = TestSet(test_root).queries[0]
    image.write_bytes(TestSet(test_root).queries[1].read_bytes())
    assert describe_anew(model)


def test_takes_retrievals_made_before_and_refuses_what_does_not_fit(test_root, model):
    test = TestSet(test_root)
    other = TestSet.from_lists(
        "other", test.database, test.queries, test.database_utm, test.query_utm, threshold=3
    )
    retrievals = [retrieve(model, each, 2, progress=False) for each in (test, other)]
    collection = Collection([test, other], {"both": retrievals, "one": retrievals[0]})
    assert collection.retrieval("other", "both") is retrievals[1]
    assert collection.retrieval(test.name, "one") is retrievals[0]
    with pytest.raises(ValueError, match="one was retrieved on city-test, not on other"):
        collection.retrieval("other", "one")
    with pytest.raises(ValueError, match="one is given as a retrieval"):
        collection.model("one")
    with pytest.raises(ValueError, match="1 test sets and 0 methods"):
        Collection([test], {})
    with pytest.raises(ValueError, match="have the same name"):
        Collection([test, TestSet(test_root)], {"a": model})


def test_answers_in_words_tell_what_is_known(test_root):
    test = TestSet(test_root)  # places 100 m apart, queries 5 m off
    ranked, similarities = np.tile([0, 1], (10, 1)), np.full((10, 2), 0.5, np.float32)
    truth = [np.array([query % 5]) for query in range(10)]
    metres = Retrieval(test, ranked, similarities, truth)
    assert in_words(metres, 0, 0) == "right, 5.0 m, 0.50"
    assert in_words(metres, 0, 1) == "wrong, 95.0 m, 0.50"
    assert right_answers(metres, 1).tolist() == [False, True]
    ranked[2] = -1  # a damaged query
    assert in_words(metres, 2, 1) == "nothing found"
    assert right_answers(metres, 2).tolist() == [False, False]

    folders = [test.database[0].parent, test.queries[0].parent]
    frames = read_frames(*folders, tolerance=1)
    along = Retrieval(frames, ranked[:5], similarities[:5], truth[:5])
    assert in_words(along, 3, 1) == "wrong, 2 frames, 0.50"

    unlabelled = Retrieval(read_folders(*folders), ranked[:5], similarities[:5], None)
    assert in_words(unlabelled, 0, 0) == "0.50"
    assert right_answers(unlabelled, 0) is None
