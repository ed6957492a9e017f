"""The cases: named families of inputs for every function, each family one way to lose digits.

Stress cases are rows of few arrays (many rows to a call, few distinct shapes and option sets), so that the compiling
modes compile few times. Arrays are float64 and hold numbers representable in the case's dtype. They are the same on
every processor: literals, `conformance.draws`, and arithmetic that IEEE 754 defines to the last bit.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arrayloss.testing import FORMATS, HALF, Case, Floats, Reduce, rounded

from .draws import Draws, Size, spaced

TRANSFORMS = ("softmax", "log_softmax", "logsumexp", "sigmoid", "log_sigmoid")
NOISY = ("generalized_cross_entropy", "symmetric_cross_entropy")
CATEGORICAL = ("nll_loss", "cross_entropy", "softmax_focal_loss", "poly_loss", *NOISY)
PAIRED = ("kl_divergence_with_logits", "js_divergence_with_logits")  # the target is logits too
GIVEN = ("kl_divergence", "js_divergence")  # log-probabilities and probabilities
DIVERGENCES = (*PAIRED, *GIVEN)
BINARY = ("binary_cross_entropy", "binary_cross_entropy_with_logits", "sigmoid_focal_loss", "asymmetric_loss")
FUNCTIONS = (*TRANSFORMS, *CATEGORICAL, *DIVERGENCES, *BINARY)
ELEMENTWISE = ("sigmoid", "log_sigmoid", *BINARY)

GAMMAS = (0.0, 0.5, 1.0, 2.0, 5.0)
EPSILONS = (2.0, -1.0, -0.5)
POWERS = (0.7, 0.125, 1.0)
SYMMETRIES: tuple[dict[str, float], ...] = ({}, {"alpha": 6.0, "beta": 0.1, "log_zero": -4.0})
ASYMMETRIES: tuple[dict[str, float], ...] = (
    {},
    {"gamma_positive": 0.0, "gamma_negative": 0.0},
    {"gamma_positive": 0.5, "gamma_negative": 0.5, "margin": 0.25},
)


def variants(function: str, gammas: tuple[float, ...] = GAMMAS) -> list[dict[str, float]]:
    """The options that make a loss another formula; of `gammas`, the focal exponents, there are as many as wanted."""
    if "focal" in function:
        return [{"gamma": gamma} for gamma in gammas]
    if function == "poly_loss":
        return [{"epsilon": epsilon} for epsilon in EPSILONS[: len(gammas)]]
    if function == "generalized_cross_entropy":
        return [{"q": q} for q in POWERS[: len(gammas)]]
    if function == "symmetric_cross_entropy":
        return list(SYMMETRIES[: len(gammas)])
    return list(ASYMMETRIES[: len(gammas)]) if function == "asymmetric_loss" else [{}]


def cases(function: str, dtype: str, *, seed: int = 0, quick: bool = False) -> Iterator[Case]:
    """Every fixed case of a function and dtype (the trained classifiers of `real` and what `hunt` kept come extra)."""
    for name, family in FAMILIES.items():
        if not (quick and name in SLOW):
            rng = Draws(seed, zlib.crc32(f"{function} {dtype} {name}".encode()))
            for case in family(function, dtype, rng):
                yield replace(case, family=name)


# ---------------------------------------------------------------- rows


ROWS = 176
"""Rows of every stress case of up to ten classes, repeated to fill up: with one shape the compilers compile once."""

WIDE_ROWS = 24
"""The same for a hundred classes and more, evenly picked where there are too many: the exact answers take long."""


def _filled(values: Floats) -> Floats:
    return np.asarray(np.resize(values, (ROWS, *values.shape[1:]))) if len(values) else values


def _fitted(values: Floats, classes: int) -> Floats:
    """As many rows as a case of so many classes has."""
    if classes <= 10:
        return _filled(values)
    return np.asarray(values[np.arange(WIDE_ROWS) * len(values) // WIDE_ROWS])


DECADES = [float(f"{digits}e{power}") for power in range(-8, 4) for digits in ("1", "2.15443469", "4.64158883")]
"""Three numbers a decade, from 1e-8 to below 1e4."""


def margins(dtype: str) -> Floats:
    """Distances from 1e-8 to 1e4, denser where exp passes the ends of the formats, both signs."""
    bends = [5.75, 9, 16.75, 17.5, 36, 40, 60, 80, 87, 88.5, 95, 102, 104]
    bends += [300.0, 700, 708, 712, 740, 745, 750] if dtype == "float64" else []
    both = np.asarray([*DECADES, 1e4, *bends])
    return rounded(np.unique(np.concatenate([-both, both])), dtype)


def _below(values: Floats, dtype: str, steps: int = 1) -> Floats:
    """The number `steps` ULP below each (positive, normal) value."""
    precision = FORMATS[dtype].precision
    fraction, exponent = np.frexp(values)
    return np.asarray(np.ldexp(fraction - np.where(fraction == 0.5, 0.5, 1) * np.ldexp(steps, -precision), exponent))


def _margin_rows(classes: int, dtype: str, rng: Draws) -> tuple[Floats, Floats]:
    """The label's logit at every margin from the others, which lie about 0."""
    gaps = margins(dtype)
    rows = np.zeros((gaps.size, classes))
    if classes > 2:
        rows = rng.normal(rows.shape)
    labels = rng.integers(classes, gaps.size).astype(np.int64)
    rows[np.arange(gaps.size), labels] = 0
    # Measured from the best of the others, so that the margin is what the row's name says.
    rows -= np.max(np.where(np.arange(classes) == labels[:, None], -np.inf, rows), axis=1, keepdims=True)
    rows[np.arange(gaps.size), labels] = gaps
    return rounded(rows, dtype), labels.astype(np.float64)


def _tie_rows(classes: int, dtype: str, rng: Draws) -> tuple[Floats, Floats]:
    """All equal, two at the top, and the same one ULP apart."""
    rows, labels = [], []
    for height in (1e-3, 1.0, 3.7, 12.5, 1000.0):
        height = float(rounded(height, dtype))
        under = float(_below(np.asarray(height), dtype))
        flat = np.full(classes, height)
        near = flat.copy()
        near[0] = under
        top = rounded(height - np.abs(rng.normal(classes)) * 8 - 1, dtype)
        top[:2] = height
        close = top.copy()
        close[1] = under
        for row in (flat, near, top, close, -flat, -near):
            for label in (0, 1):
                rows.append(row)
                labels.append(label)
    return np.asarray(rows), np.asarray(labels, dtype=np.float64)


def _offset_rows(classes: int, dtype: str, rng: Draws) -> tuple[Floats, Floats]:
    """Gaps of a few ULP, and of a few units, on a common offset of 1e4 and -1e4."""
    rows = []
    for offset in (1e4, -1e4, 300.0, -300.0):
        offset = float(rounded(offset, dtype))
        unit = abs(offset) * FORMATS[dtype].epsilon
        rows += [offset + unit * (rng.integers(16, classes) - 8) for _ in range(4)]
        rows += [offset + rng.normal(classes) * 3 for _ in range(4)]
    return rounded(rows, dtype), rng.integers(classes, len(rows))


def _dominating_rows(classes: int, dtype: str, rng: Draws) -> tuple[Floats, Floats]:
    """One logit far above the rest: the right one in even rows, a wrong one in odd rows."""
    rows = rng.normal((24, classes)) * 3
    labels = rng.integers(classes, 24).astype(np.int64)
    height = spaced(20, 1e4, 12).repeat(2)
    top = np.where(np.arange(24) % 2 == 0, labels, (labels + 1) % classes)
    rows[np.arange(24), top] = height
    return rounded(rows, dtype), labels.astype(np.float64)


def _masked_rows(classes: int, dtype: str, rng: Draws) -> tuple[Floats, Floats]:
    """Classes masked by -inf, never the label."""
    rows, labels = _margin_rows(classes, dtype, rng)
    mask = rng.uniform(rows.shape) < 0.5
    mask[np.arange(len(rows)), labels.astype(int)] = False
    mask[np.arange(len(rows)), (labels.astype(int) + 1) % classes] = False
    return np.where(mask, -np.inf, rows), labels


def _spread_rows(deviation: float) -> Rows:
    """Logits far apart, as of a model that is sure of itself: the label any class, or, every other row, the largest."""

    def make(classes: int, dtype: str, rng: Draws) -> tuple[Floats, Floats]:
        rows = rounded(rng.normal((WIDE_ROWS, classes)) * deviation, dtype)
        labels = rng.integers(classes, WIDE_ROWS)
        labels[::2] = np.argmax(rows[::2], axis=1)
        return rows, labels

    return make


def _outlier_rows(classes: int, dtype: str, rng: Draws) -> tuple[Floats, Floats]:
    """Ordinary rows, and among them one with a logit of 60, which is not its label's."""
    rows = rng.normal((ROWS, classes)) * 3
    labels = rng.integers(classes, ROWS)
    rows[ROWS // 2, (int(labels[ROWS // 2]) + 1) % classes] = 60
    return rounded(rows, dtype), labels


Rows = Callable[[int, str, Draws], tuple[Floats, Floats]]


def _stress(
    make: Rows, classes: tuple[int, ...], gammas: tuple[float, ...] = (0.5, 2.0, 5.0), name: str = ""
) -> Family:
    """A family of categorical stress rows: label and one-hot cotangent at the same class."""

    def family(function: str, dtype: str, rng: Draws) -> Iterator[Case]:
        if function in (*ELEMENTWISE, *GIVEN, "nll_loss"):
            return
        for count in classes:
            rows, labels = make(count, dtype, rng)
            rows, labels = _fitted(rows, count), _fitted(labels, count)
            yield from _with_labels(
                function, f"{name}{count} classes", dtype, rows, labels, gammas if count < 100 else (2.0,)
            )

    return family


def _with_labels(
    function: str, name: str, dtype: str, rows: Floats, labels: Floats, gammas: tuple[float, ...]
) -> Iterator[Case]:
    one_hot = (np.arange(rows.shape[-1]) == labels[..., None]).astype(np.float64)
    if function == "logsumexp":
        yield Case(function, "", name, dtype, {"logits": rows}, cotangent=np.ones(rows.shape[:-1]))
    elif function in TRANSFORMS:
        yield Case(function, "", name, dtype, {"logits": rows}, cotangent=one_hot)
    elif function in PAIRED:
        arrays = {"logits": rows, "target": _teachers(rows, dtype)}
        both = ("logits", "target")
        yield Case(function, "", name, dtype, arrays, {"reduction": "none"}, "float", np.ones(len(rows)), both)
    else:
        for variant in variants(function, gammas):
            yield Case(
                function,
                "",
                name,
                dtype,
                {"logits": rows, "target": labels},
                {"reduction": "none", **variant},
                target_kind="index",
                cotangent=np.ones(rows.shape[:-1]),
            )


def _teachers(rows: Floats, dtype: str) -> Floats:
    """Logits to learn from: next to the row's own at every distance, or, every third, another row's."""
    rng = Draws(rows.size)
    near = rows + rng.normal(rows.shape) * rng.between(1e-8, 10, (len(rows), 1))
    near[1::9] += 300  # a constant apart
    # A class that the student has masked is masked by the teacher too: elsewhere the divergence is infinite.
    other = np.where(np.isinf(rows), rows, np.roll(rows, 1, axis=0))
    return rounded(np.where(np.arange(len(rows))[:, None] % 3 == 0, other, near), dtype)


def _pair(function: str, x: Floats, t: Floats, dtype: str) -> dict[str, Floats]:
    """Two arrays of logits, classes last; or what they mean: log-probabilities, and probabilities, 0 if not normal."""
    if function in PAIRED:
        return {"logits": x, "target": t}
    q = rounded(np.apply_along_axis(lambda row: [float(v.exp()) for v in _decimal_logs(row)], -1, t), dtype)
    log_p = np.apply_along_axis(lambda row: [float(v) for v in _decimal_logs(row)], -1, x)
    return {"logits": rounded(log_p, dtype), "target": np.where(q < FORMATS[dtype].tiny, 0, q)}


def _decimal_logs(row: Floats) -> list[Decimal]:
    """The log-softmax, by decimal arithmetic, which is the same on every processor."""
    logits = [Decimal(v) for v in row.tolist()]
    top = max(logits)
    total = sum(((v - top).exp() for v in logits), Decimal(0)).ln() + top
    return [v - total for v in logits]


# ---------------------------------------------------------------- families

KINKS = (-2.9444389791664403, -1.0986122886681098)
"""The logits whose probability is a margin of `ASYMMETRIES`: log(0.05 / 0.95) and log(0.25 / 0.75)."""

Family = Callable[[str, str, Draws], Iterator[Case]]


def _margins(function: str, dtype: str, rng: Draws) -> Iterator[Case]:
    """Every margin from 1e-8 to 1e4, right and wrong; the binary functions: every logit, either answer."""
    if function not in ELEMENTWISE:
        yield from _stress(_margin_rows, (2, 3, 10), GAMMAS)(function, dtype, rng)
        return
    if function == "binary_cross_entropy":
        return
    x = np.concatenate([margins(dtype), [0.0], rounded(rng.normal(64) * 10, dtype)])
    if function == "asymmetric_loss":
        away = spaced(1e-4, 1, 12)
        x = np.concatenate([x, *(rounded(kink + np.concatenate([-away, away]), dtype) for kink in KINKS)])
    if function in TRANSFORMS:
        yield Case(function, "", "logits", dtype, {"logits": x}, cotangent=np.ones(x.shape))
        return
    logits = np.concatenate([x, x])
    target = np.repeat([1.0, 0.0], x.size)
    for variant in variants(function):
        options = {"reduction": "none", **variant}
        arrays = {"logits": logits, "target": target}
        yield Case(function, "", "hard", dtype, arrays, options, "float", np.ones(logits.shape))


def _soft(function: str, dtype: str, rng: Draws) -> Iterator[Case]:
    """Soft targets and label smoothing, over the rows of the stress families; general cotangents."""
    if function in ELEMENTWISE:
        yield from _soft_binary(function, dtype, rng)
        return
    if function in DIVERGENCES:
        return
    for classes in (3, 10):
        rows, labels = _margin_rows(classes, dtype, rng)
        ties, more = _tie_rows(classes, dtype, rng)
        rows, labels = _filled(np.concatenate([rows, ties])), _filled(np.concatenate([labels, more]))
        name = f"{classes} classes"
        if function in TRANSFORMS:
            shape = rows.shape[:-1] if function == "logsumexp" else rows.shape
            yield Case(function, "", name, dtype, {"logits": rows}, cotangent=rounded(rng.normal(shape), dtype))
            continue
        if function == "nll_loss":
            continue
        target = rng.shares((len(rows), classes))
        target[::3] = np.arange(classes) == labels[::3, None]
        arrays = {"logits": rows, "target": rounded(target, dtype)}
        cotangent = rounded(rng.uniform(len(rows)) + 0.5, dtype)
        yield Case(function, "", name, dtype, arrays, {"reduction": "none"}, "float", cotangent, ("logits", "target"))
        options = {"reduction": "none", "label_smoothing": 0.125}
        arrays = {"logits": rows, "target": labels}
        yield Case(function, "", name, dtype, arrays, options, "index", np.ones(len(rows)))


def _soft_binary(function: str, dtype: str, rng: Draws) -> Iterator[Case]:
    if function in TRANSFORMS or function == "binary_cross_entropy":
        return
    x = margins(dtype)
    y = rng.uniform(x.size)
    y[::5] = 0
    y[1::5] = 1
    arrays = {"logits": x, "target": rounded(y, dtype)}
    for smoothing in (0.0, 0.125):
        options = {"reduction": "none"} | ({"label_smoothing": smoothing} if smoothing else {})
        yield Case(function, "", "targets", dtype, arrays, options, "float", np.ones(x.size), ("logits", "target"))


def _weights(function: str, dtype: str, rng: Draws) -> Iterator[Case]:
    """Weights over six orders of magnitude, alpha, pos_weight.

    Margins end where the loss is e**-60: further out a subnormal factor times a large weight is a normal number
    that no arithmetic in the dtype itself could know.
    """
    if function in TRANSFORMS:
        return
    wrt: tuple[str, ...]
    options: dict[str, Any]
    end = 8 if dtype == "float16" else 20 if "focal" in function or function == "asymmetric_loss" else 60
    if function in DIVERGENCES:
        rows, _ = _margin_rows(10, dtype, rng)
        rows = _filled(rows[np.max(np.abs(rows), axis=1) <= end])
        weight = rounded(rng.between(1e-3, 1e3, len(rows)), dtype)
        arrays = {**_pair(function, rows, _teachers(rows, dtype), dtype), "sample_weight": weight}
        wrt = tuple(arrays)
        yield Case(function, "", "weights", dtype, arrays, {"reduction": "none"}, "float", np.ones(len(rows)), wrt)
        return
    if function in CATEGORICAL:
        rows, labels = _margin_rows(10, dtype, rng)
        near = np.max(np.abs(rows), axis=1) <= end
        rows, labels = _filled(rows[near]), _filled(labels[near])
        if function == "nll_loss":
            rows = rounded(-np.abs(rows), dtype)
        arrays = {
            "logits": rows,
            "target": labels,
            "class_weight": rounded(spaced(1e-3, 1e3, 10), dtype),
            "sample_weight": rounded(rng.uniform(len(rows)) + 0.5, dtype),
        }
        wrt = ("logits", "class_weight", "sample_weight")
        if function == "softmax_focal_loss":
            arrays["alpha"] = rounded(rng.uniform(10), dtype)
            wrt = (*wrt, "alpha")
        options = {"reduction": "none"}
        yield Case(function, "", "weights", dtype, arrays, options, "index", np.ones(len(rows)), wrt)
        if function == "cross_entropy":
            options = {"reduction": "none", "z_loss": 0.0078125}
            yield Case(function, "", "z-loss", dtype, arrays, options, "index", np.ones(len(rows)), wrt)
        return
    x = margins(dtype)
    x = x[np.abs(x) <= end]
    if function == "binary_cross_entropy":
        x = _chances(dtype)
    arrays = {
        "logits": np.concatenate([x, x]),
        "target": np.repeat([1.0, 0.0], x.size),
        "sample_weight": rounded(rng.between(*(1e-4, 1e2) if dtype == "float16" else (1e-3, 1e3), 2 * x.size), dtype),
    }
    options = {"reduction": "none"}
    wrt = ("logits", "sample_weight")
    if function != "binary_cross_entropy":
        arrays["pos_weight"] = rounded(37.5, dtype)
        wrt = (*wrt, "pos_weight")
    if function == "sigmoid_focal_loss":
        options["alpha"] = 0.25
    yield Case(function, "", "weights", dtype, arrays, options, "float", np.ones(2 * x.size), wrt)


def _chances(dtype: str, more: Floats | tuple[()] = ()) -> Floats:
    """Probabilities from the smallest normal number to one ULP below 1, and some more."""
    form = FORMATS[dtype]
    small = spaced(form.tiny, 0.5, 60)
    near = 1 - form.epsilon / 2 * np.unique(np.rint(spaced(1, 0.5 / form.epsilon, 30)))
    p = np.unique(rounded(np.concatenate([small, near, more]), dtype))
    return np.asarray(p[(p >= form.tiny) & (p < 1)])


def _probabilities(function: str, dtype: str, rng: Draws) -> Iterator[Case]:
    """Probabilities from the smallest normal to one ULP below 1, and the logarithms of such."""
    if function in GIVEN:
        for classes in (2, 10):
            rows, _ = _margin_rows(classes, dtype, rng)
            rows = _filled(np.concatenate([rows, _tie_rows(classes, dtype, rng)[0]]))
            arrays = _pair(function, rows, _teachers(rows, dtype), dtype)
            name, both = f"{classes} classes", ("logits", "target")
            yield Case(function, "", name, dtype, arrays, {"reduction": "none"}, "float", np.ones(len(rows)), both)
        return
    if function not in ("binary_cross_entropy", "nll_loss"):
        return
    p = _chances(dtype, rng.uniform(30))
    options = {"reduction": "none"}
    if function == "binary_cross_entropy":
        arrays = {"logits": np.concatenate([p, p, p]), "target": np.concatenate([p * 0 + 1, p * 0, p * 0 + 0.5])}
        yield Case(function, "", "probabilities", dtype, arrays, options, "float", np.ones(3 * p.size))
        return
    # The loss takes them as they are: that they are logarithms of probabilities is nothing that it looks at.
    log_p = -spaced(FORMATS[dtype].tiny, min(700.0, FORMATS[dtype].emax * 0.69), p.size)
    pairs = rounded(np.stack([log_p, log_p[::-1]], axis=1), dtype)
    for kind, target in (
        ("index", (np.arange(p.size) % 2).astype(np.float64)),
        ("float", rounded(np.stack([p, 1 - p], axis=1), dtype)),
    ):
        arrays = {"logits": pairs, "target": target}
        yield Case(function, "", kind, dtype, arrays, options, kind, np.ones(p.size))


def _wide(function: str, dtype: str, rng: Draws) -> Iterator[Case]:
    """32,000 classes."""
    if function in (*ELEMENTWISE, *GIVEN, "nll_loss"):
        return
    rows = rng.normal((4, 32_000)) * np.asarray([[0.1], [1], [4], [1]])
    labels = rng.integers(32_000, 4).astype(np.int64)
    rows[2, labels[2]] = 25
    rows[3, labels[3]] = 60
    yield from _with_labels(function, "32000 classes", dtype, rounded(rows, dtype), labels.astype(np.float64), (2.0,))


def _reductions(function: str, dtype: str, rng: Draws) -> Iterator[Case]:
    """The mean and the sum over many samples, and over some that are alike; `million` has the long ones."""
    if function in TRANSFORMS:
        return
    for reduction in ("mean", "sum"):
        base = _plain(function, dtype, rng, 3_000)  # of one shape, for what compiles
        yield replace(base, name=reduction, options={**base.options, "reduction": reduction})
    # Added one after another, they are rounded the same way every time.
    alike = {name: np.repeat(values[:1], 64, axis=0) for name, values in base.arrays.items()}
    yield replace(base, name="sum of 64 alike", arrays=alike, options={**base.options, "reduction": "sum"})


def _million(function: str, dtype: str, rng: Draws) -> Iterator[Case]:
    """The mean over 1e6 samples, within 2 ULP of exact: 1,000 distinct rows, drawn at random."""
    if function not in ("cross_entropy", "binary_cross_entropy_with_logits") or dtype not in ("float32", "float16"):
        return
    base = _plain(function, dtype, rng, 1_000)
    draw = rng.integers(1_000, 1_000_000).astype(np.int64)
    arrays = {name: np.ascontiguousarray(values[draw]) for name, values in base.arrays.items()}
    yield replace(base, name="mean of 1e6", arrays=arrays, wrt=(), budget=1.0 if dtype in HALF else 2.0)


def _plain(function: str, dtype: str, rng: Draws, count: int) -> Case:
    """Logits as a classifier in training has them."""
    if function in BINARY:
        x = _binary_inputs(function, count, rng)
        arrays = {"logits": rounded(x, dtype), "target": (rng.uniform(count) < 0.4).astype(np.float64)}
        return Case(function, "", "plain", dtype, arrays, {}, "float")
    x = rng.normal((count, 5)) * 3
    if function in DIVERGENCES:
        x = rounded(x[:ROWS], dtype)  # decimal arithmetic is slow
        arrays = _pair(function, x, _teachers(x, dtype), dtype)
        arrays = {name: np.resize(a, (count, 5)) for name, a in arrays.items()}
        return Case(function, "", "plain", dtype, arrays, {}, "float")
    if function == "nll_loss":
        x = -np.abs(x)
    labels = rng.integers(5, count)
    return Case(function, "", "plain", dtype, {"logits": rounded(x, dtype), "target": labels}, {}, "index")


def _binary_inputs(function: str, size: Size, rng: Draws) -> Floats:
    """Harmless logits; probabilities, for the loss that takes these."""
    return 1e-3 + rng.uniform(size) * 0.998 if function == "binary_cross_entropy" else rng.normal(size) * 3


def _options(function: str, dtype: str, rng: Draws) -> Iterator[Case]:
    """Axis, number of dimensions, masks, weights, reductions, each once, on harmless logits."""
    if function in ("sigmoid", "log_sigmoid"):
        x = rounded(rng.normal((2, 3, 4)) * 3, dtype)
        yield Case(function, "", "3-d", dtype, {"logits": x}, cotangent=np.ones(x.shape))
        return
    if function in TRANSFORMS:
        layouts: tuple[tuple[tuple[int, ...], int], ...] = (((7,), -1), ((6, 5), 0), ((2, 5, 3), 1), ((2, 3, 4, 5), -2))
        for shape, axis in layouts:
            x = rounded(rng.normal(shape) * 3, dtype)
            out = tuple(np.delete(shape, axis)) if function == "logsumexp" else shape
            options: dict[str, Any] = {"axis": axis}
            g = rounded(rng.normal(out), dtype)
            yield Case(function, "", f"{len(shape)}-d", dtype, {"logits": x}, options, cotangent=g)
        where = rng.uniform(shape) < 0.7
        where[..., 0, :] = True
        arrays = {"logits": x, "where": where.astype(np.float64)}
        yield Case(function, "", "where", dtype, arrays, options, cotangent=g)
        return
    if function in BINARY:
        yield from _binary_options(function, dtype, rng)
        return
    if function in DIVERGENCES:
        yield from _paired_options(function, dtype, rng)
        return
    shapes: tuple[tuple[tuple[int, ...], int], ...] = (((6,), -1), ((8, 5), -1), ((5, 8), 0), ((2, 5, 3, 2), 1))
    for shape, axis in shapes:
        x = rng.normal(shape) * 3
        if function == "nll_loss":
            x = -np.abs(x)
        lead = tuple(np.delete(shape, axis))
        classes = shape[axis]
        labels = rng.integers(classes, lead)
        arrays = {"logits": rounded(x, dtype), "target": labels}
        yield Case(function, "", f"{len(shape)}-d", dtype, arrays, {"axis": axis}, "index")
    # The last of the shapes goes on, with everything at once; what is ignored isn't masked besides.
    labels = labels.copy()
    labels.ravel()[3] = -100
    arrays = {**arrays, "target": labels}
    full = {
        "class_weight": rounded(rng.uniform(classes) + 0.25, dtype),
        "sample_weight": rounded(rng.uniform(lead) + 0.25, dtype),
        "where": (rng.uniform(lead) < 0.8).astype(np.float64),
    }
    full["where"].ravel()[3] = 1
    extra: dict[str, Any] = {} if function == "nll_loss" else {"label_smoothing": 0.25}
    if function == "softmax_focal_loss":
        full["alpha"] = rounded(rng.uniform(classes), dtype)
        extra["gamma"] = 1.5
    wrt = ("logits", "class_weight", "sample_weight") + (("alpha",) if "alpha" in full else ())
    shares = rounded(rng.shares((*lead, classes)), dtype)
    shares = np.moveaxis(shares, -1, axis)
    for reduction in _REDUCTIONS:
        options = {"axis": axis, "reduction": reduction, **extra}
        name = str(reduction)
        yield Case(function, "", name, dtype, {**arrays, **full}, options, "index", None, wrt)
        soft = {"logits": arrays["logits"], "target": shares, **full}
        if reduction in ("mean", "sum"):
            yield Case(function, "", f"soft {name}", dtype, soft, options, "float", None, (*wrt, "target"))
    if dtype in HALF:
        yield Case(function, "", "dtype", dtype, arrays, {"axis": axis, "dtype": "float32"}, "index")


_REDUCTIONS = (
    "mean",
    "sum",
    Reduce("Mean", {"over": "valid"}),
    Reduce("Mean", {"over": "all"}),
    Reduce("Mean", {"over": 7}),
    Reduce("Hardest", {"k": 3}),
    Reduce("Hardest", {"fraction": 0.5}),
)


def _paired_options(function: str, dtype: str, rng: Draws) -> Iterator[Case]:
    for shape, axis in (((6,), -1), ((8, 5), -1), ((5, 8), 0), ((2, 5, 3, 2), 1)):
        x, t = (rounded(np.moveaxis(rng.normal(shape) * 3, axis, -1), dtype) for _ in range(2))
        arrays = {name: np.moveaxis(a, -1, axis) for name, a in _pair(function, x, t, dtype).items()}
        yield Case(function, "", f"{len(shape)}-d", dtype, arrays, {"axis": axis}, "float", None, ("logits", "target"))
    lead = tuple(np.delete(shape, axis))
    full = {
        **arrays,
        "sample_weight": rounded(rng.uniform(lead) + 0.25, dtype),
        "where": (rng.uniform(lead) < 0.8).astype(np.float64),
    }
    for reduction in _REDUCTIONS:
        options = {"axis": axis, "reduction": reduction}
        wrt = ("logits", "target", "sample_weight")
        yield Case(function, "", str(reduction), dtype, full, options, "float", None, wrt)
    if dtype in HALF:
        yield Case(function, "", "dtype", dtype, arrays, {"axis": axis, "dtype": "float32"}, "float")


def _binary_options(function: str, dtype: str, rng: Draws) -> Iterator[Case]:
    shape: tuple[int, ...]
    for shape in ((7,), (6, 5), (2, 3, 4), (2, 3, 2, 2)):
        x = _binary_inputs(function, shape, rng)
        arrays = {"logits": rounded(x, dtype), "target": (rng.uniform(shape) < 0.5).astype(np.float64)}
        yield Case(function, "", f"{len(shape)}-d", dtype, arrays, {}, "float")
    yield Case(function, "", "labels", dtype, arrays, {}, "index")
    yield Case(function, "", "flags", dtype, arrays, {}, "bool")
    full = {
        "sample_weight": rounded(rng.uniform(shape) + 0.25, dtype),
        "where": (rng.uniform(shape) < 0.8).astype(np.float64),
    }
    wrt: tuple[str, ...] = ("logits", "sample_weight", "target")
    extra: dict[str, Any] = {}
    if function != "binary_cross_entropy":
        full["pos_weight"] = rounded(rng.uniform(shape[-1]) + 0.5, dtype)
        wrt = (*wrt, "pos_weight")
        extra["label_smoothing"] = 0.25
    if function == "sigmoid_focal_loss":
        extra |= {"alpha": 0.25, "gamma": 1.5}
    soft = {**arrays, "target": rounded(rng.uniform(shape), dtype), **full}
    for reduction in _REDUCTIONS:
        yield Case(function, "", str(reduction), dtype, soft, {"reduction": reduction, **extra}, "float", None, wrt)
    ignored = {**arrays, "target": np.where(rng.uniform(shape) < 0.3, -1.0, arrays["target"])}
    yield Case(function, "", "ignore_index", dtype, ignored, {"ignore_index": -1}, "index")
    if dtype in HALF:
        yield Case(function, "", "dtype", dtype, arrays, {"dtype": "float32"}, "float")


def _further(function: str, dtype: str, rng: Draws) -> Iterator[Case]:
    """Forms of the options that `options` has not: a number where it has an array, and the other way round."""
    if function in TRANSFORMS:
        return
    shape = (3, 4)
    if function in DIVERGENCES:
        if function == "kl_divergence_with_logits":
            pair = {"logits": rounded(rng.normal(shape) * 3, dtype), "target": rounded(rng.normal(shape) * 3, dtype)}
            yield Case(function, "", "temperature", dtype, pair, {"temperature": 2.5}, "float", None, tuple(pair))
        return
    if function in BINARY:
        x = rounded(_binary_inputs(function, shape, rng), dtype)
        arrays = {"logits": x, "target": rounded(rng.uniform(shape), dtype)}
        ignored = {**arrays, "target": np.resize([0.0, 1.0, -1.0, 2.0], shape)}
        yield Case(function, "", "ignore_index", dtype, ignored, {"ignore_index": (-1, 2)}, "index")
        if function == "binary_cross_entropy":
            weighed = {**arrays, "pos_weight": rounded(rng.uniform(4) + 0.5, dtype)}
            options = {"label_smoothing": 0.25}
            yield Case(function, "", "weights", dtype, weighed, options, "float", None, tuple(weighed))
        if function == "sigmoid_focal_loss":
            shares = {**arrays, "alpha": rounded(rng.uniform(4), dtype)}
            yield Case(function, "", "alpha", dtype, shares, {}, "float", None, tuple(shares))
            focused = {**arrays, "gamma": np.asarray([0.0, 0.5, 2.0, 3.0])}
            yield Case(function, "", "gamma", dtype, focused, {}, "float", None, tuple(focused))
        return
    x = rounded(rng.normal(shape) * 3, dtype)
    arrays = {"logits": -np.abs(x) if function == "nll_loss" else x, "target": rng.integers(4, 3)}
    if function == "cross_entropy":
        lead = (3, 2)
        full = {
            "logits": rounded(rng.normal((*lead, 4)) * 3, dtype),
            "target": rng.integers(4, lead),
            "sample_weight": rounded(rng.uniform(lead) + 0.25, dtype),
            "where": np.asarray([[1.0, 1.0], [0.0, 0.0], [0.0, 1.0]]),
        }
        wrt = ("logits", "sample_weight")
        yield Case(function, "", "temperature", dtype, arrays, {"temperature": 2.5}, "index")
        soft = {"logits": x, "target": rounded(rng.shares(shape), dtype)}
        yield Case(function, "", "temperature", dtype, soft, {"temperature": 0.75}, "float", None, tuple(soft))
        for kind, arguments, size in (("Mean", {"axis": 1, "empty": "zero"}, 3), ("Sum", {"axis": (-2,)}, 2)):
            reduce, g = Reduce(kind, arguments), rounded(rng.uniform(size) + 0.5, dtype)
            yield Case(function, "", str(reduce), dtype, full, {"reduction": reduce}, "index", g, wrt)
        for limits in ({"threshold": 1.0}, {"threshold": 100.0, "k": 2}, {"threshold": 0.125, "fraction": 0.25}):
            reduce = Reduce("Hardest", limits)
            yield Case(function, "", str(reduce), dtype, full, {"reduction": reduce}, "index", None, wrt)
    ignored = {**arrays, "target": np.asarray([2.0, -1.0, 3.0])}
    yield Case(function, "", "ignore_index", dtype, ignored, {"ignore_index": (-1, 3)}, "index")
    if function == "softmax_focal_loss":
        yield Case(function, "", "alpha", dtype, arrays, {"alpha": 0.25}, "index")
        of_classes = {**arrays, "gamma": np.asarray([0.0, 0.5, 2.0, 3.0])}
        yield Case(function, "", "gamma of classes", dtype, of_classes, {}, "index", None, ("logits", "gamma"))
        shares = {"logits": x, "target": rounded(rng.shares(shape), dtype), "gamma": np.asarray([[0.0], [1.5], [2.0]])}
        yield Case(function, "", "gamma of samples", dtype, shares, {}, "float", None, tuple(shares))


def _nonfinite(function: str, dtype: str, rng: Draws) -> Iterator[Case]:
    """NaN, infinities, ignored and weightless samples, nothing left to average."""
    inf, nan = np.inf, np.nan
    if function in ELEMENTWISE:
        if function == "binary_cross_entropy":
            x = np.asarray([nan, 0.0, 1.0, 0.25])
        else:
            x = np.asarray([nan, inf, -inf, 0.0, 2.0])
        if function in TRANSFORMS:
            yield Case(function, "", "values", dtype, {"logits": x}, cotangent=np.ones(x.shape))
            return
        both = np.concatenate([x, x])
        y = np.repeat([1.0, 0.0], x.size)
        arrays = {"logits": both, "target": y}
        yield Case(function, "", "values", dtype, arrays, {"reduction": "none"}, "float", np.ones(both.size))
        finite = np.isfinite(both) & ((both > 0) & (both < 1) if function == "binary_cross_entropy" else True)
        for name in ("where", "sample_weight"):
            weighed = {**arrays, name: finite.astype(np.float64)}
            yield Case(function, "", f"{name} 0", dtype, weighed, {}, "float")
        ignored = {**arrays, "target": np.where(finite, y, -1.0)}
        yield Case(function, "", "ignored", dtype, ignored, {"ignore_index": -1}, "index")
        yield from _nothing_left(function, dtype, arrays, "float")
        return
    if function in DIVERGENCES:
        yield from _paired_nonfinite(function, dtype)
        return
    rows = np.asarray(
        [
            [1.0, 2.0, nan],
            [inf, 2.0, 0.5],
            [-inf, 2.0, 0.5],
            [-inf, 2.0, -inf],
            [inf, inf, 0.5],
            [-inf, -inf, -inf],
            [0.5, 2.0, -1.0],
        ]
    )
    if function in TRANSFORMS:
        if function == "logsumexp":  # defined for each of these as the limit, which the table leaves open
            rows = rows[[0, 2, 3, 6]]
        for name, some in _mixes(rows):
            x = rows[some]
            g = np.ones(len(x)) if function == "logsumexp" else np.tile([1.0, 0.0, 0.0], (len(x), 1))
            yield Case(function, "", f"values{name}", dtype, {"logits": x}, cotangent=g)
        return
    if function == "nll_loss":
        rows = np.asarray([[-1.0, -2.0, nan], [-inf, -0.5, -1.0], [0.0, -inf, -inf], [-0.5, -2.0, -1.0]])
    # Of nll_loss only the label is read: a NaN beside it is nobody's business.
    labelled = rows[1:] if function == "nll_loss" else rows
    for label in (0, 1):
        for name, some in _mixes(labelled):
            arrays = {"logits": labelled[some], "target": np.full(int(np.sum(some)), float(label))}
            arrays = {key: _filled(values) for key, values in arrays.items()}
            detail = f"label {label}{name}"
            yield Case(function, "", detail, dtype, arrays, {"reduction": "none"}, "index", np.ones(ROWS))
    if function == "nll_loss":
        arrays = {"logits": rows, "target": np.full(len(rows), 2.0)}
        # What a nan pulls back is left open by the contract.
        yield Case(function, "", "label nan", dtype, arrays, {"reduction": "none"}, "index", wrt=())
    keep = np.all(np.isfinite(rows), axis=1)
    labels = np.zeros(len(rows))
    for name in ("where", "sample_weight"):
        weighed = {"logits": rows, "target": labels, name: keep.astype(np.float64)}
        yield Case(function, "", f"{name} 0", dtype, weighed, {}, "index")
    ignored = {"logits": rows, "target": np.where(keep, labels, -100.0)}
    yield Case(function, "", "ignored", dtype, ignored, {}, "index")
    weightless = {"logits": rows, "target": np.where(keep, 0.0, 1.0), "class_weight": np.asarray([1.0, 0.0, 1.0])}
    yield Case(function, "", "class weight 0", dtype, weightless, {}, "index")
    shares = np.where(keep[:, None], [0.5, 0.5, 0.0], [0.0, 1.0, 0.0])
    zero_cost = {"logits": np.where(np.isnan(rows), 0.0, rows), "target": shares}
    if function != "nll_loss":
        for name, some in _mixes(zero_cost["logits"]):
            arrays = {key: _filled(values[some]) for key, values in zero_cost.items()}
            yield Case(function, "", f"0 * inf{name}", dtype, arrays, {"reduction": "none"}, "float", np.ones(ROWS))
    yield from _nothing_left(function, dtype, {"logits": rows, "target": labels}, "index")


def _mixes(*arrays: Floats) -> Iterator[tuple[str, NDArray[np.bool_]]]:
    """All of the rows, and those of +inf alone: what they bring about must not hang on a nan or -inf beside them."""
    above = np.all([np.all(values > -np.inf, axis=1) for values in arrays], axis=0)
    yield "", np.ones_like(above)
    yield ", +inf", above


def _paired_nonfinite(function: str, dtype: str) -> Iterator[Case]:
    inf, nan = np.inf, np.nan
    pairs = [
        ([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]),
        ([0.0, 0.5, -inf], [4.0, 4.0, -inf]),
        ([0.0, 0.5, 1.0], [3.0, -inf, -inf]),
        ([0.0, 0.5, 1.0], [inf, 1.0, -inf]),
        ([0.0, 0.5, -inf], [0.0, 0.0, 0.0]),
        ([0.0, 0.0, -inf], [200.0, 200.0, -200.0]),
        ([inf, 0.0, 0.0], [inf, 0.0, 7.0]),
        ([inf, 0.0, 0.0], [0.0, inf, 0.0]),
        ([inf, 0.0, 0.0], [0.0, 0.5, -inf]),
        ([inf, inf, 0.0], [0.0, 0.0, 0.0]),
        ([0.0, 0.0, 0.0], [inf, inf, 0.0]),
        ([-inf, -inf, -inf], [0.0, 0.0, 0.0]),
        ([0.0, 0.0, 0.0], [-inf, -inf, -inf]),
        ([0.0, nan, 0.0], [0.0, 0.0, 0.0]),
        ([0.0, 0.0, 0.0], [0.0, 0.0, nan]),
    ]
    if function in GIVEN:
        pairs = [
            ([-0.5, -1.0, -2.0], [0.5, 0.25, 0.25]),
            ([-0.5, -1.0, -inf], [0.5, 0.5, 0.0]),
            ([-0.5, -1.0, -2.0], [1.0, 0.0, 0.0]),
            ([0.0, -inf, -inf], [1.0, 0.0, 0.0]),
            ([-0.5, -1.0, -inf], [0.5, 0.25, 0.25]),
            ([-inf, -inf, -inf], [0.5, 0.25, 0.25]),
            ([-0.5, nan, -1.0], [0.5, 0.25, 0.25]),
        ]
    arrays = {"logits": np.asarray([x for x, _ in pairs]), "target": np.asarray([t for _, t in pairs])}
    values = arrays
    if function in GIVEN:
        # What a nan pulls back is left open by the contract, as in nll_loss.
        yield Case(function, "", "nan", dtype, arrays, {"reduction": "none"}, "float", wrt=())
        values = {name: a[:-1] for name, a in arrays.items()}
    for name, some in _mixes(*values.values()):
        filled = {key: _filled(a[some]) for key, a in values.items()}
        yield Case(function, "", f"values{name}", dtype, filled, {"reduction": "none"}, "float", np.ones(ROWS))
    keep = np.asarray([i < 4 for i in range(len(pairs))], dtype=np.float64)
    for name in ("where", "sample_weight"):
        yield Case(function, "", f"{name} 0", dtype, {**arrays, name: keep}, {}, "float", None, ("logits", "target"))
    yield from _nothing_left(function, dtype, arrays, "float")


def _nothing_left(function: str, dtype: str, arrays: Mapping[str, Floats], kind: str) -> Iterator[Case]:
    lead = arrays["logits"].shape[:1]
    nothing = {**arrays, "where": np.zeros(lead)}
    empty = {name: values[:0] for name, values in arrays.items()}
    zero = Reduce("Mean", {"empty": "zero"})
    for name, chosen in (("all ignored", nothing), ("empty batch", empty)):
        for reduction in ("mean", "sum", zero):
            # The gradient of a mean of nothing is left open by the contract.
            wrt = () if reduction == "mean" else ("logits",)
            yield Case(function, "", name, dtype, chosen, {"reduction": reduction}, kind, None, wrt)
    yield Case(function, "", name, dtype, empty, {"reduction": "none"}, kind, np.ones(0))


def _spread(function: str, dtype: str, rng: Draws) -> Iterator[Case]:
    """100 and 1,000 logits with standard deviations of 15 and 30."""
    for deviation in (15, 30):
        yield from _stress(_spread_rows(deviation), (100, 1000), name=f"deviation {deviation}, ")(function, dtype, rng)


FAMILIES: dict[str, Family] = {
    "margins": _margins,
    # 1000, as many equal terms make of a sum's roundings one that grows.
    "ties": _stress(_tie_rows, (2, 10, 1000)),
    "classes": _stress(_margin_rows, (100, 1000)),
    "spread": _spread,
    "outlier": _stress(_outlier_rows, (10, 100)),
    "wide": _wide,
    "dominating": _stress(_dominating_rows, (10,)),
    "masked": _stress(_masked_rows, (10,)),
    "offset": _stress(_offset_rows, (10,)),
    "soft": _soft,
    "weights": _weights,
    "probabilities": _probabilities,
    "options": _options,
    "further": _further,
    "nonfinite": _nonfinite,
    "reductions": _reductions,
    "million": _million,
}

SLOW = ("wide", "classes", "spread", "million")
"""Left out of a quick run."""
