"""Arrays that are shared out among devices: nothing is gathered, and what is sent is counted in the programs."""

import inspect
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import arrayloss as al
from benchmarks.sharding import CASES, EVERY_INPUT, PLACEMENTS, Case, Found, Placement, chosen

ROOT = Path(__file__).parents[1]
AT = {at.name: at for at in PLACEMENTS}
OF = {case.name: case for case in CASES}
# All-reduces along a mesh axis that the classes are shared out along, of JAX and torch; XLA sends together what can be.
# For labels: the maximum, the sum of the others, the label's logit. A target for each class has
# its own sum, one for the value and two for the gradient; nll_loss is that of log_softmax.
BY_CLASS = {
    "label": (2, 3),
    "cross_entropy, label_smoothing": (3, 5),
    "cross_entropy, probabilities": (4, 6),
    "cross_entropy, z_loss": (2, 6),  # its maximum and sum are a kernel's of their own
    "nll_loss": (4, 4),
    "pair": (5, 7),
    "js_divergence_with_logits": (6, 9),  # the derivatives by both
}


def found(library: str, *, limit: int) -> list[Found]:
    """What `python -m benchmarks.sharding` measures, in processes of its own."""
    ran = subprocess.run(
        [sys.executable, "-W", "error", "-m", "benchmarks.sharding", library],
        capture_output=True,
        text=True,
        timeout=limit,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    return [Found(**json.loads(line)) for line in ran.stdout.splitlines()]


def most(case: Case, at: Placement, on_torch: bool) -> int:
    """The most all-reduces of a case: for the reduction along each axis of the mesh, and for the classes."""
    if not (case.has_axis and at.classes):
        return at.mesh_axes
    pair = list(inspect.signature(getattr(al, case.loss)).parameters)[1] != "target"
    return BY_CLASS.get(case.name, BY_CLASS["pair" if pair else "label"])[on_torch] + at.mesh_axes - 1


@pytest.fixture(scope="module")
def on_jax() -> list[Found]:
    pytest.importorskip("jax", reason="jax is not installed")
    return found("jax", limit=300)


@pytest.fixture(scope="module")
def on_torch() -> list[Found]:
    distributed = pytest.importorskip("torch.distributed", reason="torch is not installed")
    if not (distributed.is_available() and distributed.is_gloo_available()):
        pytest.skip("this torch has no gloo")
    return found("torch", limit=300)


def wrong(one: Found, on_torch: bool = False) -> dict[str, Any]:
    """What is not as it should be."""
    case, at = OF[one.case], AT[one.placement]
    # The closed form counts the samples before there is a loss.
    reduces = most(case, at, on_torch) + (on_torch and one.way == "closed form")
    found: dict[str, Any] = {}
    if set(one.sent) - {"all-reduce"} or one.sent.get("all-reduce", 0) > reduces:
        found["sent"] = one.sent
    # A few for each sample, and nothing as large as a device's logits.
    samples = math.prod(at.samples(at.shape))
    if one.numbers is not None and one.numbers > (10 * samples if case.has_axis else 10):
        found["numbers"] = one.numbers
    if not one.kept:
        found["kept"] = False
    if one.error > 1e-6:
        found["error"] = one.error
    return found


def test_every_loss_and_placement_is_measured(on_jax: list[Found]) -> None:
    assert {(one.case, one.placement) for one in on_jax} == {(case.name, at.name) for case, at in chosen()}
    assert {case.loss for case in CASES} >= {"cross_entropy", "nll_loss", "kl_divergence", "binary_cross_entropy"}
    assert {one.way for one in on_jax} == {"jit", "closed form", "eager", "explicit axes", "shard_map"}


def test_jax_gathers_nothing(on_jax: list[Found]) -> None:
    found = {(one.case, one.placement, one.way): wrong(one) for one in on_jax}
    assert not {k: v for k, v in found.items() if v}


def test_torch_gathers_nothing(on_torch: list[Found]) -> None:
    """With every input's gradient, there is one more sum: right numbers, and nothing gathered, are what is asked."""
    ours = [one for one in on_torch if one.way not in ("F", "loss_parallel")]
    assert {(one.case, one.placement) for one in ours} == {(case.name, at.name) for case, at in chosen()}
    found = {(one.case, one.placement): wrong(one, True) for one in ours if one.way != "every input"}
    assert not {k: v for k, v in found.items() if v}
    for one in ours:
        assert "all-gather" not in one.sent
        assert one.error <= 1e-6, one
    assert {one.case for one in ours if one.way == "every input"} == set(EVERY_INPUT)


def test_torch_sends_no_more_than_torchs_own_losses(on_torch: list[Found]) -> None:
    theirs, ours = (
        {(one.case, one.placement): one.sent["all-reduce"] for one in on_torch if one.way in ways}
        for ways in (("F", "loss_parallel"), ("autograd",))
    )
    assert len(theirs) == 5
    assert all(ours[key] <= n for key, n in theirs.items())


@pytest.fixture
def mesh() -> Iterator[Any]:
    """A mesh of this process alone."""
    distributed = pytest.importorskip("torch.distributed", reason="torch is not installed")
    if not (distributed.is_available() and distributed.is_gloo_available()):
        pytest.skip("this torch has no gloo")
    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    try:
        yield distributed.init_device_mesh("cpu", (1,))
    finally:
        distributed.destroy_process_group()


def test_a_dtensor_goes_with_dtensors_alone(mesh: Any) -> None:
    import torch
    from torch.distributed.tensor import distribute_tensor

    x, t = torch.zeros(2, 3), torch.tensor([1, 2])
    shared_x, shared_t = (distribute_tensor(a, mesh) for a in (x, t))
    with pytest.raises(TypeError, match=r"logits is an array of torch.distributed.tensor, and target is one of torch;"):
        al.cross_entropy(shared_x, t)
    with pytest.raises(TypeError, match=r"logits is an array of torch, and target is one of torch.distributed.tensor;"):
        al.cross_entropy(x, shared_t)
    with pytest.raises(TypeError, match="where is one of torch;"):
        al.binary_cross_entropy_with_logits(shared_x, shared_x, where=x == 0)


def test_a_dtensor_is_not_looked_at(mesh: Any) -> None:
    """A label out of range is nan; and second derivatives, half types and Hardest are there."""
    import torch
    from torch.distributed.tensor import distribute_tensor

    whole = torch.linspace(-1, 2, 12).reshape(4, 3)
    x, t = (distribute_tensor(a, mesh) for a in (whole, torch.tensor([1, 3, 0, -100])))
    losses = al.cross_entropy(x, t, reduction="none").full_tensor()
    assert torch.isnan(losses).tolist() == [False, True, False, False]
    labels = torch.tensor([1, 2, 0, -100])
    t = distribute_tensor(labels, mesh)
    assert al.cross_entropy(x.to(torch.bfloat16), t).dtype == torch.bfloat16
    for options in ({}, {"reduction": al.Hardest(k=2)}):
        twice = []
        for a, b in ((x.clone(), t), (whole.clone(), labels)):
            (slope,) = torch.autograd.grad(al.cross_entropy(a.requires_grad_(), b, **options), a, create_graph=True)
            (second,) = torch.autograd.grad((slope**2).sum(), a)
            twice.append(second.full_tensor() if b is t else second)
        torch.testing.assert_close(*twice)


def test_a_linear_layer_of_dtensors(mesh: Any) -> None:
    import torch
    from torch.distributed.tensor import distribute_tensor

    whole = [torch.linspace(-1, 1, 8).reshape(4, 2), torch.linspace(-2, 1, 6).reshape(3, 2)]
    labels = torch.tensor([0, 1, 2, 1])
    found = []
    for arrays, t in (
        ([distribute_tensor(a, mesh) for a in whole], distribute_tensor(labels, mesh)),
        ([a.clone() for a in whole], labels),
    ):
        value = al.linear_cross_entropy(*(a.requires_grad_() for a in arrays), t)
        found.append([value, *torch.autograd.grad(value, arrays)])
    for shared, right in zip(*found, strict=True):
        torch.testing.assert_close(shared.full_tensor(), right)
