"""What a call takes of memory, and the benchmark that measures time."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arrayloss as al
from benchmarks import memory

SHAPE = (2560, 2000)  # large enough for NumPy's threads
LOGITS = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
LABELS = np.random.default_rng(1).integers(0, SHAPE[1], SHAPE[0])
# What a loss may take on an eager library on a CPU: some blocks, and a few numbers for each row.
LITTLE = LOGITS.nbytes // 3


@pytest.mark.parametrize(("threads", "scale"), [(1, 1.0), (2, 1.0), (1, 30.0)])
def test_a_loss_on_numpy_takes_little(monkeypatch: pytest.MonkeyPatch, threads: int, scale: float) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    x = LOGITS * np.float32(scale)
    # Neither an array as large as the logits, nor a one-hot of bool, which is a quarter of that.
    for loss in (al.cross_entropy, al.softmax_focal_loss):
        assert memory.of_numpy(lambda loss=loss: loss(x, LABELS)) < LITTLE  # type: ignore[misc]


def test_numpy_copies_no_other_order_of_the_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    first = LOGITS.reshape(20, 1000, 32, 8)
    swapped = np.ascontiguousarray(first.mT).mT
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(first, 1, -1)), -1, 1)
    labels = np.zeros((20, 32, 8), np.int64)
    for x in (first, swapped, last):
        most = memory.of_numpy(lambda x=x: al.cross_entropy(x, labels, axis=1))  # type: ignore[misc]
        assert most < LOGITS.nbytes / 2


def test_a_gradient_on_numpy_takes_itself_and_little() -> None:
    both = al.value_and_grad(al.cross_entropy)
    assert memory.of_numpy(lambda: both(LOGITS, LABELS)) < LOGITS.nbytes + LITTLE


def test_a_loss_on_torch_takes_little() -> None:
    torch = pytest.importorskip("torch")
    x, t = torch.tensor(LOGITS), torch.tensor(LABELS)
    assert memory.of_torch(lambda: al.cross_entropy(x, t)) < LITTLE


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_a_gradient_on_torch_takes_less_than_torchs_own(scale: float) -> None:
    torch = pytest.importorskip("torch")
    x, t = torch.tensor(LOGITS * np.float32(scale), requires_grad=True), torch.tensor(LABELS)

    ours, own = (
        memory.of_torch(lambda loss=loss: torch.autograd.grad(loss(x, t), x))  # type: ignore[misc]
        for loss in (al.cross_entropy, torch.nn.functional.cross_entropy)
    )
    assert ours < 0.9 * own


def test_torch_copies_no_other_order_of_the_axes() -> None:
    torch = pytest.importorskip("torch")
    images = torch.tensor(LOGITS.reshape(5, 1000, 32, 32)).contiguous(memory_format=torch.channels_last)
    t = torch.zeros((5, 32, 32), dtype=torch.int64)
    assert memory.of_torch(lambda: al.cross_entropy(images, t, axis=1)) < LITTLE


def test_a_compiled_gradient_on_jax_takes_no_more_than_jaxs_own(users_compiler: dict[str, Any]) -> None:
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    x, t = jnp.asarray(LOGITS), jnp.asarray(LABELS)

    def most(f: Any) -> int:
        compiled = jax.jit(jax.value_and_grad(f), compiler_options=users_compiler).lower(x, t).compile()
        return int(compiled.memory_analysis().temp_size_in_bytes)

    own = most(lambda x, t: -jnp.take_along_axis(jax.nn.log_softmax(x), t[:, None], 1).mean())
    assert most(al.cross_entropy) < own
    assert most(lambda x, t: al.nll_loss(al.log_softmax(x), t)) < 1.05 * own


def test_a_compiled_divergence_on_jax_takes_less_than_it_did() -> None:
    """It was eleven times the logits, 2.7 GiB for 250 MiB; nothing is run here."""
    jax = pytest.importorskip("jax")
    logits = jax.ShapeDtypeStruct((2048, 32000), jax.numpy.float32)
    for f in (al.kl_divergence_with_logits, jax.value_and_grad(al.kl_divergence_with_logits)):
        compiled = jax.jit(lambda x, t, f=f: f(x, t)).lower(logits, logits).compile()
        assert compiled.memory_analysis().temp_size_in_bytes < 7.5 * logits.size * 4
