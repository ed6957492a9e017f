"""How to test a port: a torch loss that a project has written for itself, and its port to any array.

Run with `pytest examples/test_ported_loss.py`. The original is the numbers' first witness, but not the judge:
where it loses digits, a formula in exact enough arithmetic is.
"""

import math

import numpy as np
import pytest

import arrayloss as al

torch = pytest.importorskip("torch")


def original(logits, target, keep):
    """Focal loss of the hardest examples, as found in the project."""
    p = torch.sigmoid(logits)
    cross_entropy = -(target * torch.log(p) + (1 - target) * torch.log(1 - p))
    missed = target * (1 - p) + (1 - target) * p
    return (missed**2 * cross_entropy).flatten().topk(keep).values.mean()


def ported(logits, target, keep):
    return al.sigmoid_focal_loss(logits, target, gamma=2.0, reduction=al.Hardest(k=keep))


@pytest.fixture(params=["numpy", "torch", "jax"])
def asarray(request):
    if request.param == "jax":
        return pytest.importorskip("jax.numpy").asarray
    return torch.tensor if request.param == "torch" else np.asarray


RNG = np.random.default_rng(0)
LOGITS = RNG.normal(scale=2.0, size=(6, 4)).astype(np.float32)
TARGET = (RNG.random((6, 4)) < 0.3).astype(np.float32)


@pytest.mark.parametrize("keep", [1, 5, 24])
def test_the_numbers_are_the_original_s(asarray, keep):
    expected = original(torch.tensor(LOGITS), torch.tensor(TARGET), keep).item()
    assert float(ported(asarray(LOGITS), asarray(TARGET), keep)) == pytest.approx(expected, rel=1e-5)


def test_the_gradient_is_the_original_s(asarray):
    logits = torch.tensor(LOGITS, requires_grad=True)
    original(logits, torch.tensor(TARGET), 5).backward()
    _, gradient = al.value_and_grad(al.sigmoid_focal_loss)(asarray(LOGITS), asarray(TARGET), reduction=al.Hardest(k=5))
    np.testing.assert_allclose(np.asarray(gradient), logits.grad.numpy(), rtol=1e-4, atol=1e-7)


def test_confident_answers_keep_their_digits(asarray):
    """The original has 0 for a right answer by 20, and inf for a wrong one by 110."""
    right = asarray(np.asarray([20.0], dtype=np.float32)), asarray(np.asarray([1.0], dtype=np.float32))
    wrong = asarray(np.asarray([110.0], dtype=np.float32)), asarray(np.asarray([0.0], dtype=np.float32))
    exact = math.exp(-2 * (20 + math.log1p(math.exp(-20)))) * math.log1p(math.exp(-20))
    assert float(ported(*right, 1)) == pytest.approx(exact, rel=1e-5)
    assert float(ported(*wrong, 1)) == pytest.approx(110)


def test_what_the_original_does_there():
    right, wrong = torch.tensor([20.0]), torch.tensor([110.0])
    assert math.isnan(original(right, torch.tensor([1.0]), 1))  # 0 * log(0)
    assert math.isinf(original(wrong, torch.tensor([0.0]), 1))
