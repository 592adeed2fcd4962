import numpy as np
import pytest
import torch

from dinomix.images import UnreadableImageError
from dinomix.model import ModelConfig, build_model
from dinomix.retrieval import describe, pick_device, search
from dinomix.testsets import TestSet


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(
        ModelConfig(backbone="toy_vits14", image_size=28, out_channels=8, out_rows=2)
    )


def unit(rows: np.ndarray) -> np.ndarray:
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_descriptors_do_not_depend_on_the_batch(model, test_root):
    test = TestSet(test_root)
    whole = describe(model, test.queries, batch_size=10, progress=False)
    single = describe(model, test.queries, batch_size=1, progress=False)
    in_workers = describe(model, test.queries, batch_size=3, workers=2, progress=False)
    assert whole.shape == (10, model.dim) and whole.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(whole, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(single, whole, atol=1e-6)
    np.testing.assert_allclose(in_workers, whole, atol=1e-6)
    backwards = describe(model, test.queries[::-1], batch_size=3, progress=False)
    np.testing.assert_allclose(backwards[::-1], whole, atol=1e-6)


def test_describe_keeps_the_mode_of_the_model(model, test_root):
    paths = TestSet(test_root).queries[:1]
    for training in (True, False):
        model.train(training)
        describe(model, paths, progress=False)
        assert model.training is training
    assert describe(model, [], progress=False).shape == (0, model.dim)


def test_unreadable_image_is_named(model, test_root):
    paths = TestSet(test_root).queries
    paths[3].write_bytes(b"broken")
    with pytest.raises(UnreadableImageError) as error:
        describe(model, paths, progress=False)
    assert str(paths[3]) in str(error.value)


def test_broken_weights_are_noticed(test_root):
    model = build_model(ModelConfig(backbone="toy_vits14", image_size=28, out_channels=8))
    with torch.no_grad():
        model.aggregator.row_proj.bias.fill_(float("nan"))
    with pytest.raises(FloatingPointError, match="not finite"):
        describe(model, TestSet(test_root).queries, progress=False)


@pytest.mark.parametrize(("n", "q", "k"), [(50, 7, 5), (3, 4, 10), (1, 1, 1)])
def test_search_equals_a_slow_loop(n, q, k):
    rng = np.random.default_rng(n)
    database, queries = unit(rng.normal(size=(n, 16))), unit(rng.normal(size=(q, 16)))
    similarities, ranked = search(database, queries, k)
    assert ranked.shape == similarities.shape == (q, min(n, k))
    for i in range(q):
        scores = [float(np.dot(queries[i], row)) for row in database]
        expected = sorted(range(n), key=lambda j: -scores[j])[:k]
        assert ranked[i].tolist() == expected
        np.testing.assert_allclose(similarities[i], [scores[j] for j in expected], atol=1e-6)


def test_search_leaves_its_input_alone_and_takes_any_memory_layout():
    rng = np.random.default_rng(0)
    database = np.asfortranarray(unit(rng.normal(size=(20, 8))))
    before = database.copy()
    _, ranked = search(database, database[::2], 1)
    np.testing.assert_array_equal(database, before)
    np.testing.assert_array_equal(ranked[:, 0], np.arange(0, 20, 2))


def test_search_errors_name_the_shapes():
    row = np.ones((1, 4), np.float32)
    with pytest.raises(ValueError, match=r"\(1, 4\) and \(1, 3\)"):
        search(row, np.ones((1, 3), np.float32))
    with pytest.raises(ValueError, match="0 descriptors"):
        search(row[:0], row)
    with pytest.raises(ValueError, match="nearest 0"):
        search(row, row, 0)


def test_device_by_name():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in {"cpu", "cuda", "mps"}


def test_a_described_model_can_still_be_trained(test_root):
    model = build_model(ModelConfig(backbone="toy_vits14", image_size=28, out_channels=8))
    describe(model, TestSet(test_root).queries, progress=False)
    assert not any(p.is_inference() for p in model.parameters())
    model(torch.randn(2, 3, 28, 28)).sum().backward()
