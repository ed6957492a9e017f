"""Exact values and gradients, by ball arithmetic on the textbook formulas.

Nothing here is clever. `exp`, `log` and `pow` are written as in a textbook, in `arb` numbers that carry a proven bound
of their own error, and the precision is doubled until that bound is far below what a float64 could show. The inputs are
the numbers as rounded to the dtype under test; no line is shared with any implementation that is judged.

Notation, for one sample: `p` the probabilities, `r = 1 - p`, `l = -log p`; with `gamma` the focal exponent,
`cost = r**gamma * l` and `slope = -p * d cost / dp = r**gamma * (1 + gamma * p * l / r) >= 0`. With coefficients `t`
(target times weights), the loss is `sum_c t_c cost_c`, and its derivative with respect to logit j is
`p_j * sum_{c != j} t_c slope_c  -  t_j slope_j r_j`. poly_loss adds `epsilon r` to the cost and `epsilon p` to the
slope. generalized_cross_entropy has the cost `(1 - p**q) / q` and the slope `p**q`; symmetric_cross_entropy is a
multiple of poly_loss.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from flint import arb, ctx

from arrayloss.testing import FORMATS, HALF, Case, Exact, Floats, Reduce

from .cases import BINARY, CATEGORICAL, DIVERGENCES

PROOF_BITS = 80
"""A ball is sharp once its radius is below 2**-80 of its value (or of the smallest subnormal of the dtype)."""

_GUARD_BITS = 24  # what sums and weights may take away from a sharp ball before it is written down

Balls = list[arb]


def exact(case: Case) -> dict[str, Exact]:
    """The exact value of a case (`"value"`) and its gradients (`"d logits"`, `"d target"`, ...)."""
    with ctx.workprec(512):
        case = _distinct(case)
        if case.function in CATEGORICAL:
            return _categorical(case)
        if case.function in BINARY:
            return _binary(case)
        if case.function in DIVERGENCES:
            return _paired(case)
        return _transform(case)


def _distinct(case: Case) -> Case:
    """The mean over many repeated samples, as the weighted mean over the distinct ones."""
    logits, target = case.arrays["logits"], case.arrays.get("target")
    reduction = case.reduction
    if case.wrt or target is None or target.ndim != 1 or len(case.arrays) > 2 or reduction != "mean":
        return case
    if case.function not in BINARY and (logits.ndim != 2 or case.axis not in (-1, 1)):  # no column of samples
        return case
    columns = np.column_stack([logits, target])
    rows, counts = np.unique(columns, axis=0, return_counts=True)
    arrays = {
        "logits": rows[:, :-1].reshape(-1, *logits.shape[1:]),
        "target": rows[:, -1],
        "sample_weight": counts.astype(np.float64),
    }
    return replace(case, arrays=arrays)


# ---------------------------------------------------------------- sharp balls of one sample


def _proven(compute: Callable[[], Sequence[Balls]], floor: arb) -> Sequence[Balls]:
    """Repeat a computation at doubled precision until every ball of it is sharp."""
    bits = 128
    while bits <= 1 << 17:
        with ctx.workprec(bits):
            found = compute()
            if all(_sharp(ball, floor) for balls in found for ball in balls):
                return found
        bits *= 2
    raise ArithmeticError("no proof of sharpness within 2**17 bits")


def _sharp(ball: arb, floor: arb) -> bool:
    return bool(ball.rel_accuracy_bits() >= PROOF_BITS + _GUARD_BITS or ball.rad() <= floor)


@lru_cache(maxsize=4096)
def _softmax(x: tuple[float, ...], floor_exponent: int, temperature: float = 1.0) -> tuple[Balls, Balls, Balls]:
    """p, 1 - p and -log p of one row over a temperature; NaN throughout where the row has no answer."""
    infinite = [c for c, value in enumerate(x) if value == math.inf]
    if any(math.isnan(value) for value in x) or len(infinite) > 1 or all(value == -math.inf for value in x):
        return ([arb.nan()] * len(x),) * 3
    if infinite:
        sure = [c == infinite[0] for c in range(len(x))]
        return (
            [arb(int(s)) for s in sure],
            [arb(int(not s)) for s in sure],
            [arb(0) if s else arb.pos_inf() for s in sure],
        )
    masked = [value == -math.inf for value in x]
    floor = arb(2) ** (floor_exponent - PROOF_BITS - _GUARD_BITS)

    def compute() -> tuple[Balls, Balls, Balls]:
        divided = [arb(0) if m else arb(value) / temperature for value, m in zip(x, masked, strict=True)]
        powers = [arb(0) if m else value.exp() for value, m in zip(divided, masked, strict=True)]
        total = _sum(powers)
        log_total = total.log()
        return (
            [power / total for power in powers],
            [(total - power) / total for power in powers] if len(x) > 1 else [arb(0)],
            [arb(0) if m else log_total - value for value, m in zip(divided, masked, strict=True)]
            if len(x) > 1
            else [arb(0)],
        )

    p, r, minus_log = _proven(compute, floor)
    return p, r, [arb.pos_inf() if m else ball for ball, m in zip(minus_log, masked, strict=True)]


@dataclass(frozen=True)
class _Form:
    """`scale * r**gamma * l + epsilon * r`; or `(1 - p**q) / q`, if q is not 0."""

    gamma: float = 0.0
    epsilon: float = 0.0
    scale: float = 1.0
    q: float = 0.0


def _form(case: Case) -> _Form:
    if "focal" in case.function:
        return _Form(gamma=float(str(case.options.get("gamma", 2.0))))
    if case.function == "generalized_cross_entropy":
        return _Form(q=float(str(case.options.get("q", 0.7))))
    if case.function == "symmetric_cross_entropy":
        given = {"alpha": 0.1, "beta": 1.0, "log_zero": math.log(1e-4), **case.options}
        alpha, beta, log_zero = (float(str(given[name])) for name in ("alpha", "beta", "log_zero"))
        return _Form(epsilon=beta * -log_zero, scale=alpha)
    return _Form(epsilon=float(str(case.options.get("epsilon", 2.0))) if case.function == "poly_loss" else 0.0)


def _forms(case: Case, shape: tuple[int, ...], axis: int | None = None) -> tuple[list[_Form], list[int]]:
    """The form of each logit, with the class axis last, and the place of its exponent in gamma."""
    gamma = case.arrays.get("gamma")
    if gamma is None:
        return [_form(case)] * math.prod(shape), [0] * math.prod(shape)
    places = np.arange(gamma.size).reshape(gamma.shape)
    if axis is not None and gamma.ndim > 1:
        places = np.moveaxis(np.broadcast_to(places, case.arrays["logits"].shape), axis, -1)
    at = np.broadcast_to(places, shape).ravel().tolist()
    return [_Form(gamma=float(gamma.ravel()[i])) for i in at], at


def _by_gamma(row: tuple[Balls, Balls, Balls], c: int, form: _Form) -> arb:
    """`r**gamma * log(r) * l`; 0 at either end."""
    p, r, minus_log = row
    if p[c].is_zero() or r[c].is_zero():
        return arb(0)
    return _power(r[c], form.gamma) * r[c].log() * minus_log[c]


def _cost(row: tuple[Balls, Balls, Balls], c: int, form: _Form) -> arb:
    """What class c would cost."""
    _, r, minus_log = row
    if form.q:
        # The textbook's 1 - p**q, of -log p, which has all digits of it where p is next to 1.
        return (
            -(-arb(form.q) * minus_log[c]).expm1() / arb(form.q)
            if minus_log[c].is_finite()
            else 1 / arb(form.q) + 0 * r[c]
        )
    if form.scale != 1:
        return arb(form.scale) * minus_log[c] + arb(form.epsilon) * r[c]
    if form.epsilon < 0 and r[c].is_finite():
        return _excess(r[c], minus_log[c]) + (1 + arb(form.epsilon)) * r[c]
    cost = minus_log[c] if form.gamma == 0 else _power(r[c], form.gamma) * minus_log[c]
    return cost + arb(form.epsilon) * r[c] if form.epsilon else cost


def _excess(r: arb, minus_log: arb) -> arb:
    """`l - r`, by the series of the logarithm where the two are next to each other."""
    if not r < 0.25:
        return minus_log - r
    total, power, k = arb(0), r, 1
    while k < 3 or power > total * arb(2) ** -ctx.prec:
        power, k = power * r, k + 1
        total += power / k
    return total + arb(0).union(power.abs_upper())


def _slope(row: tuple[Balls, Balls, Balls], c: int, form: _Form) -> arb:
    """`-p * d cost / dp`, positive."""
    p, r, minus_log = row
    gamma = form.gamma
    if form.q and p[c].is_finite():
        return (-arb(form.q) * minus_log[c]).exp() if minus_log[c].is_finite() else arb(0)
    if gamma == 0:
        if not p[c].is_finite():
            return arb.nan()
        # 1 + epsilon p, in terms of one sign.
        return arb(form.scale) * r[c] + (arb(form.scale) + arb(form.epsilon)) * p[c] if form.epsilon else arb(1)
    if not p[c].is_finite():
        return arb.nan()
    if not minus_log[c].is_finite():  # p = 0: p log p -> 0 and 1 - p = 1
        return arb(1)
    # Where r is below every number that can be shown, p l / r lies within (1 - r, 1].
    ratio = p[c] * minus_log[c] / r[c] if r[c] > 0 else (1 - r[c].abs_upper()).union(arb(1))
    return _power(r[c], gamma) * (1 + arb(gamma) * ratio)


def _power(r: arb, gamma: float) -> arb:
    if r > 0:
        return r ** arb(gamma)
    return arb(0) if r.is_zero() else arb(0).union(r.abs_upper() ** arb(gamma))


def _sum(balls: Sequence[arb]) -> arb:
    total = arb(0)
    for ball in balls:
        total += ball
    return total


# ---------------------------------------------------------------- writing balls down


class _Sheet:
    """An array of balls being filled: every entry a sum of terms, positive and negative ones kept apart."""

    def __init__(self, shape: tuple[int, ...], case: Case, forgiving: bool = True) -> None:
        self.shape = shape
        self.forgiving = forgiving
        self.floor_exponent = FORMATS[case.result_dtype].subnormal_exponent
        size = math.prod(shape)
        self.positive: Balls = [arb(0)] * size
        self.negative: Balls = [arb(0)] * size
        self.moved: Balls | None = None

    def add(self, index: int, term: arb) -> None:
        """Add a term that was computed without cancellation."""
        if term < 0:
            self.negative[index] -= term
        else:  # NaN too: it must not get lost
            self.positive[index] += term

    def add_difference(self, index: int, difference: arb, larger: arb, moved: arb | None = None) -> None:
        """Add a term known to be a difference of positive numbers, the larger of which is given; `Exact.moved` too."""
        self.positive[index] += larger
        self.negative[index] += larger - difference
        if moved is not None:
            if self.moved is None:
                self.moved = [arb(0)] * len(self.positive)
            self.moved[index] += moved

    def written(self) -> Exact:
        high, low, scale = (np.zeros(len(self.positive)) for _ in range(3))
        for i, (positive, negative) in enumerate(zip(self.positive, self.negative, strict=True)):
            ball = positive - negative
            if not ball.is_finite():
                high[i] = _non_finite(positive, negative)
                scale[i] = abs(high[i])
                continue
            high[i] = float(ball)
            # Where the number overflows even a float64, there's no more to say than that.
            low[i] = float(ball - arb(high[i])) if math.isfinite(high[i]) else 0.0
            scale[i] = abs(high[i])
            reference = max(abs(ball.mid()), abs(positive.mid()), abs(negative.mid()))
            if self.forgiving:
                scale[i] = max(scale[i], float(positive), float(negative))
            if ball.rel_accuracy_bits() < PROOF_BITS and ball.rad() > 2.0**-PROOF_BITS * max(
                reference, arb(2) ** self.floor_exponent
            ):
                raise ArithmeticError(f"entry {i} is not proven: {ball}")
        moved = None
        if self.moved is not None:
            moved = np.asarray([float(ball) if ball.is_finite() else 0.0 for ball in self.moved]).reshape(self.shape)
        return Exact(high.reshape(self.shape), low.reshape(self.shape), scale.reshape(self.shape), moved)


def _non_finite(positive: arb, negative: arb) -> float:
    if positive.is_nan() or negative.is_nan():
        return math.nan
    up, down = not positive.is_finite(), not negative.is_finite()
    return math.nan if up and down else math.inf if up else -math.inf


# ---------------------------------------------------------------- softmax, log_softmax, logsumexp, sigmoid, log_sigmoid


def _transform(case: Case) -> dict[str, Exact]:
    """The functions that have no target: their value, and their vector-Jacobian product with the cotangent."""
    x = case.arrays["logits"]
    floor_exponent = FORMATS[case.result_dtype].subnormal_exponent
    if case.function in ("sigmoid", "log_sigmoid"):
        value, gradient = _Sheet(x.shape, case), _Sheet(x.shape, case)
        cotangent = np.ones(x.shape) if case.cotangent is None else case.cotangent
        for i, (element, pull_back) in enumerate(zip(x.ravel(), cotangent.ravel(), strict=True)):
            p, r, minus_log = _softmax((float(element), 0.0), floor_exponent)
            if case.function == "sigmoid":
                value.add(i, p[0])
                gradient.add(i, arb(float(pull_back)) * p[0] * r[0])
            else:
                value.add(i, -minus_log[0])
                gradient.add(i, arb(float(pull_back)) * r[0])
        return {"value": value.written(), "d logits": gradient.written()}

    axis = case.axis
    rows = np.moveaxis(x, axis, -1)
    lead, classes = rows.shape[:-1], rows.shape[-1]
    where = case.arrays.get("where")
    taking_part = np.ones(rows.shape) if where is None else np.moveaxis(np.broadcast_to(where, x.shape), axis, -1)
    rows = np.where(taking_part != 0, rows, -np.inf)
    scalar = case.function == "logsumexp"
    value = _Sheet(lead if scalar else rows.shape, case)
    gradient = _Sheet(rows.shape, case)
    flat = rows.reshape(-1, classes)
    cotangent = np.ones(value.shape)
    if case.cotangent is not None:
        cotangent = case.cotangent
        if scalar and case.options.get("keepdims"):
            cotangent = np.squeeze(cotangent, axis)
        elif not scalar:
            # The result of a class that takes no part is a constant.
            cotangent = np.moveaxis(cotangent, axis, -1) * taking_part
    cotangent = cotangent.reshape(-1, 1 if scalar else classes)
    for i, row_values in enumerate(flat):
        row = tuple(float(v) for v in row_values)
        p, r, minus_log = _softmax(row, floor_exponent)
        g = [arb(float(v)) for v in cotangent[i]]
        if scalar:
            _logsumexp_value(value, i, row, p, minus_log)
            for j in range(classes):
                gradient.add(i * classes + j, g[0] * p[j])
            continue
        active = [c for c in range(classes) if cotangent[i, c] != 0]
        pull = _sum([g[c] * p[c] for c in active]) if case.function == "softmax" else _sum([g[c] for c in active])
        size = _sum([abs(g[c]) * (p[c] if case.function == "softmax" else 1) for c in active])
        for j in range(classes):
            at = i * classes + j
            value.add(at, p[j] if case.function == "softmax" else -minus_log[j])
            if case.function == "softmax":
                rest = pull - g[j] * p[j] if cotangent[i, j] != 0 else pull
                if len(active) == 1:  # one term only: nothing cancels, so nothing is forgiven
                    gradient.add(at, p[j] * g[j] * r[j] if cotangent[i, j] != 0 else -p[j] * rest)
                else:
                    larger = p[j] * _max(abs(g[j]), size)
                    gradient.add_difference(at, p[j] * (g[j] * r[j] - rest), larger)
            else:
                rest = pull - g[j]
                if len(active) == 1:
                    gradient.add(at, g[j] * r[j] if cotangent[i, j] != 0 else -p[j] * pull)
                else:
                    larger = _max(abs(g[j]), p[j] * size)
                    gradient.add_difference(at, g[j] * r[j] - p[j] * rest, larger)
    found = {"value": value.written(), "d logits": gradient.written()}
    shaped = {name: _like(entry, lead, classes, axis) for name, entry in found.items() if entry.high.ndim == x.ndim}
    if scalar:
        shaped["value"] = (
            _map(found["value"], lambda a: np.expand_dims(a, axis)) if case.options.get("keepdims") else found["value"]
        )
    return shaped


def _logsumexp_value(sheet: _Sheet, i: int, row: tuple[float, ...], p: Balls, minus_log: Balls) -> None:
    """`m + log(1 + rest)`: a difference where the maximum is negative, which the error is measured over."""
    top = max(row) if not any(math.isnan(v) for v in row) else math.nan
    if math.isinf(top):  # the limit is the maximum itself
        sheet.add(i, arb.pos_inf() if top > 0 else arb.neg_inf())
    else:
        sheet.add(i, arb(top))
        sheet.add(i, minus_log[row.index(top)] if not math.isnan(top) else arb.nan())


def _max(a: arb, b: arb) -> arb:
    return a if a > b else b


def _like(entry: Exact, lead: tuple[int, ...], classes: int, axis: int) -> Exact:
    return _map(entry, lambda a: np.moveaxis(a.reshape(*lead, classes), -1, axis))


def _map(entry: Exact, change: Callable[[Floats], Floats]) -> Exact:
    moved = None if entry.moved is None else change(entry.moved)
    return Exact(change(entry.high), change(entry.low), change(entry.scale), moved)


# ---------------------------------------------------------------- losses


@dataclass
class _Sample:
    """One sample of a loss, before weights and reduction: what it costs and how it moves."""

    loss: arb
    weight: arb  # what it counts for in a weighted mean, sample_weight included
    valid: bool  # neither ignored nor masked
    active: bool  # valid, and of a weight that isn't 0
    size: arb | None = None  # what the loss's error is measured over, where that isn't the loss itself
    moved: arb | None = None  # `Exact.moved` of the loss


@dataclass(frozen=True)
class _Reduced:
    """How sample i enters the result: d result / d loss_i, and d result / d weight_i."""

    value: Exact
    of_loss: Balls
    of_weight: Balls


def _reduce(case: Case, samples: list[_Sample], sample_weight: Balls, shape: tuple[int, ...]) -> _Reduced:
    """Weigh and reduce; the derivatives carry the cotangent."""
    how = case.reduction
    reduce = how if isinstance(how, Reduce) else Reduce({"mean": "Mean", "sum": "Sum"}.get(str(how), "none"))
    count = len(samples)
    weighted = [
        weight * sample.loss if sample.active else arb(0) for weight, sample in zip(sample_weight, samples, strict=True)
    ]
    # Which of the results each sample goes to.
    axis = () if reduce.kind == "none" else reduce.arguments.get("axis", tuple(range(len(shape))))
    axes = tuple(a % len(shape) for a in (axis if isinstance(axis, tuple) else (axis,)))
    left = tuple(n for i, n in enumerate(shape) if i not in axes)
    places = np.expand_dims(np.arange(math.prod(left)).reshape(left), axes)
    at = np.broadcast_to(places, shape).ravel().tolist()
    outer = _per_sample(case.cotangent, left)
    if reduce.kind == "Hardest":
        return _hardest(case, reduce, samples, weighted, sample_weight, outer[0])
    over = reduce.arguments.get("over", "weight") if reduce.kind == "Mean" else 1
    divisors = [arb(0) if isinstance(over, str) else arb(float(over)) for _ in outer]
    for place, sample in zip(at, samples, strict=True):
        if over == "all" or (over in ("weight", "valid") and sample.valid):
            divisors[place] += sample.weight if over == "weight" else 1
    value = _Sheet(left, case)
    of_loss, of_weight = [arb(0)] * count, [arb(0)] * count
    sums = [arb(0) for _ in outer]
    for i, (place, weight, ball, sample) in enumerate(zip(at, sample_weight, weighted, samples, strict=True)):
        divisor = divisors[place]
        if not divisor.is_zero():
            _add_loss(value, place, ball / divisor, weight / divisor, sample)
            of_loss[i] = outer[place] * weight / divisor
            sums[place] += ball
    for place, divisor in enumerate(divisors):
        if divisor.is_zero() and reduce.arguments.get("empty") != "zero":
            value.add(place, arb.nan())
    if over == "weight":
        for i, place in enumerate(at):
            if not divisors[place].is_zero():
                of_weight[i] = -outer[place] * sums[place] / (divisors[place] * divisors[place])
    return _Reduced(value.written(), of_loss, of_weight)


def _add_loss(sheet: _Sheet, at: int, term: arb, weight: arb, sample: _Sample) -> None:
    """Add a sample's loss times its weight."""
    if sample.size is None or sample.moved is None or not sample.active or not term.is_finite():
        sheet.add(at, term)
    else:
        sheet.add_difference(at, term, abs(weight) * sample.size, abs(weight) * sample.moved)


def _hardest(
    case: Case, reduce: Reduce, samples: list[_Sample], weighted: Balls, sample_weight: Balls, outer: arb
) -> _Reduced:
    """The mean of the k largest weighted losses among the valid samples."""
    valid = [i for i, sample in enumerate(samples) if sample.valid]
    k = reduce.arguments.get("k", 0)
    if "fraction" in reduce.arguments:
        k = max(1, int(float(str(reduce.arguments["fraction"])) * len(valid)))
    larger = sum(float(weighted[i]) > reduce.arguments.get("threshold", math.inf) for i in valid)
    k = min(max(k, larger), len(valid))
    chosen = sorted(valid, key=lambda i: -float(weighted[i]))[:k]
    value = _Sheet((), case)
    for i in chosen:
        _add_loss(value, 0, weighted[i] / k, sample_weight[i] / k, samples[i])
    if not k:
        value.add(0, arb.nan())
    of_loss = [arb(0)] * len(samples)
    for i in chosen:
        of_loss[i] = outer * sample_weight[i] / k
    return _Reduced(value.written(), of_loss, [arb(0)] * len(samples))


def _categorical(case: Case) -> dict[str, Exact]:
    """The losses of one right class."""
    axis = case.axis
    rows = np.moveaxis(case.arrays["logits"], axis, -1)
    lead, classes = rows.shape[:-1], rows.shape[-1]
    count = math.prod(lead)
    flat = rows.reshape(count, classes)
    target = case.arrays["target"]
    soft = case.target_kind == "float"
    labels = None if soft else target.reshape(count).astype(np.int64)
    shares = np.moveaxis(target, axis, -1).reshape(count, classes) if soft else None
    smoothing = float(str(case.options.get("label_smoothing", 0.0)))
    temperature = float(str(case.options.get("temperature", 1.0)))
    forms, _ = _forms(case, rows.shape, axis)
    z = float(str(case.options.get("z_loss", 0.0)))
    class_weight = _vector(case.arrays.get("class_weight"), classes)
    alpha = _shares(case, classes)
    sample_weight = _per_sample(case.arrays.get("sample_weight"), lead)
    counted = _flags(case.arrays.get("where"), lead)
    if labels is not None:
        counted = counted & ~np.isin(labels, case.options.get("ignore_index", -100))
    floor_exponent = FORMATS[case.result_dtype].subnormal_exponent

    samples: list[_Sample] = []
    given: list[dict[int, arb]] = []  # the target as given, its zeros left out
    smooth: list[dict[int, arb]] = []
    table: list[tuple[Balls, Balls, Balls] | None] = []
    for i in range(count):
        q = (
            {int(labels[i]): arb(1)}
            if labels is not None and counted[i]
            else {c: arb(float(shares[i, c])) for c in range(classes) if shares[i, c] != 0}
            if shares is not None and counted[i]
            else {}
        )
        weight = sample_weight[i] * _sum([q[c] * class_weight[c] for c in q])
        active = bool(counted[i]) and not weight.is_zero()
        moved = _smoothed(q, smoothing, classes) if active else {}
        row: tuple[Balls, Balls, Balls] | None = None
        loss = arb(0)
        if active:
            values = tuple(float(v) for v in flat[i])
            of_logits = case.function != "nll_loss"
            row = _softmax(values, floor_exponent, temperature) if of_logits else _log_probs(values)
            for c, share in moved.items():
                if not (class_weight[c] * alpha[c]).is_zero():
                    loss += share * class_weight[c] * alpha[c] * _cost(row, c, forms[i * classes + c])
            if z:
                loss += z * _sum([q[c] * class_weight[c] for c in q]) * _log_total(case, values) ** 2
        samples.append(_Sample(loss, weight, bool(counted[i]), active))
        given.append(q)
        smooth.append(moved)
        table.append(row)

    reduced = _reduce(case, samples, sample_weight, lead)
    found = {"value": reduced.value}
    forgiving = soft or smoothing > 0 or z > 0
    if "logits" in case.wrt:
        sheet = _Sheet((count, classes), case, forgiving)
        for i in range(count):
            row = table[i]
            if row is None:
                continue
            steep = {c: q * class_weight[c] * alpha[c] for c, q in smooth[i].items()}
            if case.function == "nll_loss":
                for c, t in steep.items():
                    sheet.add(i * classes + c, -reduced.of_loss[i] * t)
                continue
            steep = {c: t * _slope(row, c, forms[i * classes + c]) for c, t in steep.items() if not t.is_zero()}
            total = _sum(list(steep.values()))
            p, r, _ = row
            pull = reduced.of_loss[i] / temperature
            for j in range(classes):
                own = steep.get(j, arb(0))
                difference = (p[j] * (total - own) if len(steep) > 1 or j not in steep else arb(0)) - own * r[j]
                at = i * classes + j
                if forgiving and difference.is_finite():
                    sheet.add_difference(at, pull * difference, abs(pull) * _max(p[j] * total, own))
                else:
                    sheet.add(at, pull * difference)
                if z:
                    mass = _sum([q * class_weight[c] for c, q in given[i].items()])
                    share = _softmax(tuple(map(float, flat[i])), floor_exponent)[0][j]
                    sheet.add(at, reduced.of_loss[i] * 2 * z * mass * _log_total(case, flat[i]) * share)
        found["d logits"] = _like(sheet.written(), lead, classes, axis)
    found.update(_categorical_others(case, reduced, samples, given, smooth, table))
    return found


def _categorical_others(
    case: Case,
    reduced: _Reduced,
    samples: list[_Sample],
    given: list[dict[int, arb]],
    smooth: list[dict[int, arb]],
    table: list[tuple[Balls, Balls, Balls] | None],
) -> dict[str, Exact]:
    """Gradients with respect to everything but the logits, as far as the case asks for them."""
    axis = case.axis
    rows = np.moveaxis(case.arrays["logits"], axis, -1)
    lead, classes, count = rows.shape[:-1], rows.shape[-1], len(samples)
    flat = rows.reshape(count, classes)
    class_weight = _vector(case.arrays.get("class_weight"), classes)
    alpha = _shares(case, classes)
    sample_weight = _per_sample(case.arrays.get("sample_weight"), lead)
    keep = 1 - arb(float(str(case.options.get("label_smoothing", 0.0))))
    forms, places = _forms(case, rows.shape, axis)
    z = float(str(case.options.get("z_loss", 0.0)))
    found: dict[str, Exact] = {}
    sheets = {
        "gamma": _Sheet(case.arrays["gamma"].shape if "gamma" in case.arrays else (), case),
        "target": _Sheet((count, classes), case),
        "class_weight": _Sheet((classes,), case),
        "alpha": _Sheet((classes,), case),
        "sample_weight": _Sheet((count,), case),
    }
    wanted = [name for name in sheets if name in case.wrt]
    for i in range(count) if wanted else ():
        row = table[i]
        if row is None:
            continue
        of_loss, of_weight = reduced.of_loss[i], reduced.of_weight[i]
        for name in wanted:
            sheet = sheets[name]
            if name == "sample_weight":
                sheet.add(i, of_loss / sample_weight[i] * samples[i].loss)
                sheet.add(i, of_weight * samples[i].weight / sample_weight[i])
                continue
            for c in range(classes):
                form = forms[i * classes + c]
                if name == "gamma":
                    if c in smooth[i]:
                        factor = of_loss * smooth[i][c] * class_weight[c] * alpha[c]
                        sheet.add(places[i * classes + c], factor * _by_gamma(row, c, form))
                elif name == "target":
                    sheet.add(i * classes + c, of_loss * keep * class_weight[c] * alpha[c] * _cost(row, c, form))
                    if z:
                        sheet.add(i * classes + c, of_loss * class_weight[c] * z * _log_total(case, flat[i]) ** 2)
                    sheet.add(i * classes + c, of_weight * sample_weight[i] * class_weight[c])
                elif name == "class_weight":
                    if c in smooth[i]:
                        sheet.add(c, of_loss * smooth[i][c] * alpha[c] * _cost(row, c, form))
                    if c in given[i]:
                        sheet.add(c, of_weight * sample_weight[i] * given[i][c])
                        if z:
                            sheet.add(c, of_loss * given[i][c] * z * _log_total(case, flat[i]) ** 2)
                elif c in smooth[i]:
                    sheet.add(c, of_loss * smooth[i][c] * class_weight[c] * _cost(row, c, form))
    for name in wanted:
        written = sheets[name].written()
        if name == "target":
            written = _like(written, lead, classes, axis)
        elif name == "sample_weight":
            written = _map(written, lambda a: a.reshape(lead))
        found[f"d {name}"] = written
    return found


def _log_total(case: Case, values: Sequence[float]) -> arb:
    """The logarithm of the sum of the exponentials of a finite row, which no temperature divides."""
    row = tuple(float(v) for v in values)
    return _softmax(row, FORMATS[case.result_dtype].subnormal_exponent)[2][0] + arb(row[0])


def _log_probs(values: tuple[float, ...]) -> tuple[Balls, Balls, Balls]:
    """nll_loss is given the logarithms: only the cost is asked for."""
    nothing: Balls = []
    minus_log = [
        arb.nan() if math.isnan(v) else arb.pos_inf() if v == -math.inf else arb.neg_inf() if v > 1e308 else arb(-v)
        for v in values
    ]
    return nothing, nothing, minus_log


def _smoothed(q: dict[int, arb], smoothing: float, classes: int) -> dict[int, arb]:
    """(1 - s) q + s / C, the classes of share 0 left out: they cost nothing whatever their logit."""
    if smoothing == 0:
        return q
    share = arb(smoothing) / classes
    keep = 1 - arb(smoothing)
    moved = {c: keep * q[c] + share if c in q else share for c in range(classes)}
    return {c: ball for c, ball in moved.items() if not ball.is_zero()}


def _binary(case: Case) -> dict[str, Exact]:
    """binary_cross_entropy (of probabilities) and with logits, sigmoid_focal_loss, asymmetric_loss."""
    x = case.arrays["logits"]
    y = case.arrays["target"].ravel()
    smoothing = float(str(case.options.get("label_smoothing", 0.0)))
    forms, gamma_places = _forms(case, x.shape)
    forms_zero, margin = forms, 0.0
    if case.function == "asymmetric_loss":
        forms = [_Form(float(str(case.options.get("gamma_positive", 1.0))))] * x.size
        forms_zero = [_Form(float(str(case.options.get("gamma_negative", 4.0))))] * x.size
        margin = float(str(case.options.get("margin", 0.05)))
    alpha = case.arrays.get("alpha", case.options.get("alpha"))
    alpha_one = _per_sample(alpha, x.shape)
    alpha_zero = alpha_one if alpha is None else [1 - a for a in alpha_one]
    sample_weight = _per_sample(case.arrays.get("sample_weight"), x.shape)
    pos_weight = _per_sample(case.arrays.get("pos_weight"), x.shape)
    counted = _flags(case.arrays.get("where"), x.shape)
    if case.options.get("ignore_index") is not None:
        counted = counted & ~np.isin(y, case.options["ignore_index"])
    floor_exponent = FORMATS[case.result_dtype].subnormal_exponent
    of_probabilities = case.function == "binary_cross_entropy"

    samples: list[_Sample] = []
    parts: list[_Part | None] = []
    for i, element in enumerate(x.ravel()):
        active = bool(counted[i]) and not sample_weight[i].is_zero()
        part: _Part | None = None
        loss = arb(0)
        if active:
            share = (1 - arb(smoothing)) * arb(float(y[i])) + arb(smoothing) / 2
            moved = _part(float(element), forms[i], forms_zero[i], margin, floor_exponent, of_probabilities)
            part = _Part(*moved, share)
            for cost, factor in (
                (part.cost_one, share * pos_weight[i] * alpha_one[i]),
                (part.cost_zero, (1 - share) * alpha_zero[i]),
            ):
                if not factor.is_zero():
                    loss += factor * cost
        samples.append(_Sample(loss, sample_weight[i], bool(counted[i]), active))
        parts.append(part)

    reduced = _reduce(case, samples, sample_weight, x.shape)
    found = {"value": reduced.value}
    sheets = {
        name: _Sheet(case.arrays[name].shape if name in case.arrays else (), case)
        for name in ("logits", "target", "sample_weight", "pos_weight", "alpha", "gamma")
    }
    wanted = [name for name in sheets if name in case.wrt]
    places = {
        name: np.broadcast_to(np.arange(a.size).reshape(a.shape), x.shape).ravel()
        for name, a in case.arrays.items()
        if name in ("pos_weight", "sample_weight", "alpha")
    }
    for i, part in enumerate(parts):
        if part is None:
            continue
        of_loss, of_weight = reduced.of_loss[i], reduced.of_weight[i]
        one, zero = part.share, 1 - part.share
        for name in wanted:
            sheet = sheets[name]
            if name == "logits":
                terms = [
                    (-part.fall_one, of_loss * one * pos_weight[i] * alpha_one[i]),
                    (part.rise_zero, of_loss * zero * alpha_zero[i]),
                ]
                at = i
            elif name == "target":
                factor = of_loss * (1 - arb(smoothing))
                terms = [
                    (part.cost_one, factor * pos_weight[i] * alpha_one[i]),
                    (-part.cost_zero, factor * alpha_zero[i]),
                ]
                at = i
            elif name == "gamma":
                row = _softmax((float(x.ravel()[i]), 0.0), floor_exponent)
                terms = [
                    (_by_gamma(row, 0, forms[i]), of_loss * one * pos_weight[i] * alpha_one[i]),
                    (_by_gamma(row, 1, forms[i]), of_loss * zero * alpha_zero[i]),
                ]
                at = gamma_places[i]
            elif name == "pos_weight":
                terms = [(part.cost_one, of_loss * one * alpha_one[i])]
                at = int(places[name][i])
            elif name == "alpha":
                terms = [(part.cost_one, of_loss * one * pos_weight[i]), (-part.cost_zero, of_loss * zero)]
                at = int(places[name][i])
            else:
                terms = [(samples[i].loss, of_loss / sample_weight[i]), (arb(1), of_weight)]
                at = int(places[name][i])
            for term, factor in terms:
                if not factor.is_zero() and not term.is_zero():
                    sheet.add(at, term * factor)
    found.update({f"d {name}": sheets[name].written() for name in wanted})
    return found


@dataclass(frozen=True)
class _Part:
    """One element of the binary family: the cost of either answer, and how each moves with the input."""

    cost_one: arb
    cost_zero: arb
    fall_one: arb
    rise_zero: arb
    share: arb


def _part(
    element: float, form: _Form, form_zero: _Form, margin: float, floor_exponent: int, of_probability: bool
) -> tuple[arb, arb, arb, arb]:
    if not of_probability:
        row = _softmax((element, 0.0), floor_exponent)
        chances, r, _ = row
        cost_one, fall_one = _cost(row, 0, form), _slope(row, 0, form) * r[0]
        if not margin:
            return cost_one, _cost(row, 1, form_zero), fall_one, _slope(row, 1, form_zero) * r[1]
        raised = _raised(element, chances[0], margin, floor_exponent)
        if raised[1][0].is_zero():
            return cost_one, arb(0), fall_one, arb(0)
        # The chain rule: the slope by the logarithm of p + margin, of which p is a part.
        rise = _slope(raised, 0, form_zero) * r[1] * chances[1] / raised[0][0]
        return cost_one, _cost(raised, 0, form_zero), fall_one, rise
    if math.isnan(element):
        return arb.nan(), arb.nan(), arb.nan(), arb.nan()
    p = arb(element)
    floor = arb(2) ** (floor_exponent - PROOF_BITS - _GUARD_BITS)

    def compute() -> Sequence[Balls]:
        q = 1 - p
        return [[arb(0) if v.is_zero() else -v.log(), arb(0) if v.is_zero() else 1 / v] for v in (p, q)]

    (cost_one, fall_one), (cost_zero, rise_zero) = _proven(compute, floor)
    if p.is_zero():
        cost_one = fall_one = arb.pos_inf()
    if (1 - p).is_zero():
        cost_zero = rise_zero = arb.pos_inf()
    return cost_one, cost_zero, fall_one, rise_zero


def _raised(element: float, p: arb, margin: float, floor_exponent: int) -> tuple[Balls, Balls, Balls]:
    """What `_softmax` gives of a class, for the answer 0 with its probability raised by the margin, 1 at the most."""
    m = arb(margin)
    floor = arb(2) ** (floor_exponent - PROOF_BITS - _GUARD_BITS)

    def compute() -> tuple[Balls, Balls, Balls]:
        # p as `_softmax` has it where the logit is infinite or nan; else with as many bits as the difference takes.
        miss = (1 / (1 + (-arb(element)).exp()) if math.isfinite(element) else p) - m
        if miss <= 0:
            return [arb(1)], [arb(0)], [arb(0)]
        return [1 - miss], [miss], [-(1 - miss).log()]

    if math.isnan(element):
        return ([arb.nan()],) * 3
    found = _proven(compute, floor)
    return found[0], found[1], found[2]


# ---------------------------------------------------------------- two rows of logits


@dataclass(frozen=True)
class _Moving:
    """Numbers, what the error of each is measured over, and `Exact.moved` of each."""

    numbers: Balls
    sizes: Balls
    moved: Balls


@dataclass(frozen=True)
class _Divergence:
    """One sample of a divergence, and its derivatives by either row."""

    loss: _Moving
    of_logits: _Moving
    of_target: _Moving


def _settled(row: tuple[float, ...]) -> tuple[float, ...]:
    """A row with one +inf as its equal without."""
    return tuple(0.0 if v == math.inf else -math.inf for v in row) if math.inf in row else row


def _below_top(row: tuple[float, ...], temperature: float) -> Balls:
    """How far each number of a row is below the maximum, over the temperature; 0 where it isn't finite."""
    top = arb(max(row))
    return [(top - v) / temperature if math.isfinite(v) else arb(0) for v in row]


def _divergence(
    x: tuple[float, ...], t: tuple[float, ...], floor_exponent: int, epsilon: float, temperature: float
) -> _Divergence:
    """What rounding a row's x - max does is known to first order from the derivatives: p - q by the logits.

    In the loss the second order counts as well, because the first is 0 where the rows are alike: it is
    `sum q (change of log(q / p))**2 / 2`.
    """
    p, q = (_softmax(row, floor_exponent, temperature)[0] for row in (x, t))
    nan, nothing = [arb.nan()] * len(x), [arb(0)] * len(x)
    if not (p[0].is_finite() and q[0].is_finite()):
        undefined = _Moving(nan, nan, nothing)
        return _Divergence(_Moving([arb.nan()], [arb.nan()], [arb(0)]), undefined, undefined)
    away_x, away_t = _below_top(x, temperature), _below_top(t, temperature)
    moved = [a * d + b * e for a, d, b, e in zip(p, away_x, q, away_t, strict=True)]
    of_logits = _Moving(
        [a - b for a, b in zip(p, q, strict=True)], [_max(a, b) for a, b in zip(p, q, strict=True)], moved
    )
    if any(a.is_zero() and not b.is_zero() for a, b in zip(p, q, strict=True)):
        infinite = _Moving([arb.pos_inf()], [arb.pos_inf()], [arb(0)])
        return _Divergence(infinite, of_logits, _Moving(nan, nan, nothing))
    x, t = _settled(x), _settled(t)
    floor = arb(2) ** (floor_exponent - PROOF_BITS - _GUARD_BITS)

    def compute() -> Sequence[Balls]:
        powers, taught = ([arb(0) if v == -math.inf else (arb(v) / temperature).exp() for v in row] for row in (x, t))
        sum_x, sum_t = _sum(powers), _sum(taught)
        constant = (sum_t / sum_x).log()
        ratio = [
            arb(0) if v == -math.inf else (arb(v) - arb(u)) / temperature - constant for u, v in zip(x, t, strict=True)
        ]
        taught = [b / sum_t for b in taught]
        pairs = list(zip(taught, ratio, strict=True))
        loss = _sum([b * r for b, r in pairs])
        students = [a / sum_x - b for a, b in zip(powers, taught, strict=True)]
        return [[loss], students, [b * (r - loss) for b, r in pairs], [b * r for b, r in pairs]]

    (loss,), apart, of_target, shares = _proven(compute, floor)
    whole = _sum([abs(s) for s in shares])
    both = [d + e for d, e in zip(away_x, away_t, strict=True)]
    first = _sum([abs(a) * d + abs(g) * e for a, d, g, e in zip(apart, away_x, of_target, away_t, strict=True)])
    second = arb(epsilon) / 4 * _sum([b * d * d for b, d in zip(q, both, strict=True)])
    return _Divergence(
        _Moving([loss], [whole], [first + second]),
        _Moving(apart, of_logits.sizes, moved),
        _centred(q, both, shares, of_target, away_t),
    )


def _undefined(classes: int) -> _Divergence:
    wrong = _Moving([arb.nan()] * classes, [arb.nan()] * classes, [arb(0)] * classes)
    return _Divergence(_Moving([arb.nan()], [arb.nan()], [arb(0)]), wrong, wrong)


def _given_kullback(x: tuple[float, ...], q: tuple[float, ...], floor_exponent: int) -> _Divergence:
    """Of log-probabilities and probabilities. The logarithm of q moves by 4 times its size: its 4 ULP."""
    if any(map(math.isnan, (*x, *q))):
        return _undefined(len(x))
    floor = arb(2) ** (floor_exponent - PROOF_BITS - _GUARD_BITS)
    pairs = list(zip(x, q, strict=True))

    def compute() -> Sequence[Balls]:
        logs = [arb(0) if b == 0 else arb(b).log() for b in q]
        ratio = [
            arb(0) if b == 0 or a == -math.inf else log_b - arb(a) for (a, b), log_b in zip(pairs, logs, strict=True)
        ]
        shares = [b * r for b, r in zip(q, ratio, strict=True)]
        return [logs, shares, [_sum(shares)], [1 + r for r in ratio]]

    logs, shares, (loss,), of_target = _proven(compute, floor)
    whole, moved = _sum([abs(s) for s in shares]), 4 * _sum([b * abs(v) for b, v in zip(q, logs, strict=True)])
    if any(a == -math.inf and b > 0 for a, b in pairs):
        loss = whole = arb.pos_inf()
    sizes = [1 + abs(log_b) + (0 if a == -math.inf else abs(a)) for a, log_b in zip(x, logs, strict=True)]
    ends = {(True, False): arb.neg_inf(), (False, True): arb.pos_inf()}
    of_target = [ends.get((b == 0, a == -math.inf), v) for (a, b), v in zip(pairs, of_target, strict=True)]
    nothing = [arb(0)] * len(x)
    return _Divergence(
        _Moving([loss], [whole], [moved]),
        _Moving([arb(-b) for b in q], [arb(b) for b in q], nothing),
        _Moving(of_target, sizes, nothing),
    )


def _jensen_shannon(
    x: tuple[float, ...], t: tuple[float, ...], given: bool, floor_exponent: int, epsilon: float
) -> _Divergence:
    """Of two softmaxes, or of log-probabilities and probabilities; what moves is as in the others.

    In the loss, the second order is `sum (p + q) (change of log(q / p))**2 / 16`.
    """
    if any(map(math.isnan, (*x, *t))) or not (
        given or all(_softmax(v, floor_exponent)[0][0].is_finite() for v in (x, t))
    ):
        return _undefined(len(x))
    away = [[arb(0)] * len(x)] * 2 if given else [_below_top(x, 1.0), _below_top(t, 1.0)]
    rows = (x, t) if given else (_settled(x), _settled(t))

    def compute() -> Sequence[Balls]:
        both = [[arb(0) if v == -math.inf else arb(v).exp() for v in row] for row in rows]
        totals = list(map(_sum, both))
        both = (
            [both[0], [arb(v) for v in t]] if given else [[v / n for v in p] for p, n in zip(both, totals, strict=True)]
        )
        logs = [
            [arb(0) if a.is_zero() else (2 * a / (a + b)).log() / 2 for a, b in zip(own, other, strict=True)]
            for own, other in (both, both[::-1])
        ]
        shares = [[a * v for a, v in zip(p, row, strict=True)] for p, row in zip(both, logs, strict=True)]
        sums = list(map(_sum, shares))
        centred = [
            [v - a * n for a, v in zip(p, row, strict=True)] for p, row, n in zip(both, shares, sums, strict=True)
        ]
        return [*both, *logs, *shares, *centred, [sums[0] + sums[1]]]

    *found, (loss,) = _proven(compute, arb(2) ** (floor_exponent - PROOF_BITS - _GUARD_BITS))
    both, logs, shares, centred = found[:2], found[2:4], found[4:6], found[6:]
    if given:
        change = [
            arb(4 * ((abs(a) if math.isfinite(a) else 0) + (abs(math.log(b)) if b else 0)))
            for a, b in zip(x, t, strict=True)
        ]
    else:
        change = [d + e for d, e in zip(*away, strict=True)]
    # What log(q / p) changes in log(p / m) / 2 is q / (p + q) / 2, and the other way round.
    by_ratio = [
        [arb(0) if (a + b).is_zero() else d * b / (a + b) / 2 for a, b, d in zip(*pair, change, strict=True)]
        for pair in (both, both[::-1])
    ]
    sides = zip(shares, [change] * 2, strict=True) if given else zip(centred, away, strict=True)
    first = _sum([abs(g) * d for slopes, moves in sides for g, d in zip(slopes, moves, strict=True)])
    second = arb(epsilon) / 16 * _sum([(a + b) * d * d for a, b, d in zip(*both, change, strict=True)])
    of_loss = _Moving([loss], [loss], [first + second])
    if given:
        ends = [arb.neg_inf() if b == 0 and a > -math.inf else v for a, b, v in zip(x, t, logs[1], strict=True)]
        moved = [a * d for a, d in zip(both[0], by_ratio[0], strict=True)]
        return _Divergence(
            of_loss,
            _Moving(shares[0], [abs(v) for v in shares[0]], moved),
            _Moving(ends, [abs(v) for v in ends], by_ratio[1]),
        )
    return _Divergence(of_loss, *map(_centred, both, by_ratio, shares, centred, away))


def _centred(p: Balls, by_ratio: Balls, shares: Balls, slopes: Balls, away: Balls) -> _Moving:
    """p (x - sum(p x)), where `shares` is p x and `slopes` the result."""
    whole = _sum([abs(s) for s in shares])
    sizes = [_max(abs(s), a * whole) for s, a in zip(shares, p, strict=True)]
    moved = [a * d for a, d in zip(p, by_ratio, strict=True)]
    mean = _sum([d + 2 * abs(g) * e for d, g, e in zip(moved, slopes, away, strict=True)])
    of_p = _sum([a * e for a, e in zip(p, away, strict=True)])
    return _Moving(
        slopes, sizes, [d + a * mean + abs(g) * (e + of_p) for d, a, g, e in zip(moved, p, slopes, away, strict=True)]
    )


@lru_cache(maxsize=1024)
def _shares(case: Case, classes: int) -> Balls:
    """alpha of a focal loss, for each class; symmetric_cross_entropy has another option of that name."""
    number = case.options.get("alpha") if "focal" in case.function else None
    return _vector(case.arrays.get("alpha", number), classes)


def _divergence_of(
    function: str,
    x: tuple[float, ...],
    t: tuple[float, ...],
    floor_exponent: int,
    epsilon: float,
    temperature: float,
) -> _Divergence:
    if function == "kl_divergence_with_logits":
        return _divergence(x, t, floor_exponent, epsilon, temperature)
    if function == "kl_divergence":
        return _given_kullback(x, t, floor_exponent)
    return _jensen_shannon(x, t, function == "js_divergence", floor_exponent, epsilon)


def _paired(case: Case) -> dict[str, Exact]:
    """The divergences."""
    rows, others = (np.moveaxis(case.arrays[name], case.axis, -1) for name in ("logits", "target"))
    lead, classes = rows.shape[:-1], rows.shape[-1]
    count = math.prod(lead)
    sample_weight = _per_sample(case.arrays.get("sample_weight"), lead)
    counted = _flags(case.arrays.get("where"), lead)
    floor_exponent = FORMATS[case.result_dtype].subnormal_exponent
    epsilon = FORMATS["float32" if case.dtype in HALF else case.dtype].epsilon
    temperature = float(str(case.options.get("temperature", 1.0)))
    parts: list[_Divergence | None] = []
    samples: list[_Sample] = []
    for i, (x, t) in enumerate(zip(rows.reshape(count, classes), others.reshape(count, classes), strict=True)):
        active = bool(counted[i]) and not sample_weight[i].is_zero()
        pair = tuple(map(float, x)), tuple(map(float, t))
        part = _divergence_of(case.function, *pair, floor_exponent, epsilon, temperature) if active else None
        parts.append(part)
        if part is None:
            samples.append(_Sample(arb(0), sample_weight[i], bool(counted[i]), active))
        else:
            (loss,), (size,), (moved,) = part.loss.numbers, part.loss.sizes, part.loss.moved
            samples.append(_Sample(loss, sample_weight[i], bool(counted[i]), active, size, moved))
    reduced = _reduce(case, samples, sample_weight, lead)
    found = {"value": reduced.value}
    for name in ("logits", "target"):
        sheet = _Sheet((count, classes), case)
        for i, part in enumerate(parts):
            if part is None:
                continue
            pull = reduced.of_loss[i] / temperature
            slopes = part.of_logits if name == "logits" else part.of_target
            for j, (slope, size, moved) in enumerate(zip(slopes.numbers, slopes.sizes, slopes.moved, strict=True)):
                # 0 * inf is 0, in a sample that is not among the hardest too.
                zero = pull.is_zero() and not (slope.is_finite() or slope.is_nan())
                term, larger = arb(0) if zero else pull * slope, abs(pull) * size
                if zero or not term.is_finite():
                    sheet.add(i * classes + j, term)
                else:
                    larger = larger + term if term < 0 else larger
                    sheet.add_difference(i * classes + j, term, larger, abs(pull) * moved)
        if name in case.wrt:
            found[f"d {name}"] = _like(sheet.written(), lead, classes, case.axis)
    if "sample_weight" in case.wrt:
        sheet = _Sheet((count,), case)
        for i, part in enumerate(parts):
            if part is not None:
                factor = reduced.of_loss[i] / sample_weight[i]
                _add_loss(sheet, i, factor * samples[i].loss, factor, samples[i])
                sheet.add(i, reduced.of_weight[i])
        found["d sample_weight"] = _map(sheet.written(), lambda a: a.reshape(lead))
    return found


def _vector(values: Floats | float | None, classes: int) -> Balls:
    return _per_sample(values, (classes,))


def _per_sample(values: Floats | float | None, shape: tuple[int, ...]) -> Balls:
    if values is None:
        return [arb(1)] * math.prod(shape)
    return [arb(float(v)) for v in np.broadcast_to(values, shape).ravel()]


def _flags(values: Floats | None, shape: tuple[int, ...]) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    if values is None:
        return np.ones(math.prod(shape), dtype=np.bool_)
    return np.asarray(np.broadcast_to(values, shape).ravel() != 0)


def chance(logit: float) -> float:
    """The sigmoid of a logit."""
    with ctx.workprec(128):
        return float(1 / (1 + (-arb(logit)).exp())) if math.isfinite(logit) else math.nan


def part_below(row: Sequence[float], distance: float) -> float:
    """Of the exponentials of all but the largest number, the part that those further from it than a distance make up.

    Rounded up to 20 bits, where it is not next to nothing.
    """
    top = max(row)
    rest = sorted(top - v for v in row if v > -math.inf)[1:]
    with ctx.workprec(128):
        total = _sum([(-arb(d)).exp() for d in rest])
        part = float(_sum([(-arb(d)).exp() for d in rest if d > distance]) / total) if rest else 0.0
    return math.ceil(part * 2**20) / 2**20 if part > 1e-18 else 0.0
