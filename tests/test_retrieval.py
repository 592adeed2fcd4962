import numpy as np
import pytest
import torch

from dinomix.images import UnreadableImageError
from dinomix.model import ModelConfig, build_model
from dinomix.retrieval import describe, pick_device
from dinomix.testsets import TestSet


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_model(
        ModelConfig(backbone="toy_vits14", image_size=28, out_channels=8, out_rows=2)
    )


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


def test_device_by_name():
    assert pick_device("cpu").type == "cpu"
    assert pick_device("auto").type in {"cpu", "cuda", "mps"}


def test_a_described_model_can_still_be_trained(test_root):
    model = build_model(ModelConfig(backbone="toy_vits14", image_size=28, out_channels=8))
    describe(model, TestSet(test_root).queries, progress=False)
    assert not any(p.is_inference() for p in model.parameters())
    model(torch.randn(2, 3, 28, 28)).sum().backward()
