"""JAX: jit, grad, jvp, vmap, hessian and check_grads, with x64 on and off."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import reference

import arrayloss
from arrayloss import (
    Hardest,
    Mean,
    asymmetric_loss,
    binary_cross_entropy,
    binary_cross_entropy_with_logits,
    cross_entropy,
    kl_divergence_with_logits,
    nll_loss,
    poly_loss,
    sigmoid_focal_loss,
    softmax_focal_loss,
    value_and_grad,
)

jax = pytest.importorskip("jax", reason="jax is not installed")
jnp = jax.numpy

CATEGORICAL = [nll_loss, cross_entropy, softmax_focal_loss, poly_loss]
BINARY = [binary_cross_entropy, binary_cross_entropy_with_logits, sigmoid_focal_loss, asymmetric_loss]
RNG = np.random.default_rng(31)
UNIFORM = RNG.uniform(0.1, 0.9, (3, 4))
SOFT = RNG.dirichlet(np.ones(4), size=3)
LABELS = np.array([0, 2, -100])
WEIGHT = np.array([0.5, 1.5, 2.0])
CLASSES = np.array([1.0, 0.5, 2.0, 0.25])


def names(x: Any) -> str:
    return getattr(x, "__name__", str(x))


@pytest.fixture(params=[False, True], ids=["x32", "x64"])
def x64(request: pytest.FixtureRequest) -> Iterator[bool]:
    with jax.enable_x64(request.param):
        yield request.param


in_double = pytest.mark.only(lambda x64: x64)
in_single = pytest.mark.only(lambda x64: not x64)


@pytest.fixture
def double() -> Iterator[None]:
    with jax.enable_x64(True):
        yield


def logits_for(loss: Any) -> Any:
    x = {nll_loss: -4 * UNIFORM, binary_cross_entropy: UNIFORM}.get(loss, 5 * UNIFORM - 2.5)
    return jnp.asarray(x)


def target_for(loss: Any) -> Any:
    return jnp.asarray(LABELS if loss in CATEGORICAL else (UNIFORM > 0.5).astype(np.int32))


def close(a: Any, b: Any, x64: bool) -> None:
    rtol = 1e-12 if x64 else 2e-6
    np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=rtol, atol=rtol)


def check_grads(f: Any, args: Any, order: int = 1) -> None:
    from jax.test_util import check_grads

    # What is judged is the rules, and most of the time would be the compiler's.
    before = jax.config.read("jax_disable_most_optimizations")
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        check_grads(f, args, order=order, modes=["fwd", "rev"], atol=1e-6, rtol=1e-6, eps=1e-5)
    finally:
        jax.config.update("jax_disable_most_optimizations", before)


# --- the transforms -----------------------------------------------------------------------------------------


@pytest.mark.only(lambda loss, x64: x64 or loss is cross_entropy)
@pytest.mark.parametrize("loss", [*CATEGORICAL, *BINARY], ids=names)
def test_jit_grad_jvp_agree(x64: bool, loss: Any) -> None:
    x, y = logits_for(loss), target_for(loss)
    value, gradient = value_and_grad(loss)(x, y)
    close(jax.jit(loss)(x, y), value, x64)
    if loss is cross_entropy and x64:  # eagerly, each operation of a derivative is compiled
        close(jax.grad(loss)(x, y), gradient, x64)
    close(jax.jit(jax.grad(loss))(x, y), gradient, x64)
    for a, b in zip(jax.jit(value_and_grad(loss))(x, y), (value, gradient), strict=True):
        close(a, b, x64)
    v = jnp.asarray(np.arange(12.0).reshape(3, 4), dtype=x.dtype)
    primal, tangent = jax.jit(lambda x, v: jax.jvp(lambda x: loss(x, y), (x,), (v,)))(x, v)
    close(primal, value, x64)
    np.testing.assert_allclose(np.asarray(tangent), np.asarray((gradient * v).sum()), rtol=1e-5)


@pytest.mark.only(lambda loss, x64: x64 or loss is cross_entropy)
@pytest.mark.parametrize("loss", [*CATEGORICAL, *BINARY], ids=names)
def test_vmap(x64: bool, loss: Any) -> None:
    x = jnp.stack([logits_for(loss), logits_for(loss)[::-1]])
    y = jnp.stack([target_for(loss), target_for(loss)[::-1]])
    expected = [value_and_grad(loss)(a, b) for a, b in zip(x, y, strict=True)]
    values, gradients = (jnp.stack(each) for each in zip(*expected, strict=True))
    found = jax.jit(jax.vmap(jax.value_and_grad(loss)))(x, y)
    close(found[0], values, x64)
    close(found[1], gradients, x64)
    closed = jax.jit(jax.vmap(value_and_grad(loss)))(x, y)
    close(closed[1], gradients, x64)
    if loss is cross_entropy and x64:
        close(jax.vmap(loss)(x, y), values, x64)
        shared = jax.vmap(jax.grad(loss), in_axes=(0, None))(x, y[0])
        close(shared[0], expected[0][1], x64)


def test_per_sample_labels_under_vmap(x64: bool) -> None:
    """Each sample a 1-d row with a 0-d label."""
    x, y = logits_for(cross_entropy), jnp.asarray([0, 3, 1])
    got = jax.jit(jax.vmap(jax.grad(cross_entropy)))(x, y)
    close(got, jax.nn.softmax(x) - jax.nn.one_hot(y, 4), x64)


def test_hessian(x64: bool) -> None:
    """Forward over reverse; of one row, diag(p) - p p'."""
    x = jnp.asarray([0.5, -1.0, 2.0])
    h = jax.jit(jax.hessian(cross_entropy))(x, jnp.asarray(1))
    p = jax.nn.softmax(x)
    close(h, jnp.diag(p) - jnp.outer(p, p), x64)
    z, y = jnp.asarray([0.5, -1.0]), jnp.asarray([1, 0])
    h = jax.jit(jax.hessian(binary_cross_entropy_with_logits))(z, y)
    s = jax.nn.sigmoid(z)
    close(h, jnp.diag(s * (1 - s)) / 2, x64)


@in_double
@pytest.mark.parametrize("f", ["log_softmax", "softmax"])
def test_third_derivatives(x64: bool, f: str) -> None:
    """Divisions are by no more than the classes there are: their powers are in range, whatever the order."""
    x = jnp.asarray([0.3, -0.2, 1.1, 0.5])
    for mode in (jax.jacfwd, jax.jacrev):
        ours, theirs = (jax.jit(mode(mode(mode(g))))(x) for g in (getattr(arrayloss, f), getattr(jax.nn, f)))
        close(ours, theirs, x64)


@in_double
def test_second_derivatives_along_a_long_tangent(x64: bool) -> None:
    x = jnp.asarray(RNG.normal(size=1000))
    for scale in (1.0, 1e20):
        v = jnp.asarray(RNG.normal(size=1000) * scale)
        ours, theirs = (
            jax.jit(lambda x, v, g=g: jax.jvp(jax.grad(lambda x: g(x)[0]), (x,), (v,))[1])(x, v) / scale
            for g in (arrayloss.log_softmax, jax.nn.log_softmax)
        )
        close(ours, theirs, x64)


# --- check_grads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", [cross_entropy, softmax_focal_loss, sigmoid_focal_loss], ids=names)
def test_check_grads_of_the_logits(double: None, loss: Any) -> None:
    y = target_for(loss)
    check_grads(jax.jit(lambda x: loss(x, y)), (logits_for(loss),), order=2)


@pytest.mark.parametrize("loss", CATEGORICAL, ids=names)
def test_check_grads_of_all_categorical_inputs(double: None, loss: Any) -> None:
    def f(x: Any, t: Any, w: Any, c: Any, alpha: Any) -> Any:
        extra = {"alpha": alpha, "gamma": 4 * alpha} if loss is softmax_focal_loss else {}
        smoothing = {} if loss is nll_loss else {"label_smoothing": 0.1}
        return loss(x, t, sample_weight=w, class_weight=c, **smoothing, **extra)

    arrays = [jnp.asarray(a) for a in (SOFT, WEIGHT, CLASSES, CLASSES[::-1] / 2)]
    check_grads(jax.jit(f), (logits_for(loss), *arrays))


@pytest.mark.parametrize("loss", BINARY, ids=names)
def test_check_grads_of_all_binary_inputs(double: None, loss: Any) -> None:
    def f(x: Any, t: Any, w: Any, pos: Any, alpha: Any) -> Any:
        options: dict[str, Any] = {"sample_weight": w, "pos_weight": pos, "label_smoothing": 0.1}
        if loss is sigmoid_focal_loss:
            options |= {"alpha": alpha, "gamma": pos}
        return loss(x, t, **options)

    arrays = (jnp.asarray(SOFT), jnp.asarray(WEIGHT)[:, None], jnp.asarray(CLASSES), jnp.asarray(0.3))
    check_grads(jax.jit(f), (logits_for(loss), *arrays))


def test_check_grads_of_divergence(double: None) -> None:
    x, t = jnp.asarray(5 * UNIFORM), jnp.asarray(5 * SOFT)
    mask = jnp.asarray([0.0, -jnp.inf, 0.0, 0.0])
    check_grads(jax.jit(lambda x, t, w: kl_divergence_with_logits(x, t, sample_weight=w)), (x, t, jnp.asarray(WEIGHT)))
    check_grads(jax.jit(lambda x, t: kl_divergence_with_logits(x + mask, t + mask)), (x, t))


@in_double
def test_hessian_of_divergence(x64: bool) -> None:
    """Of the student, diag(p) - p p', whoever the teacher; of the teacher who equals it, the same."""
    x = jnp.asarray([0.5, -1.0, 2.0])
    hessian = jax.hessian(kl_divergence_with_logits, argnums=(0, 1))
    (xx, _), (_, tt) = jax.jit(hessian)(x, x)
    p = jax.nn.softmax(x)
    close(xx, jnp.diag(p) - jnp.outer(p, p), x64)
    close(tt, jnp.diag(p) - jnp.outer(p, p), x64)


@in_double
def test_transforms_of_divergence(x64: bool) -> None:
    x, t = jnp.asarray(5 * UNIFORM), jnp.asarray(5 * SOFT)
    value, gradient = value_and_grad(kl_divergence_with_logits)(x, t, reduction="sum")
    rows = jax.jit(jax.vmap(jax.value_and_grad(kl_divergence_with_logits)))(x, t)
    close(rows[0].sum(), value, x64)
    close(rows[1], gradient, x64)
    _, tangent = jax.jit(lambda x, v: jax.jvp(lambda x: kl_divergence_with_logits(x, t, reduction="sum"), (x,), (v,)))(
        x, t
    )
    np.testing.assert_allclose(np.asarray(tangent), np.asarray((gradient * t).sum()), rtol=1e-5)


@pytest.mark.parametrize(
    "f",
    [
        arrayloss.softmax,
        arrayloss.log_softmax,
        arrayloss.logsumexp,
        arrayloss.sigmoid,
        arrayloss.log_sigmoid,
        lambda x: arrayloss.logsumexp(x, where=x > 0),
    ],
    ids=names,
)
def test_check_grads_of_activations(double: None, f: Any) -> None:
    check_grads(jax.jit(f), (logits_for(cross_entropy),))


def test_check_grads_of_hardest(double: None) -> None:
    y = jnp.asarray([0, 2, 1])
    check_grads(jax.jit(lambda x: cross_entropy(x, y, reduction=Hardest(k=2))), (logits_for(cross_entropy),))


# --- every float input --------------------------------------------------------------------------------------


def test_every_gradient_against_the_reference(x64: bool) -> None:
    """None silently zero, whichever of the inputs is asked for, alone or together."""
    x = np.asarray(logits_for(cross_entropy), dtype=float)
    inputs = [np.asarray(jnp.asarray(a), dtype=float) for a in (x, SOFT, WEIGHT, CLASSES)]

    def f(x: Any, t: Any, w: Any, c: Any) -> Any:
        return cross_entropy(x, t, sample_weight=w, class_weight=c, label_smoothing=0.125)

    def exact(position: int) -> np.ndarray:
        def scalar(at: Any) -> Any:
            a, b, w, c = (at if i == position else v for i, v in enumerate(inputs))
            samples = reference.categorical(a, b, sample_weight=w, class_weight=c, label_smoothing=0.125)
            return reference.mean(samples)

        return reference.difference(scalar, inputs[position])

    given = [jnp.asarray(a) for a in inputs]
    together = jax.jit(jax.grad(f, argnums=(0, 1, 2, 3)))(*given)
    for i, got in enumerate(together):
        close(got, exact(i), x64)
        if x64:
            close(jax.jit(jax.grad(f, argnums=i))(*given), exact(i), x64)


@in_double
def test_binary_gradients_against_the_reference(x64: bool) -> None:
    x = np.asarray(logits_for(sigmoid_focal_loss), dtype=float)
    inputs = [np.asarray(jnp.asarray(a), dtype=float) for a in (x, SOFT, WEIGHT[:, None], CLASSES, np.array(0.3))]
    keys = ("sample_weight", "pos_weight", "alpha")

    def f(x: Any, t: Any, *rest: Any) -> Any:
        return sigmoid_focal_loss(x, t, **dict(zip(keys, rest, strict=True)))

    got = jax.jit(jax.grad(f, argnums=(0, 1, 2, 3, 4)))(*(jnp.asarray(a) for a in inputs))
    for position, slope in enumerate(got):

        def scalar(at: Any, position: int = position) -> Any:
            a, b, *rest = (at if i == position else v for i, v in enumerate(inputs))
            return reference.mean(reference.binary(a, b, gamma=2.0, **dict(zip(keys, rest, strict=True))))

        close(slope, reference.difference(scalar, inputs[position]), x64)


@in_double
def test_the_slope_of_a_weight_of_zero(x64: bool) -> None:
    x, y, w = logits_for(cross_entropy), jnp.asarray([0, 2, 1]), jnp.asarray([1.0, 0.0, 2.0])
    slope = jax.jit(jax.grad(lambda w: cross_entropy(x, y, sample_weight=w)))(w)
    losses, mean = cross_entropy(x, y, reduction="none"), cross_entropy(x, y, sample_weight=w)
    close(slope, (losses - mean) / 3, x64)


@in_single
def test_integer_targets_have_no_gradient(x64: bool) -> None:
    """float0, as for every integer input in JAX; asking is not an error with allow_int."""
    x, y = logits_for(cross_entropy), target_for(cross_entropy)
    slope = jax.grad(cross_entropy, argnums=1, allow_int=True)(x, y)
    assert slope.dtype == jax.dtypes.float0


def test_ignored_rows_have_exactly_zero_gradient(x64: bool) -> None:
    x = jnp.asarray([[jnp.nan, 0.0], [jnp.inf, jnp.inf], [1.0, 0.0]])
    y, w = jnp.asarray([-100, -100, 0]), jnp.ones(3)

    def f(x: Any, w: Any) -> Any:
        return cross_entropy(x, y, sample_weight=w)

    slope = jax.grad(f, argnums=(0, 1))
    g, of_weight = jax.jit(slope)(x, w)
    assert (g[:2] == 0).all()
    assert jnp.isfinite(g).all()
    assert jnp.isfinite(of_weight).all()
    h = jax.jit(jax.hessian(f))(x, w)
    assert (h[:2] == 0).all()
    assert (h[:, :, :2] == 0).all()
    assert jnp.isfinite(h).all()


# --- tracing ------------------------------------------------------------------------------------------------


@in_single
def test_traces_once(x64: bool) -> None:
    traces = 0

    @jax.jit
    def f(x: Any, y: Any) -> Any:
        nonlocal traces
        traces += 1
        return cross_entropy(x, y)

    x, y = logits_for(cross_entropy), target_for(cross_entropy)
    f(x, y)
    f(x + 1, y)
    assert traces == 1


def test_no_float64_kernel() -> None:
    """With x64 on and float32 logits, only the sum over the samples may be taken in float64."""
    with jax.enable_x64(True):
        x, y = jnp.asarray(UNIFORM, dtype="float32"), jnp.asarray([0, 2, 1])
        for f in (cross_entropy, jax.grad(cross_entropy), value_and_grad(cross_entropy)):
            assert "f64[3,4]" not in str(jax.make_jaxpr(f)(x, y))


@in_single
def test_a_label_out_of_range_under_jit_is_nan(x64: bool) -> None:
    x, y = logits_for(cross_entropy), jnp.asarray([0, 4, -1])
    losses = jax.jit(lambda x, y: cross_entropy(x, y, reduction="none"))(x, y)
    np.testing.assert_array_equal(np.isnan(losses), [False, True, True])
    g = jax.jit(jax.grad(lambda x, y: cross_entropy(x, y, reduction="none")[0]))(x, y)
    assert np.isfinite(g[0]).all()


@in_single
def test_options_may_be_traced(x64: bool) -> None:
    """alpha, pos_weight and Mean(over=array) as arguments of the jitted function."""
    x, y = logits_for(sigmoid_focal_loss), target_for(sigmoid_focal_loss)

    @jax.jit
    def f(x: Any, y: Any, alpha: Any, number: Any) -> Any:
        return sigmoid_focal_loss(x, y, alpha=alpha, reduction=Mean(over=number))

    expected = sigmoid_focal_loss(x, y, alpha=0.25, reduction=Mean(over=7))
    close(f(x, y, jnp.asarray(0.25), jnp.asarray(7.0)), expected, x64)


@in_single
@pytest.mark.parametrize("loss", [cross_entropy, softmax_focal_loss], ids=names)
@pytest.mark.parametrize("differentiated", [False, True])
def test_a_batch_of_any_size_is_exported(loss: Any, differentiated: bool, x64: bool) -> None:
    """jax.export's symbolic lengths, whose comparisons with numbers may be inconclusive."""
    export = pytest.importorskip("jax.export")
    x, y = logits_for(loss), target_for(loss)
    f = jax.jit(jax.value_and_grad(loss) if differentiated else loss)
    (batch,) = export.symbolic_shape("batch")
    symbolic = (jax.ShapeDtypeStruct((batch, *a.shape[1:]), a.dtype) for a in (x, y))
    exported = export.export(f)(*symbolic)
    for found, expected in zip(jax.tree.leaves(exported.call(x, y)), jax.tree.leaves(f(x, y)), strict=True):
        close(found, expected, x64)


@in_single
def test_checkify_finds_nothing_in_what_is_thrown_away(x64: bool) -> None:
    checkify = pytest.importorskip("jax.experimental.checkify")
    checked = checkify.checkify(jax.jit(cross_entropy), errors=checkify.float_checks)
    x, y = logits_for(cross_entropy), target_for(cross_entropy)
    for shift in (0, -2000, 2000):
        error, _ = checked(x + shift, y)
        assert error.get() is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_traced_options_and_a_row_that_does_not_count(bad: float) -> None:
    x, labels = jnp.asarray([[bad] * 3, [0.0, 1.0, 2.0]]), jnp.asarray([-100, 1])
    losses = {
        "temperature": arrayloss.cross_entropy,
        "z_loss": arrayloss.cross_entropy,
        "gamma": arrayloss.softmax_focal_loss,
        "q": arrayloss.generalized_cross_entropy,
    }
    for name, loss in losses.items():

        def f(x: Any, option: Any, loss: Any = loss, name: str = name) -> Any:
            return loss(x, labels, **{name: option})

        by_logits, by_option = jax.jit(jax.grad(f, (0, 1)))(x, 0.5)
        assert by_logits[0].tolist() == [0.0, 0.0, 0.0]
        assert bool(jnp.isfinite(by_option))


def test_labels_of_an_explicit_mesh_that_a_function_closes_over() -> None:
    from jax.sharding import NamedSharding
    from jax.sharding import PartitionSpec as P

    mesh = jax.make_mesh((1,), ("d",))
    with jax.set_mesh(mesh):
        x, labels = (jax.device_put(a, NamedSharding(mesh, P("d"))) for a in (jnp.zeros((4, 3)), jnp.arange(4) % 3))
        for reduction in ("mean", arrayloss.Hardest(k=2)):
            value = jax.jit(lambda x, r=reduction: arrayloss.cross_entropy(x, labels, reduction=r))(x)
            assert float(value) == pytest.approx(math.log(3), rel=1e-6)
        assert jax.grad(arrayloss.cross_entropy)(x, labels).shape == (4, 3)


def test_strict_modes_of_jax() -> None:
    x, labels = jnp.zeros((2, 3), jnp.bfloat16), jnp.asarray([0, 1])
    with jax.numpy_dtype_promotion("strict"):
        assert arrayloss.cross_entropy(x, labels).dtype == jnp.bfloat16
    with jax.numpy_rank_promotion("raise"):
        arrayloss.linear_cross_entropy(jnp.ones((2, 4)), jnp.ones((3, 4)), labels, bias=jnp.zeros(3))
    with jax.debug_nans(True):
        jax.grad(arrayloss.cross_entropy)(x, labels)
