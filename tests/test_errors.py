"""Every error the contract names: its type, and that its message says what to change."""

import re
from typing import Any

import numpy as np
import pytest

import arrayloss
from arrayloss import Hardest, Mean, binary_cross_entropy_with_logits, cross_entropy, grad, value_and_grad

LOGITS = np.array([[0.5, 1.0, -1.0], [2.0, 0.0, 1.0]])
LABELS = np.array([0, 2])
BITS = np.array([[1, 0, 1], [0, 1, 0]])
CATEGORICAL = ["nll_loss", "cross_entropy", "softmax_focal_loss", "poly_loss"]
BINARY = ["binary_cross_entropy", "binary_cross_entropy_with_logits", "sigmoid_focal_loss", "asymmetric_loss"]
ACTIVATIONS = ["softmax", "log_softmax", "logsumexp", "sigmoid", "log_sigmoid"]


def failure(kind: type[BaseException], *said: str, call: Any) -> str:
    with pytest.raises(kind) as caught:
        call()
    message = str(caught.value)
    for part in said:
        assert part.lower() in message.lower(), message
    return message


def raises(kind: type[BaseException], name: str, *args: Any, said: tuple[str, ...] = (), **options: Any) -> str:
    """The plain call and value_and_grad refuse alike."""
    loss = getattr(arrayloss, name)
    failure(kind, *said, call=lambda: value_and_grad(loss)(*args, **options))
    return failure(kind, *said, call=lambda: loss(*args, **options))


# --- shapes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(
    ("logits", "target"),
    [
        ((5, 1), (5,)),
        ((5,), (5, 1)),
        ((2, 3), (3,)),
        ((2, 3), (2, 1)),
        ((2, 3), ()),
        ((3,), (1,)),
        ((6,), (2, 3)),
    ],
    ids=str,
)
def test_binary_shapes(backend: Any, name: str, logits: Any, target: Any) -> None:
    x, y = backend.asarray(np.full(logits, 0.5)), backend.asarray(np.zeros(target, dtype=np.int64))
    raises(ValueError, name, x, y, said=(str(logits), str(target)))
    raises(ValueError, name, x, backend.asarray(np.zeros(target)), said=(str(logits), str(target)))


@pytest.mark.parametrize("name", CATEGORICAL)
@pytest.mark.parametrize(
    ("logits", "target"),
    [((5, 3), (5, 1)), ((5, 3), (3,)), ((5, 3), (5, 3)), ((5, 3), ()), ((3,), (1,))],
    ids=str,
)
def test_index_label_shapes(backend: Any, name: str, logits: Any, target: Any) -> None:
    """(5, 3) integers too: one-hot labels must be floats, or they would be read as labels."""
    x, y = backend.asarray(np.full(logits, -0.5)), backend.asarray(np.zeros(target, dtype=np.int64))
    raises(ValueError, name, x, y, said=(str(logits), str(target)))


@pytest.mark.parametrize("name", CATEGORICAL)
@pytest.mark.parametrize(("logits", "target"), [((5, 3), (5,)), ((5, 3), (5, 1)), ((5, 3), (1, 3))], ids=str)
def test_probability_shapes(backend: Any, name: str, logits: Any, target: Any) -> None:
    x, y = backend.asarray(np.full(logits, -0.5)), backend.asarray(np.full(target, 0.5))
    raises(ValueError, name, x, y, said=(str(logits), str(target)))


def test_the_axis_counts_in_the_shape(backend: Any) -> None:
    x, y = backend.asarray(np.zeros((2, 3))), backend.asarray(np.zeros((2,), dtype=np.int64))
    raises(ValueError, "cross_entropy", x, y, axis=0, said=("(2, 3)", "(2,)"))


@pytest.mark.parametrize("shape", [(2, 1), (1,), (2, 3)], ids=str)
def test_class_weight_shape(backend: Any, shape: Any) -> None:
    x, y = backend.asarray(LOGITS), backend.asarray(LABELS)
    raises(
        ValueError,
        "cross_entropy",
        x,
        y,
        class_weight=backend.asarray(np.ones(shape)),
        said=("class_weight",),
    )
    raises(ValueError, "softmax_focal_loss", x, y, alpha=backend.asarray(np.ones(shape)), said=("alpha",))


@pytest.mark.parametrize("option", ["sample_weight", "where"])
def test_weights_must_broadcast_to_the_samples(backend: Any, option: str) -> None:
    x, y = backend.asarray(LOGITS), backend.asarray(LABELS)
    # (2, 2) would broadcast *with* (2,), to more samples than there are.
    for shape in ((3,), (2, 2), (2, 3)):
        given = backend.asarray(np.ones(shape, dtype=bool if option == "where" else float))
        message = raises(ValueError, "cross_entropy", x, y, **{option: given}, said=(option, str(shape)))
        assert "(2,)" in message
    for shape in ((2,), (4, 2, 3)):
        given = backend.asarray(np.ones(shape, dtype=bool if option == "where" else float))
        raises(ValueError, "sigmoid_focal_loss", x, backend.asarray(BITS), **{option: given}, said=(str(shape),))


def test_pos_weight_must_broadcast_to_the_logits(backend: Any) -> None:
    x, y = backend.asarray(LOGITS), backend.asarray(BITS)
    for shape in ((2,), (4, 2, 3)):
        given = backend.asarray(np.ones(shape))
        said = ("pos_weight", str(shape), "(2, 3)")
        raises(ValueError, "binary_cross_entropy_with_logits", x, y, pos_weight=given, said=said)


def test_cotangent_shape(backend: Any) -> None:
    x, y = backend.asarray(LOGITS), backend.asarray(LABELS)
    seed = backend.asarray(np.ones((3,)))
    with pytest.raises(ValueError, match=re.escape("(3,)")):
        grad(cross_entropy)(x, y, reduction="none", cotangent=seed)


# --- labels -------------------------------------------------------------------------------------------------


# Where a check would block, test_semantics.py holds it to NaN.
@pytest.mark.only(lambda backend: backend.reports_labels is True)
@pytest.mark.parametrize("name", CATEGORICAL)
@pytest.mark.parametrize("bad", [3, -1, 77])
def test_a_label_out_of_range_is_named(backend: Any, name: str, bad: int) -> None:
    labels = np.array([[0, 1, 2], [2, bad, 0]])
    x, y = backend.asarray(np.full((2, 3, 3), -0.5)), backend.asarray(labels)
    message = raises(ValueError, name, x, y, said=(str(bad),))
    assert "(1, 1)" in message or re.search(r"\[1, ?1\]", message), f"the position is not named: {message}"
    numbers = re.findall(r"-?\d+", message)
    assert "0" in numbers, f"the range is not named: {message}"
    assert {"2", "3"} & set(numbers), f"the range is not named: {message}"


# Where a check would block, test_semantics.py holds it to NaN.
@pytest.mark.only(lambda backend: backend.reports_labels is True)
@pytest.mark.parametrize("name", BINARY)
@pytest.mark.parametrize(("bad", "kind"), [(2, np.int64), (-1, np.int64), (1.5, float), (-0.25, float)])
def test_a_binary_target_out_of_range_is_named(backend: Any, name: str, bad: float, kind: Any) -> None:
    target = BITS.astype(kind)
    target[1, 2] = bad
    message = raises(ValueError, name, backend.asarray(np.full((2, 3), 0.5)), backend.asarray(target), said=(str(bad),))
    assert "(1, 2)" in message or re.search(r"\[1, ?2\]", message), f"the position is not named: {message}"
    assert "0" in message
    assert "1" in message


# --- libraries and devices ----------------------------------------------------------------------------------


@pytest.mark.parametrize("which", ["target", "sample_weight", "class_weight", "where"])
def test_two_libraries(backend: Any, which: str) -> None:
    if backend.library == "numpy":
        other = pytest.importorskip("array_api_strict")
        theirs, names = other.asarray, ("numpy", "array_api_strict")
    else:
        theirs, names = np.asarray, ("numpy", backend.library.replace("-", "_"))
    given = {
        "target": LABELS,
        "sample_weight": np.ones(2),
        "class_weight": np.ones(3),
        "where": np.ones(2, dtype=bool),
    }
    mine = {"target": LABELS, which: given[which]}
    args = {k: theirs(v) if k == which else backend.asarray(v) for k, v in mine.items()}
    x, y = backend.asarray(LOGITS), args.pop("target")
    raises(TypeError, "cross_entropy", x, y, said=names, **args)


@pytest.mark.parametrize("which", ["target", "pos_weight", "alpha"])
def test_two_libraries_binary(backend: Any, which: str) -> None:
    if backend.library == "numpy":
        other = pytest.importorskip("array_api_strict")
        theirs, names = other.asarray, ("numpy", "array_api_strict")
    else:
        theirs, names = np.asarray, ("numpy", backend.library.replace("-", "_"))
    given = {"target": BITS, "pos_weight": np.ones(3), "alpha": np.full(3, 0.5)}
    args = {
        k: theirs(v) if k == which else backend.asarray(v) for k, v in {"target": BITS, which: given[which]}.items()
    }
    raises(TypeError, "sigmoid_focal_loss", backend.asarray(LOGITS), args.pop("target"), said=names, **args)


def test_two_devices_of_array_api_strict() -> None:
    xp = pytest.importorskip("array_api_strict")
    x = xp.asarray(LOGITS, device=xp.Device("device1"))
    y = xp.asarray(LABELS, device=xp.Device("CPU_DEVICE"))
    raises(ValueError, "cross_entropy", x, y, said=("device1", "CPU_DEVICE"))
    here = xp.asarray(LABELS, device=xp.Device("device1"))
    raises(
        ValueError,
        "cross_entropy",
        x,
        here,
        sample_weight=xp.asarray(np.ones(2)),
        said=("device1", "CPU_DEVICE"),
    )


def test_two_devices_of_torch() -> None:
    torch = pytest.importorskip("torch")
    x, y = torch.tensor(LOGITS), torch.zeros(2, dtype=torch.int64, device="meta")
    raises(ValueError, "cross_entropy", x, y, said=("cpu", "meta"))


# --- types --------------------------------------------------------------------------------------------------


@pytest.mark.only(lambda backend, kind: backend.has_int64 or kind != "int64")
@pytest.mark.parametrize("name", [*CATEGORICAL, *BINARY])
@pytest.mark.parametrize("kind", ["int64", "int32", "bool", "complex64"])
def test_logits_must_be_real_floats(backend: Any, name: str, kind: str) -> None:
    x = backend.asarray(np.ones((2, 3)), kind)
    y = backend.asarray(LABELS if name in CATEGORICAL else BITS)
    raises(TypeError, name, x, y, said=("float", kind.rstrip("0123456789")))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("kind", ["int32", "complex64"])
def test_activations_need_real_floats(backend: Any, name: str, kind: str) -> None:
    x = backend.asarray(np.ones((2, 3)), kind)
    failure(TypeError, "float", call=lambda: getattr(arrayloss, name)(x))


@pytest.mark.parametrize("name", [*CATEGORICAL, *BINARY])
@pytest.mark.parametrize("what", [[[0.5, 1.0, -1.0], [2.0, 0.0, 1.0]], None, 0.5, "logits"], ids=repr)
def test_logits_must_be_an_array(backend: Any, name: str, what: Any) -> None:
    y = backend.asarray(LABELS if name in CATEGORICAL else BITS)
    raises(TypeError, name, what, y, said=("array",))


@pytest.mark.parametrize("name", [*CATEGORICAL, *BINARY])
@pytest.mark.parametrize("what", [[0, 2], None, 1, "target"], ids=repr)
def test_a_target_must_be_an_array(backend: Any, name: str, what: Any) -> None:
    raises(TypeError, name, backend.asarray(np.full((2, 3), 0.5)), what, said=("array",))


@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("what", [[0.5, 1.0], None], ids=repr)
def test_activations_need_an_array(name: str, what: Any) -> None:
    failure(TypeError, "array", call=lambda: getattr(arrayloss, name)(what))


@pytest.mark.parametrize("name", CATEGORICAL)
def test_bool_is_no_categorical_target(backend: Any, name: str) -> None:
    x = backend.asarray(np.full((2, 3), -0.5))
    raises(TypeError, name, x, backend.asarray(BITS > 0), said=("bool",))
    raises(TypeError, name, x, backend.asarray(LABELS > 0), said=("bool",))


@pytest.mark.parametrize("name", [*CATEGORICAL, *BINARY])
def test_complex_targets(backend: Any, name: str) -> None:
    x, y = backend.asarray(np.full((2, 3), 0.5)), backend.asarray(np.zeros((2, 3)), "complex64")
    raises(TypeError, name, x, y, said=("complex",))


def test_where_must_be_bool(backend: Any) -> None:
    """An integer or float mask is a sample_weight."""
    x, y = backend.asarray(LOGITS), backend.asarray(LABELS)
    for mask in (np.array([1, 0]), np.array([1.0, 0.0])):
        raises(TypeError, "cross_entropy", x, y, where=backend.asarray(mask), said=("where", "bool"))


# --- choices ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*CATEGORICAL, *BINARY])
@pytest.mark.parametrize("reduction", ["average", "batchmean", ""])
def test_unknown_reduction(backend: Any, name: str, reduction: str) -> None:
    x = backend.asarray(np.full((2, 3), 0.5))
    y = backend.asarray(LABELS if name in CATEGORICAL else BITS)
    raises(ValueError, name, x, y, reduction=reduction, said=("none", "mean", "sum", repr(reduction)))


@pytest.mark.parametrize("name", CATEGORICAL)
@pytest.mark.parametrize("axis", [2, -3, 7])
def test_axis_out_of_range(backend: Any, name: str, axis: int) -> None:
    x, y = backend.asarray(np.full((2, 3), -0.5)), backend.asarray(LABELS)
    raises(ValueError, name, x, y, axis=axis, said=("axis", str(axis), "2"))


@pytest.mark.parametrize("name", ["softmax", "log_softmax", "logsumexp"])
@pytest.mark.parametrize("axis", [2, -3])
def test_activation_axis_out_of_range(backend: Any, name: str, axis: int) -> None:
    failure(
        ValueError,
        "axis",
        str(axis),
        call=lambda: getattr(arrayloss, name)(backend.asarray(LOGITS), axis=axis),
    )


@pytest.mark.parametrize(
    ("name", "option", "value"),
    [
        ("cross_entropy", "label_smoothing", 1.5),
        ("cross_entropy", "label_smoothing", -0.1),
        ("cross_entropy", "label_smoothing", float("nan")),
        ("softmax_focal_loss", "label_smoothing", 2),
        ("binary_cross_entropy_with_logits", "label_smoothing", 1.01),
        ("sigmoid_focal_loss", "label_smoothing", -1),
        ("sigmoid_focal_loss", "alpha", 1.5),
        ("sigmoid_focal_loss", "alpha", -1),
        ("sigmoid_focal_loss", "gamma", -0.5),
        ("softmax_focal_loss", "gamma", -2),
        ("softmax_focal_loss", "gamma", float("nan")),
        ("asymmetric_loss", "gamma_positive", -1),
        ("asymmetric_loss", "gamma_negative", float("inf")),
        ("asymmetric_loss", "margin", -0.05),
        ("asymmetric_loss", "margin", 1.5),
    ],
)
def test_numbers_out_of_range(backend: Any, name: str, option: str, value: Any) -> None:
    y = backend.asarray(LABELS if name in CATEGORICAL else BITS)
    message = raises(ValueError, name, backend.asarray(LOGITS), y, **{option: value}, said=(option, str(value)))
    assert "0" in message


@pytest.mark.parametrize("epsilon", [-1.5, float("nan"), float("inf")])
def test_epsilon_out_of_range(backend: Any, epsilon: float) -> None:
    x, y = backend.asarray(LOGITS), backend.asarray(LABELS)
    raises(ValueError, "poly_loss", x, y, epsilon=epsilon, said=("epsilon", "-1", str(epsilon)))


def test_two_rows_of_logits(backend: Any) -> None:
    x, t = backend.asarray(LOGITS), backend.asarray(LOGITS[:, ::-1].copy())
    for shape in ((2,), (2, 1), (1, 3), (3, 2)):
        other = backend.asarray(np.zeros(shape))
        raises(ValueError, "kl_divergence_with_logits", x, other, said=("target_logits", str(shape), "(2, 3)"))
    raises(TypeError, "kl_divergence_with_logits", x, backend.asarray(BITS), said=("target_logits", "int"))
    raises(TypeError, "kl_divergence_with_logits", backend.asarray(BITS), t, said=("logits", "float"))
    raises(TypeError, "kl_divergence_with_logits", x, None, said=("target_logits", "array"))
    raises(TypeError, "kl_divergence_with_logits", x, [[0.0, 1.0, 2.0]] * 2, said=("target_logits", "array"))
    raises(ValueError, "kl_divergence_with_logits", x, t, axis=2, said=("axis", "2"))
    raises(ValueError, "kl_divergence_with_logits", x, t, reduction="batchmean", said=("none", "mean", "sum"))
    raises(
        ValueError,
        "kl_divergence_with_logits",
        x,
        t,
        sample_weight=backend.asarray(np.ones(3)),
        said=("sample_weight",),
    )
    raises(ValueError, "kl_divergence_with_logits", x, t, where=backend.asarray(np.ones(3) > 0), said=("where",))
    none = backend.asarray(np.zeros((2, 0)))
    raises(ValueError, "kl_divergence_with_logits", none, none, said=("classes",))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Mean(over="batch"), ("weight", "valid", "all")),
        (lambda: Mean(empty="one"), ("nan", "zero")),
        (lambda: Hardest(), ("fraction", "k")),
        (lambda: Hardest(fraction=0.5, k=2), ("fraction", "k")),
        (lambda: Hardest(fraction=1.5), ("fraction",)),
        (lambda: Hardest(fraction=-0.1), ("fraction",)),
        (lambda: Hardest(k=0), ("k",)),
        (lambda: Hardest(k=-1), ("k",)),
    ],
    ids=["over", "empty", "neither", "both", "fraction>1", "fraction<0", "k=0", "k<0"],
)
def test_reductions_check_their_choices(make: Any, said: tuple[str, ...]) -> None:
    """At the place where the mistake is, or at the call, but as a ValueError that says what there is."""
    x, y = np.array([0.5, 1.0]), np.array([1, 0])
    failure(ValueError, *said, call=lambda: binary_cross_entropy_with_logits(x, y, reduction=make()))


def test_options_are_keywords_and_arrays_positional(backend: Any) -> None:
    x, y = backend.asarray(LOGITS), backend.asarray(LABELS)
    with pytest.raises(TypeError):
        cross_entropy(x, y, 0)
    with pytest.raises(TypeError):
        cross_entropy(logits=x, target=y)
    with pytest.raises(TypeError):
        cross_entropy(x, y, weight=y)
