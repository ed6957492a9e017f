"""Adding a loss, tried for real: one penalty and one public function, and everything else is there."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import textwrap
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arrayloss
from arrayloss import extending, objective, value_and_grad

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Generalised(extending.Penalty):
    q: Any

    def value(self, ops: Any, at: Any) -> Any:
        return -ops.xp.expm1(-self.q * at.neg_log_p) / self.q

    def slope(self, ops: Any, at: Any) -> Any:
        return ops.xp.exp(-self.q * at.neg_log_p)


@extending.loss
def generalised_loss(logits: Any, target: Any, /, *, q: Any = 0.7, **options: Any) -> Any:
    return extending.categorical(extending.softmax, Generalised(q), logits, target, **options)


@extending.loss
def binary_generalised_loss(logits: Any, target: Any, /, *, q: Any = 0.7, **options: Any) -> Any:
    return extending.binary(extending.sigmoid, Generalised(q), logits, target, **options)


def test_a_penalty_is_two_short_methods() -> None:
    code = [line for line in inspect.getsource(Generalised).splitlines() if line.strip()]
    assert len(code) <= 9


LOGITS = np.asarray([[1.0, -2.0, 0.5], [0.0, 3.0, 1.0], [2.0, 2.0, -1.0], [5.0, 0.0, 1.0]])


def expected(x: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values, and the gradient of their sum, in plain float64."""
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    slope = q * p**0.7
    return (q * (1 - p**0.7) / 0.7).sum(1), p * slope.sum(1, keepdims=True) - slope


@pytest.mark.parametrize("soft", [False, True], ids=["labels", "soft"])
def test_generalised_loss(backend: Any, soft: bool) -> None:
    q = np.asarray([[0.2, 0.3, 0.5], [0, 1, 0], [1, 0, 0], [0.9, 0.1, 0]]) if soft else np.eye(3)[[2, 1, 0, 0]]
    value, gradient = expected(LOGITS, q)
    target = q if soft else np.argmax(q, axis=1)
    backend.agree(generalised_loss, LOGITS, target, value.mean(), gradient / 4, rtol=8 * backend.rtol())


def test_binary_generalised_loss(backend: Any) -> None:
    x, y = LOGITS[:, 0], np.asarray([0, 1, 1, 0])
    pairs = np.stack([np.zeros(4), x], axis=1)
    value, gradient = expected(pairs, np.eye(2)[y])
    backend.agree(binary_generalised_loss, x, y, value.mean(), gradient[:, 1] / 4, rtol=8 * backend.rtol())


def test_value_and_grad_has_it_too() -> None:
    value, gradient = value_and_grad(generalised_loss)(LOGITS, np.asarray([2, 1, 0, 0]), reduction="sum")
    values, gradients = expected(LOGITS, np.eye(3)[[2, 1, 0, 0]])
    np.testing.assert_allclose(value, values.sum(), rtol=1e-14)
    np.testing.assert_allclose(gradient, gradients, rtol=1e-13)


def test_a_number_of_the_penalty_may_be_traced() -> None:
    jax = pytest.importorskip("jax", reason="jax is not installed")
    x, y = jax.numpy.asarray(LOGITS), jax.numpy.asarray([2, 1, 0, 0])
    traced = jax.jit(lambda x, y, q: generalised_loss(x, y, q=q))(x, y, 0.7)
    np.testing.assert_allclose(traced, generalised_loss(x, y), rtol=1e-5)


class OneMinusP(extending.Penalty):
    """1 - p, whose derivatives by -log p are p and -p."""

    def value(self, ops: Any, at: Any) -> Any:
        return at.one_minus_p

    def slope(self, ops: Any, at: Any) -> Any:
        return at.p


class Curved(OneMinusP):
    def curvature(self, ops: Any, at: Any) -> Any:
        return -at.p * at.one_minus_p


def test_a_third_formula_makes_a_new_loss_an_objective() -> None:
    def made(penalty: Any) -> Any:
        @extending.loss
        def one_minus_p(logits: Any, target: Any, /, **options: Any) -> Any:
            return extending.categorical(extending.softmax, penalty, logits, target, **options)

        return one_minus_p

    labels = np.asarray([2, 1, 0, 0])
    with pytest.raises(TypeError, match="curvature"):
        objective(made(OneMinusP()))(labels, LOGITS)
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    own = np.eye(3)[labels]
    # d (1 - p_t) / d x_j = p_t (p_j - [j = t]), and once more.
    due = (p * own).sum(1, keepdims=True) * (p * (1 - p) - (p - own) ** 2)
    np.testing.assert_allclose(objective(made(Curved()))(labels, LOGITS)[1], due, rtol=1e-9, atol=1e-16)


@dataclass(frozen=True)
class Halved(extending.Reduction):
    """Half of the sum."""

    def parts(self, samples: Any, losses: Any) -> extending.Parts:
        return extending.Parts(None, 2.0)


@dataclass(frozen=True)
class Above(extending.Reduction):
    """The mean of the losses above a number."""

    ranks = True
    least: float

    def parts(self, samples: Any, losses: Any) -> extending.Parts:
        share = samples.backend.astype(losses > self.least, losses.dtype)
        return extending.Parts(share, samples.backend.sum(share), 0.0)


@pytest.mark.parametrize("reduction", [Halved(), Above(1.0)], ids=repr)
def test_a_reduction_of_ones_own(backend: Any, reduction: Any) -> None:
    labels = np.asarray([1, 1, 2, 0])
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(1, keepdims=True)
    losses, gradients = -np.log(p[range(4), labels]), p - np.eye(3)[labels]
    share = np.full(4, 0.5) if isinstance(reduction, Halved) else (losses > 1) / (losses > 1).sum()
    due, rtol = share[:, None] * gradients, 8 * backend.rtol()
    backend.agree(arrayloss.cross_entropy, LOGITS, labels, share @ losses, due, rtol=rtol, reduction=reduction)


LACKING = {
    "the Penalty Half lacks slope": (extending.Penalty, ["value"]),
    "the Reduction Half lacks parts": (extending.Reduction, []),
    "the Link Half lacks of_labels": (extending.Link, ["of_classes"]),
    "the BinaryLink Half lacks of_answers": (extending.BinaryLink, []),
    "the Kernel Half lacks forward": (extending.Kernel, []),
}


@pytest.mark.parametrize("message", LACKING)
def test_what_lacks_a_part_is_refused_where_it_is_defined(message: str) -> None:
    base, methods = LACKING[message]
    with pytest.raises(TypeError, match=message):
        type("Half", (base,), {name: lambda self, *args: None for name in methods})


@dataclass(frozen=True)
class Cauchit(extending.BinaryLink):
    """A link with a parameter, of any number: a probability that is no sigmoid."""

    steep: float

    def of_answers(self, ops: Any, x: Any) -> Any:
        p = 0.5 + ops.xp.atan(self.steep * x) / np.pi
        slope = self.steep / (np.pi * (1 + (self.steep * x) ** 2))
        at_one, at_zero, _ = extending.given_probabilities.of_answers(ops, p)
        return at_one, at_zero, lambda g, by_one, by_zero: g * slope * (by_one / p - by_zero / (1 - p))


@extending.loss
def cauchit_loss(logits: Any, target: Any, /, *, steep: float = 2.0, **options: Any) -> Any:
    return extending.binary(Cauchit(steep), extending.CrossEntropy(), logits, target, **options)


def test_a_link_of_its_own(backend: Any) -> None:
    x, y = LOGITS[:, 0], np.asarray([0, 1, 1, 0])
    p = 0.5 + np.arctan(2 * x) / np.pi
    value = -np.log(np.where(y == 1, p, 1 - p)).mean()
    slope = 2 / (np.pi * (1 + 4 * x**2))
    gradient = -slope * (y / p - (1 - y) / (1 - p)) / 4
    backend.agree(cauchit_loss, x, y, value, gradient, rtol=8 * backend.rtol())


def test_a_link_is_compiled_once_for_each_parameter() -> None:
    assert Cauchit(2.0) == Cauchit(2.0) != Cauchit(3.0)
    made = [extending.problem(cauchit_loss, LOGITS, np.ones((4, 3)), steep=steep).call for steep in (2.0, 2.0, 3.0)]
    assert made[0] == made[1] != made[2]
    assert hash(made[0]) == hash(made[1])


@extending.loss
def tempered_loss(logits: Any, target: Any, /, *, temperature: float = 2.0, **options: Any) -> Any:
    made = extending.problem(arrayloss.cross_entropy, logits / temperature, target, **options)
    return replace(made, restore=lambda g: g / temperature)


def test_a_loss_of_logits_that_are_made_of_others(backend: Any) -> None:
    labels = np.asarray([2, 1, 0, 0])
    value, gradient = value_and_grad(arrayloss.cross_entropy)(LOGITS / 2, labels)
    backend.agree(tempered_loss, LOGITS, labels, value, gradient / 2, rtol=8 * backend.rtol())


def test_second_derivatives_are_not_those_by_what_was_made() -> None:
    with pytest.raises(TypeError, match="made of another array"):
        objective(tempered_loss)(np.asarray([2, 1, 0, 0]), LOGITS)


USED = """
import sys
import numpy as np
import their_losses as theirs
from arrayloss import grad
x, labels = np.asarray([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]]), np.asarray([0, 2])
assert "their_losses" in theirs.__file__ and ".whl" in theirs.__file__
print(*theirs.generalised_cross_entropy(x, labels, reduction="none"))
print(theirs.generalised_cross_entropy(x, labels, reduction=theirs.Below(1.0)))
print(*grad(theirs.generalised_cross_entropy)(x, labels, reduction=theirs.Below(1.0)).ravel())
print(*[name for name in sys.modules if name in ("torch", "jax")])
"""


def test_the_page_as_a_package_of_its_own(tmp_path: Path) -> None:
    """Its loss and its reduction, in a wheel of another name, used by a Python that has never seen this project."""
    pytest.importorskip("build")
    pytest.importorskip("hatchling")
    page = (ROOT / "docs/adding-a-loss.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", page, re.M | re.S)
    code = "\n\n".join(block for block in blocks if not block.startswith(">>>"))
    imported = re.findall(r"^(?:from|import) (arrayloss\S*)(?: import (.*))?$", code, re.M)
    assert imported
    assert not [names for names in imported if re.search(r"\b_", " ".join(names))]
    package = tmp_path / "their_losses"
    package.mkdir()
    (package / "__init__.py").write_text(code, encoding="utf-8")
    (tmp_path / "pyproject.toml").write_text(
        textwrap.dedent("""
        [build-system]
        requires = ["hatchling"]
        build-backend = "hatchling.build"
        [project]
        name = "their-losses"
        version = "1.0"
        dependencies = ["arrayloss"]
        """)
    )
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--skip-dependency-check", "."]
    done = subprocess.run(build, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = tmp_path.glob("dist/*.whl")
    # Python imports from a wheel as it is.
    path = os.pathsep.join([str(wheel), str(ROOT)])
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    used = [sys.executable, "-W", "error", "-c", USED]
    done = subprocess.run(
        used, cwd=elsewhere, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    each, below, gradient, others = done.stdout.split("\n")[:4]
    x, labels = np.asarray([[2.0, 0.0, 0.0], [0.0, 3.0, 0.0]]), np.asarray([0, 2])
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    own = p[[0, 1], labels]
    np.testing.assert_allclose(np.asarray(each.split(), float), (1 - own**0.7) / 0.7, rtol=1e-12)
    np.testing.assert_allclose(float(below), (1 - own[0] ** 0.7) / 0.7, rtol=1e-12)
    due = own[0] ** 0.7 * (p[0] - np.eye(3)[0])
    np.testing.assert_allclose(np.asarray(gradient.split(), float), [*due, 0, 0, 0], rtol=1e-12)
    assert others == ""
