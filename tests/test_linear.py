"""linear_cross_entropy: the cross-entropy of hidden @ weight.T + bias, block by block."""

import inspect
import pickle
import sys
import warnings
from typing import Any

import numpy as np
import pytest

import arrayloss as al
from arrayloss import Hardest, Mean, cross_entropy, linear_cross_entropy, value_and_grad
from arrayloss._backends import generic, in_place
from arrayloss.testing import Implementation
from conformance.runner import Selection, judge

ROWS, FEATURES, CLASSES = 11, 4, 7
RNG = np.random.default_rng(3)
# Numbers whose products are exact in every dtype.
HIDDEN, WEIGHT, BIAS = (RNG.integers(-8, 9, shape) / 4 for shape in ((ROWS, FEATURES), (CLASSES, FEATURES), (CLASSES,)))
LABELS = RNG.integers(CLASSES, size=ROWS)
LABELS[3] = -100
SOFT = RNG.dirichlet(np.ones(CLASSES), ROWS)
WEIGHTS = {"class_weight": RNG.uniform(0.5, 2, CLASSES), "sample_weight": np.arange(ROWS) / 8}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"reduction": "sum", "label_smoothing": 0.1, **WEIGHTS},
    {"reduction": Mean(over="all"), "z_loss": 0.25, **WEIGHTS},
    {"reduction": Hardest(k=3)},
    {"reduction": "none", "z_loss": 0.25},
]


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of three rows, the last of which has two; and of a product with the weight's shape, three of its rows."""
    monkeypatch.setattr(generic.Backend, "logits_bytes", 3 * 4 * CLASSES)
    monkeypatch.setattr(in_place.InPlaceBackend, "logits_bytes", 3 * 4 * CLASSES)
    for library in ("in_place", "jax"):
        module = sys.modules.get(f"arrayloss._backends.{library}")
        if module is not None:
            monkeypatch.setattr(module, "_PRODUCT_BYTES", 4 * FEATURES * 3)


def expected(target: Any, softcap: float | None, options: dict[str, Any], pull: Any) -> tuple[Any, list[Any]]:
    """The value and the three gradients by way of the whole logits, on NumPy in float64."""
    x = HIDDEN @ WEIGHT.T + BIAS
    logits = x if softcap is None else softcap * np.tanh(x / softcap)
    value, d = value_and_grad(cross_entropy)(logits, target, **options, **pull)
    d = d if softcap is None else d / np.cosh(x / softcap) ** 2
    return value, [d @ WEIGHT, d.T @ HIDDEN, d.sum(0)]


def pull_of(options: dict[str, Any]) -> dict[str, Any]:
    return {"cotangent": np.arange(ROWS) / 4} if options.get("reduction") == "none" else {}


def agree(backend: Any, found: Any, due: Any) -> None:
    rtol = 32 * backend.rtol()
    np.testing.assert_allclose(backend.to_numpy(found), due, rtol=rtol, atol=rtol * np.max(np.abs(due)))


@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("target", [LABELS, SOFT], ids=["index", "soft"])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "+".join(o) or "plain")
def test_value_and_grad(backend: Any, options: dict[str, Any], target: Any, softcap: Any) -> None:
    h, w, b, t = (backend.asarray(a) for a in (HIDDEN, WEIGHT, BIAS, target))
    pull = pull_of(options)
    moved = backend.options({**options, **pull})
    value, gradients = value_and_grad(linear_cross_entropy)(h, w, t, bias=b, softcap=softcap, **moved)
    due, of_arrays = expected(target, softcap, options, pull)
    agree(backend, value, due)
    for found, like, gradient in zip(gradients, (h, w, b), of_arrays, strict=True):
        assert found.dtype == like.dtype
        agree(backend, found, gradient)


@pytest.mark.autodiff
@pytest.mark.only(lambda backend, options, softcap: backend.name != "jax:cpu" or (softcap and "reduction" in options))
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "+".join(o) or "plain")
def test_autodiff_by_each_array_alone(backend: Any, options: dict[str, Any], softcap: Any) -> None:
    arrays = [backend.asarray(a) for a in (HIDDEN, WEIGHT, BIAS)]
    t, moved, pull = backend.asarray(LABELS), backend.options(options), pull_of(options)
    seed = backend.asarray(pull["cotangent"]) if pull else None
    due, of_arrays = expected(LABELS, softcap, options, pull)
    for i, gradient in enumerate(of_arrays):

        def loss(a: Any, i: int = i) -> Any:
            h, w, b = (a if j == i else other for j, other in enumerate(arrays))
            return linear_cross_entropy(h, w, t, bias=b, softcap=softcap, **moved)

        value, found = backend.pullback(loss, arrays[i], cotangent=seed)
        agree(backend, value, due)
        agree(backend, found, gradient)


@pytest.mark.autodiff
@pytest.mark.only(lambda backend: backend.name in ("torch:cpu", "jax:cpu"))
@pytest.mark.parametrize("name", ["target", "class_weight", "sample_weight"])
def test_derivatives_by_the_other_inputs_are_never_a_silent_zero(backend: Any, name: str) -> None:
    given = {"target": SOFT, "class_weight": WEIGHTS["class_weight"], "sample_weight": WEIGHTS["sample_weight"] + 1}
    h, w = backend.asarray(HIDDEN), backend.asarray(WEIGHT)
    others = backend.options(given)

    def linear(a: Any) -> Any:
        target, options = _split({**others, name: a})
        return linear_cross_entropy(h, w, target, **options)

    def whole(a: Any) -> Any:
        target, options = _split({**others, name: a})
        return cross_entropy(h @ w.T, target, **options)

    for found, due in zip(*(backend.pullback(f, others[name]) for f in (linear, whole)), strict=True):
        agree(backend, found, backend.to_numpy(due))


def _split(arrays: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    return arrays["target"], {name: a for name, a in arrays.items() if name != "target"}


@pytest.mark.only(lambda backend: backend.name in ("torch:cpu", "jax:cpu"))
def test_a_second_derivative(backend: Any) -> None:
    """The derivative of |gradient|^2 is there, and that of the whole logits."""
    w, t = backend.asarray(WEIGHT), backend.asarray(LABELS)
    found = []
    for loss in (lambda h: linear_cross_entropy(h, w, t), lambda h: cross_entropy(h @ w.T, t)):
        if backend.library == "torch":
            h = backend.asarray(HIDDEN).requires_grad_()
            (g,) = backend.xp.autograd.grad(loss(h), h, create_graph=True)
            found.append(backend.xp.autograd.grad((g * g).sum(), h)[0])
        else:
            import jax

            of_loss = jax.grad(loss)
            found.append(jax.grad(lambda h, of_loss=of_loss: (of_loss(h) ** 2).sum())(backend.asarray(HIDDEN)))
    agree(backend, found[0], backend.to_numpy(found[1]))


@pytest.mark.only(lambda backend: backend.name == "jax:cpu")
def test_jit_and_vmap(backend: Any) -> None:
    import jax

    h, w, t = backend.asarray(np.stack([HIDDEN, HIDDEN / 2])), backend.asarray(WEIGHT), backend.asarray(LABELS)
    loss = jax.jit(jax.vmap(jax.value_and_grad(lambda h: linear_cross_entropy(h, w, t))))
    values, gradients = loss(h)
    for one, value, gradient in zip(h, values, gradients, strict=True):
        due, (of_hidden, *_) = value_and_grad(linear_cross_entropy)(np.asarray(one, np.float64), WEIGHT, LABELS)
        agree(backend, value, due)
        agree(backend, gradient, of_hidden)


@pytest.mark.only(lambda backend: backend.name == "torch:cpu")
def test_torch_compile_and_autocast(backend: Any) -> None:
    """Compiled in one graph; under autocast the products are of half type, and the loss is float32."""
    torch = backend.xp
    h, w, t = (backend.asarray(a) for a in (HIDDEN, WEIGHT, LABELS))
    h, w = h.float().requires_grad_(), w.float().requires_grad_()
    compiled = torch.compile(linear_cross_entropy, backend="aot_eager", fullgraph=True)
    due, (of_hidden, of_weight, _) = value_and_grad(linear_cross_entropy)(HIDDEN, WEIGHT, LABELS)
    for loss, autocast, rtol in ((compiled, False, 1e-5), (linear_cross_entropy, True, 1e-2)):
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            value = loss(h, w, t)
        assert value.dtype == torch.float32
        for found, gradient in zip(torch.autograd.grad(value, (h, w)), (of_hidden, of_weight), strict=True):
            assert found.dtype == torch.float32
            np.testing.assert_allclose(found, gradient, rtol=rtol, atol=rtol * np.max(np.abs(gradient)))
        np.testing.assert_allclose(value.detach(), due, rtol=rtol)


@pytest.mark.only(lambda backend: backend.name == "torch:cpu")
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "+".join(o) or "plain")
def test_no_tensor_of_a_compiled_program_holds_all_logits(backend: Any, options: dict[str, Any], softcap: Any) -> None:
    torch, programs, moved = backend.xp, [], backend.options(options)

    def recorded(program: Any, _: Any) -> Any:
        programs.append(program)
        return make_boxed_func(program)

    from functorch.compile import make_boxed_func
    from torch._dynamo.backends.common import aot_autograd

    torch.compiler.reset()
    inputs = [backend.asarray(a).requires_grad_() for a in (HIDDEN, WEIGHT, BIAS)]
    labels = backend.asarray(LABELS)
    loss = torch.compile(
        lambda h, w, b: linear_cross_entropy(h, w, labels, bias=b, softcap=softcap, **moved),
        backend=aot_autograd(fw_compiler=recorded, bw_compiler=recorded),
        fullgraph=True,
    )
    value = loss(*inputs)
    pull = pull_of(options)
    found = torch.autograd.grad(value, inputs, backend.asarray(pull["cotangent"]) if pull else None)
    due, of_arrays = expected(LABELS, softcap, options, pull)
    agree(backend, value.detach(), due)
    for one, gradient in zip(found, of_arrays, strict=True):
        agree(backend, one, gradient)
    made = [node.meta.get("val") for program in programs for node in program.graph.nodes]
    assert len(programs) == 2
    tensors = [x for x in made if isinstance(x, torch.Tensor)]
    assert max(x.numel() for x in tensors) < ROWS * CLASSES
    # Nor those of a block: it would keep its own memory, and the program would grow with the number of blocks.
    assert not [x.shape for x in tensors if x.ndim == 2 and x.shape[0] > 1 and x.shape[1] == CLASSES]


@pytest.mark.only(lambda backend: backend.name == "torch:cpu")
def test_compiled_transforms_of_torch_func(backend: Any) -> None:
    """Right derivatives, where the operator of a compiled program has none."""
    torch = backend.xp
    h, w, t = (backend.asarray(a) for a in (HIDDEN, WEIGHT, LABELS))

    def ours(w: Any) -> Any:
        return linear_cross_entropy(h, w, t)

    def whole(w: Any) -> Any:
        return torch.nn.functional.cross_entropy(h @ w.T, t)

    grad, jvp, vmap = torch.func.grad, torch.func.jvp, torch.func.vmap
    for transform in (
        grad,
        lambda f: lambda w: jvp(f, (w,), (w,))[1],
        lambda f: lambda w: vmap(f)(torch.stack([w, w / 2])),
        lambda f: grad(lambda w: grad(f)(w).square().sum()),
    ):
        torch.compiler.reset()
        compiled = torch.compile(transform(ours), backend="aot_eager", fullgraph=True)
        torch.testing.assert_close(compiled(w), transform(whole)(w))


@pytest.mark.only(lambda backend: backend.name == "torch:cpu")
def test_compiled_numbers_may_change(backend: Any) -> None:
    """Dynamo makes a symbol of an option that has changed."""
    torch = backend.xp
    h, w, t = (backend.asarray(a) for a in (HIDDEN, WEIGHT, LABELS))
    torch.compiler.reset()
    compiled = torch.compile(linear_cross_entropy, backend="aot_eager", fullgraph=True)
    for z_loss, softcap in ((1e-4, 3), (0.25, 2), (0.5, 2.5)):
        found = compiled(h, w.requires_grad_(), t, z_loss=z_loss, softcap=softcap)
        due = linear_cross_entropy(h, w, t, z_loss=z_loss, softcap=softcap)
        torch.testing.assert_close(found, due)
        torch.testing.assert_close(torch.autograd.grad(found, w), torch.autograd.grad(due, w))


@pytest.mark.only(lambda backend: backend.name == "torch:cpu")
def test_value_and_grad_of_parameters(backend: Any) -> None:
    """Of tensors that require a gradient, value and gradients are differentiable, as those of the other losses."""
    torch = backend.xp
    h, w, labels = backend.asarray(HIDDEN), backend.asarray(WEIGHT), backend.asarray(LABELS)
    value, gradients = value_and_grad(linear_cross_entropy)(h, w.requires_grad_(), labels)
    (by_weight,) = torch.autograd.grad(value, w, retain_graph=True)
    torch.testing.assert_close(by_weight, gradients.weight)
    logits = h @ w.T
    norm = torch.autograd.grad(cross_entropy(logits, labels), logits, create_graph=True)[0] @ w
    torch.testing.assert_close(gradients.hidden, norm)
    torch.testing.assert_close(
        torch.autograd.grad(gradients.hidden.sum(), w), torch.autograd.grad(norm.sum(), w), rtol=1e-4, atol=1e-6
    )


@pytest.mark.only(lambda backend: backend.name in ("numpy", "torch:cpu", "jax:cpu"))
@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_the_gradient_of_the_weight_is_summed_in_float32(backend: Any, dtype: str) -> None:
    """In a half type, 300 equal terms of 1/8 from one row each would stop at 256/8 or at 32/8."""
    if dtype not in backend.floats:
        pytest.skip(f"{backend.name} has no {dtype}")
    rows = 4096
    h = backend.asarray(np.full((rows, 1), 0.125), dtype)
    w = backend.asarray(np.zeros((2, 1)), dtype)
    t = backend.asarray(np.zeros(rows, np.int64))
    _, gradients = value_and_grad(linear_cross_entropy)(h, w, t, reduction="sum")
    assert backend.to_numpy(gradients.weight).ravel().tolist() == [-rows / 16, rows / 16]


def test_the_features_axis_and_no_samples(backend: Any) -> None:
    h = np.moveaxis(np.stack([HIDDEN, HIDDEN / 2]), -1, 1)  # (2, features, rows)
    t = np.stack([LABELS, LABELS])
    w = backend.asarray(WEIGHT)
    for x, target, axis in ((h, t, 1), (HIDDEN[0], np.asarray(2), -1), (HIDDEN[:0], LABELS[:0], -1)):
        due, (of_hidden, of_weight, _) = value_and_grad(linear_cross_entropy)(
            x, WEIGHT, target, axis=axis, reduction="sum"
        )
        logits = np.moveaxis(np.tensordot(x, WEIGHT, ((axis,), (1,))), -1, axis)
        np.testing.assert_allclose(due, cross_entropy(logits, target, axis=axis, reduction="sum"), rtol=1e-12)
        assert of_hidden.shape == x.shape
        value, gradients = value_and_grad(linear_cross_entropy)(
            backend.asarray(x), w, backend.asarray(target), axis=axis, reduction="sum"
        )
        np.testing.assert_allclose(backend.to_numpy(value), due, rtol=32 * backend.rtol())
        np.testing.assert_allclose(backend.to_numpy(gradients.hidden), of_hidden, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(backend.to_numpy(gradients.weight), of_weight, rtol=1e-4, atol=1e-5)


@pytest.mark.only(lambda backend: backend.name in ("numpy", "torch:cpu"))
def test_the_suite_judges_it_as_a_cross_entropy(backend: Any) -> None:
    """With the identity as the weight the logits are the hidden state itself, and the contract is the same."""

    def loss(logits: Any, target: Any, **options: Any) -> Any:
        return linear_cross_entropy(logits, _identity(logits), target, **options)

    def both(_: Any) -> Any:
        def closed(logits: Any, target: Any, **options: Any) -> Any:
            value, gradients = value_and_grad(linear_cross_entropy)(logits, _identity(logits), target, **options)
            return value, gradients.hidden

        return closed

    families = ("margins", "ties", "offset", "outlier", "soft", "weights")
    selection = Selection(("cross_entropy",), (backend.name,), ("eager",), ("float32",), families, quick=True)
    results = judge(Implementation("linear", {"cross_entropy": loss}, both), selection)
    assert [(r.family, r.case, r.quantity, r.reason, r.measured) for r in results if r.failed] == []
    assert sum(r.status == "ok" for r in results) > 10


def _identity(x: Any) -> Any:
    if hasattr(x, "new_zeros"):
        eye = x.new_zeros((x.shape[-1],) * 2)
        return eye.fill_diagonal_(1)
    return x.__array_namespace__().eye(x.shape[-1], dtype=x.dtype)


def test_errors_name_the_argument(backend: Any) -> None:
    h, w, b, t = (backend.asarray(a) for a in (HIDDEN, WEIGHT, BIAS, LABELS))
    for arrays, options, words in (
        ((h, w[:, :3], t), {}, r"weight has shape \(7, 3\) and hidden \(11, 4\).*\(classes, 4\)"),
        ((h, w[0, :], t), {}, r"weight must have shape \(classes, 4\)"),
        ((h, w, t), {"bias": b[:3]}, r"bias has shape \(3,\).*\(7,\)"),
        ((h, w, t), {"softcap": 0.0}, "softcap must be a finite number above 0"),
        ((h, w, t), {"softcap": -1.0}, "softcap must be"),
        ((h, w, t), {"z_loss": -1.0}, "z_loss must be"),
        ((h, w, backend.asarray(SOFT[:, :3])), {}, r"target has shape \(11, 3\)"),
    ):
        with pytest.raises(ValueError, match=words):
            linear_cross_entropy(*arrays, **options)
    with pytest.raises(TypeError, match="weight"):
        linear_cross_entropy(h, None, t)
    with pytest.raises(TypeError, match="weight must be an array of floating-point numbers"):
        linear_cross_entropy(h, t, t)
    if backend.reports_labels:
        with pytest.raises(ValueError, match=r"label 7 at position \(0,\)"):
            linear_cross_entropy(h, w, backend.asarray(np.full(ROWS, CLASSES)))


def test_it_is_a_loss_like_the_others() -> None:
    assert {"bias", "softcap", "z_loss", "label_smoothing", "class_weight"} <= set(
        inspect.signature(linear_cross_entropy).parameters
    )
    f = pickle.loads(pickle.dumps(value_and_grad(linear_cross_entropy)))
    assert f(HIDDEN, WEIGHT, LABELS)[1].bias is None
    with pytest.raises((TypeError, ValueError)):  # it has no raw scores
        al.objective(linear_cross_entropy)(LABELS, HIDDEN)


def test_what_jax_reserves(monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond the inputs and the gradients, of 250 MiB of logits."""
    jax = pytest.importorskip("jax")
    monkeypatch.undo()
    rows, features, classes = 2048, 1024, 32000
    shapes = ((rows, features), "float32"), ((classes, features), "float32"), ((rows,), "int32")
    gradients = jax.jit(jax.grad(linear_cross_entropy, (0, 1)))
    made = gradients.lower(*(jax.ShapeDtypeStruct(*one) for one in shapes)).compile().memory_analysis()
    if jax.devices()[0].platform != "cpu" or made is None:
        pytest.skip("how much is reserved is known of XLA's CPU compiler")
    assert made.temp_size_in_bytes < 64 * 2**20


@pytest.mark.parametrize("options", [{}, {"softcap": 2.0}, {"softcap": 2.0, "reduction": Hardest(k=3)}], ids=str)
def test_a_row_that_does_not_count_may_be_anything(backend: Any, options: dict[str, Any]) -> None:
    """Its NaN reaches no gradient, that of the weight included, whichever way it is left out."""
    where, sample_weight = np.arange(ROWS) != 5, (np.arange(ROWS) != 7) * 1.0
    wrong = HIDDEN.copy()
    wrong[[3, 5, 7]] = np.asarray([[np.nan], [np.inf], [np.nan]])

    def both(hidden: Any) -> Any:
        h, w, b, s = (backend.asarray(a) for a in (hidden, WEIGHT, BIAS, sample_weight))
        more = {"bias": b, "where": backend.asarray(where), "sample_weight": s, **options}
        return value_and_grad(linear_cross_entropy)(h, w, backend.asarray(LABELS), **more)

    (value, gradients), (due, of) = both(wrong), both(HIDDEN)
    assert float(backend.to_numpy(value)) == float(backend.to_numpy(due))
    for found, one in zip(gradients, of, strict=True):
        np.testing.assert_array_equal(backend.to_numpy(found), backend.to_numpy(one))


@pytest.mark.only(lambda backend: backend.name == "torch:cpu")
def test_torch_transforms(backend: Any) -> None:
    """vmap, forward over reverse, with a row that does not count; and a device without autocast."""
    torch = backend.xp
    wrong = HIDDEN.copy()
    wrong[3] = np.nan
    h, w, t = (torch.asarray(a) for a in (wrong, WEIGHT, LABELS))

    def whole(h: Any, w: Any) -> Any:
        return cross_entropy(h @ w.T, t)

    def ours(h: Any, w: Any) -> Any:
        return linear_cross_entropy(h, w, t)

    clean = torch.where(torch.isnan(h), 0, h)
    vmap, grad = torch.func.vmap, torch.func.grad
    two = torch.stack([h, h / 2]), torch.stack([clean, clean / 2])
    for transform in (lambda f: vmap(f, (0, None)), lambda f: vmap(grad(f, 1), (0, None))):
        torch.testing.assert_close(transform(ours)(two[0], w), transform(whole)(two[1], w))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # torch's own, of torch.jit
        torch.testing.assert_close(torch.func.hessian(ours, 1)(h, w), torch.func.hessian(whole, 1)(clean, w))
    assert linear_cross_entropy(*(a.to("meta") for a in (h, w, t))).is_meta


@pytest.mark.only(lambda backend: backend.name == "jax:cpu")
def test_export_with_a_symbolic_number_of_classes(backend: Any) -> None:
    import jax
    from jax import export

    h, w = (backend.asarray(a, "float32") for a in (HIDDEN, WEIGHT))
    labels = backend.asarray(LABELS)
    (classes,) = export.symbolic_shape("v")
    shape = jax.ShapeDtypeStruct((classes, FEATURES), w.dtype)
    made = export.export(jax.jit(lambda w: linear_cross_entropy(h, w, labels)))(shape)
    assert float(made.call(w)) == pytest.approx(float(linear_cross_entropy(h, w, labels)), rel=1e-6)


@pytest.mark.only(lambda backend: backend.name == "jax:cpu")
@pytest.mark.parametrize("explicit", [False, True])
def test_a_sharded_layer(backend: Any, explicit: bool) -> None:
    """Inside `shard_map`, with a weight that every device has; and on a mesh with explicit axes."""
    import jax
    from jax.sharding import AxisType, NamedSharding
    from jax.sharding import PartitionSpec as P

    h, w, t = (backend.asarray(a) for a in (HIDDEN, WEIGHT, LABELS))
    due, (of_hidden, of_weight, _) = value_and_grad(linear_cross_entropy)(HIDDEN, WEIGHT, LABELS)
    mesh = jax.make_mesh((1,), ("d",), axis_types=(AxisType.Explicit if explicit else AxisType.Auto,))

    def step(h: Any, w: Any, t: Any) -> Any:
        def loss(h: Any, w: Any) -> Any:
            value = linear_cross_entropy(h, w, t)
            return value if explicit else jax.lax.pmean(value, "d")

        return jax.value_and_grad(loss, (0, 1))(h, w)

    if explicit:
        with jax.set_mesh(mesh):
            h, t = (jax.device_put(a, NamedSharding(mesh, P("d"))) for a in (h, t))
            value, gradients = jax.jit(step)(h, jax.device_put(w, NamedSharding(mesh, P())), t)
    else:
        specs = {"in_specs": (P("d"), P(), P("d")), "out_specs": (P(), (P("d"), P()))}
        value, gradients = jax.jit(jax.shard_map(step, mesh=mesh, **specs))(h, w, t)
    agree(backend, value, due)
    for found, gradient in zip(gradients, (of_hidden, of_weight), strict=True):
        agree(backend, found, gradient)
