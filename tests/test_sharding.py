"""Arrays that are shared out among devices: nothing is gathered, and what is sent is counted in the programs."""

import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import arrayloss as al
from benchmarks.sharding import CASES, PLACEMENTS, Case, Found, Placement, chosen

ROOT = Path(__file__).parents[1]
AT = {at.name: at for at in PLACEMENTS}
OF = {case.name: case for case in CASES}
# All-reduces along a mesh axis that the classes are shared out along; one reduction is one. Maximum, and sum of the
# others with the label's logit; targets for each class take the sum of the loss too.
BY_CLASS = {
    "cross_entropy, probabilities": 4,  # with the sum of the target
    "cross_entropy, label_smoothing": 3,
    "nll_loss": 4,  # with log_softmax, and the derivative of both
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


def by_class(case: Case) -> int:
    """The most all-reduces of a loss along a mesh axis that has the classes."""
    paired = list(inspect.signature(getattr(al, case.loss)).parameters)[1] != "target"
    return BY_CLASS.get(case.name, 5 if paired else 2)


def most(case: Case, at: Placement) -> int:
    """Those, and one for the reduction along each other axis, of all samples."""
    if not (case.has_axis and at.classes):
        return at.mesh_axes
    return by_class(case) + at.mesh_axes - 1


@pytest.fixture(scope="module")
def on_jax() -> list[Found]:
    pytest.importorskip("jax", reason="jax is not installed")
    return found("jax", limit=300)


def judged(one: Found) -> dict[str, Any]:
    """What must be said of a case; nothing where it is as it should be."""
    wrong: dict[str, Any] = {}
    case, at = OF[one.case], AT[one.placement]
    if set(one.sent) - {"all-reduce"} or one.sent.get("all-reduce", 0) > most(case, at):
        wrong["sent"] = one.sent
    # A few for each sample, and nothing as large as the logits of a device.
    samples = 128 if "S" in at.name else 64
    if one.numbers > (10 * samples if case.has_axis else 10):
        wrong["numbers"] = one.numbers
    if not one.kept:
        wrong["kept"] = False
    if one.error > 1e-6:
        wrong["error"] = one.error
    return wrong


def test_every_loss_and_placement_is_measured(on_jax: list[Found]) -> None:
    assert {(one.case, one.placement) for one in on_jax} == {(case.name, at.name) for case, at in chosen()}
    losses = {name for name in al.__all__ if name[0].islower()} & {case.loss for case in CASES}
    assert losses >= {"cross_entropy", "nll_loss", "binary_cross_entropy"}
    assert {one.way for one in on_jax} == {"jit", "closed form", "eager", "explicit axes", "shard_map"}


def test_jax_gathers_nothing(on_jax: list[Found]) -> None:
    wrong = {(one.case, one.placement, one.way): judged(one) for one in on_jax}
    assert not {k: v for k, v in wrong.items() if v}
