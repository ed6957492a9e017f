"""The ends of the formats, and arguments that are wider than the logits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import arrayloss as al
from arrayloss import value_and_grad
from outside.common import close, mean_of

# JAX's compiler takes a subnormal number for 0.
has_subnormal_numbers = pytest.mark.only(lambda backend: backend.library != "jax")


@has_subnormal_numbers
def test_the_gradient_at_a_subnormal_probability(backend: Any) -> None:
    """1 / p overflows, 1 / (N p) does not."""
    for dtype, p in (("float32", 1e-39), ("float64", 2e-309)):
        if dtype not in backend.floats:
            continue
        x = np.array([p, 0.5, 0.5, 0.25, 1 - 2.0**-20, 0.5, 0.75, 0.5], dtype=dtype)
        y = np.array([1, 1, 0, 1, 0, 1, 0, 0])
        x64 = x.astype(np.longdouble)
        due = np.where(y == 1, -1 / x64, 1 / (1 - x64)) / 8
        assert np.isfinite(due.astype(dtype)).all()
        moved, labels = backend.asarray(x, dtype), backend.asarray(y)
        _, gradient = value_and_grad(al.binary_cross_entropy)(moved, labels)
        found = [gradient]
        if backend.differentiates:
            found.append(backend.pullback(al.binary_cross_entropy, moved, labels)[1])
        for got in found:
            np.testing.assert_allclose(backend.to_numpy(got), due.astype(np.float64), rtol=1e-6, atol=0)


@has_subnormal_numbers
def test_the_gradient_at_a_subnormal_probability_with_a_small_weight(backend: Any) -> None:
    x, y, w = np.array([1e-39, 0.5], dtype=np.float32), np.array([1, 0]), np.array([2.0**-10, 1.0], dtype=np.float32)
    due = np.array([-1 / x.astype(np.float64)[0] * 2.0**-10, 2.0])
    moved = backend.asarray(x, "float32"), backend.asarray(y)
    weight, ones = backend.asarray(w, "float32"), backend.asarray(np.ones(2), "float32")
    _, gradient = value_and_grad(al.binary_cross_entropy)(*moved, sample_weight=weight, reduction="sum")
    np.testing.assert_allclose(backend.to_numpy(gradient), due, rtol=1e-6, atol=0)
    _, gradient = value_and_grad(al.binary_cross_entropy)(*moved, reduction="none", cotangent=weight * ones)
    np.testing.assert_allclose(backend.to_numpy(gradient), due, rtol=1e-6, atol=0)


@pytest.mark.compiled
@pytest.mark.only(lambda backend: backend.has_float64)
def test_a_teacher_that_is_wider_than_the_student(backend: Any) -> None:
    """Next to the student: what rounding the teacher to float32 would take is all of the divergence."""
    rng = np.random.default_rng(0)
    student = (rng.normal(size=(6, 5)) * 3).astype(np.float32)
    teacher = student.astype(np.float64) + 1e-6 * rng.normal(size=student.shape)
    value, gradient = mean_of(al.kl_divergence_with_logits, student.astype(np.float64), teacher)
    x, t = backend.asarray(student, "float32"), backend.asarray(teacher, "float64")
    got = backend.jit(value_and_grad(al.kl_divergence_with_logits))(x, t)
    plain = backend.jit(al.kl_divergence_with_logits)(x, t)
    assert [backend.dtype_name(a) for a in (*got, plain)] == ["float32"] * 3
    close(backend.to_numpy(got[0]), value, 1e-4)
    close(backend.to_numpy(plain), value, 1e-4)
    close(backend.to_numpy(got[1]), gradient, 1e-4)
    if backend.differentiates and backend.name != "jax:cpu":  # for which it is compiled whole
        _, of_student = backend.pullback(al.kl_divergence_with_logits, x, t)
        assert backend.dtype_name(of_student) == "float32"
        close(backend.to_numpy(of_student), gradient, 1e-4)


@pytest.mark.only(lambda backend: backend.has_float64)
def test_a_student_that_is_wider_than_the_teacher(backend: Any) -> None:
    rng = np.random.default_rng(0)
    teacher = (rng.normal(size=(6, 5)) * 3).astype(np.float32)
    student = teacher.astype(np.float64) + 1e-6 * rng.normal(size=teacher.shape)
    value, _ = mean_of(al.kl_divergence_with_logits, student, teacher.astype(np.float64))
    got = al.kl_divergence_with_logits(backend.asarray(student, "float64"), backend.asarray(teacher, "float32"))
    assert backend.dtype_name(got) == "float64"
    close(backend.to_numpy(got), value, 1e-6)
