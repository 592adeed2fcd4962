"""What a recipe's choices of speed mean on this and on other machines."""

import pytest
import torch
from torch import nn

from dinomix.runs.machine import fastest_precision, has_compiler, make_accelerator
from dinomix.training import TrainConfig, make_optimizer


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, "bf16"),
        ({"amx_bf16": False, "avx512_bf16": True}, "bf16"),
        ({"amx_bf16": False, "avx512_bf16": False, "avx512_f": True}, "no"),
        ({"bf16": True, "neon": True}, "no"),  # an ARM processor; not measured
    ],
)
def test_auto_precision_asks_what_the_cpu_multiplies(monkeypatch, capabilities, expected):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert make_accelerator(TrainConfig(precision="auto", device="cpu")).mixed_precision == expected
    assert make_accelerator(TrainConfig(device="cpu")).mixed_precision == "no"


@pytest.mark.parametrize(("native", "expected"), [(True, "bf16"), (False, "fp16")])
def test_auto_precision_elsewhere(monkeypatch, native, expected):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert fastest_precision(torch.device("cuda")) == expected
    assert fastest_precision(torch.device("mps")) == "no"
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)  # torch cannot tell
    assert fastest_precision(torch.device("cpu")) == "no"


def test_compiling_needs_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert not has_compiler()
    with pytest.raises(ValueError, match=r"compile is True.*C\+\+ compiler.*CXX"):
        make_accelerator(TrainConfig(compile=True, device="cpu"))
    make_accelerator(TrainConfig(device="cpu"))


def taught(name, fused, device="cpu"):
    """Weights after twenty steps against random gradients, and their optimiser."""
    generator = torch.Generator().manual_seed(0)
    weight = nn.Parameter(torch.randn(300, 20, generator=generator).to(device))
    model = nn.ParameterList([weight])
    optimizer = make_optimizer(TrainConfig(optimizer=name, lr=0.01), model, fused=fused)
    for _ in range(20):
        weight.grad = torch.randn(300, 20, generator=generator).to(device)
        optimizer.step()
    return weight.detach().cpu(), optimizer


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_fused_step_is_a_step(name):
    slow, one = taught(name, fused=False)
    fast, other = taught(name, fused=True)
    assert not one.defaults["fused"] and other.defaults["fused"]
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)
    unsaid, chosen = taught(name, fused=None)
    assert not chosen.defaults["fused"] and torch.equal(unsaid, slow)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_steps_are_fused_on_a_gpu(name):
    slow, _ = taught(name, fused=False, device="cuda")
    fast, optimizer = taught(name, fused=None, device="cuda")
    assert optimizer.defaults["fused"]
    torch.testing.assert_close(fast, slow, rtol=1e-5, atol=1e-6)
