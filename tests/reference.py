"""The losses as the textbook writes them, in 120-digit decimals, sharing nothing with the package.

Values are the plain formulas; every gradient is a central difference of the value (steps of 1e-30 leave some 60
good digits), so a slip in a hand-derived derivative cannot be repeated here. Finite inputs only: what happens
at infinities, NaN and ignored samples is a matter of the contract, and the tests write those numbers out.
"""

import functools
import pickle
from collections.abc import Callable
from decimal import Context, Decimal, getcontext, localcontext
from typing import Any

import numpy as np

CONTEXT = Context(prec=120, Emin=-999999, Emax=999999)
STEP = Decimal("1e-30")


@functools.lru_cache(1 << 16)
def _computed(f: Callable[..., Decimal], precision: int, *numbers: Decimal) -> Decimal:
    return f(*numbers)


def _elementwise(f: Callable[..., Decimal], arguments: int) -> Any:
    """f for object arrays, which remembers its results: a difference asks for most of them again."""
    return np.frompyfunc(lambda *numbers: _computed(f, getcontext().prec, *numbers), arguments, 1)


_exp, _ln, _power = _elementwise(Decimal.exp, 1), _elementwise(Decimal.ln, 1), _elementwise(pow, 2)
_decimal = np.frompyfunc(lambda v: v if isinstance(v, Decimal) else Decimal(float(v)), 1, 1)


def exact(x: Any) -> Any:
    """An object array of decimals, each exactly the float it came from."""
    return np.asarray(_decimal(np.asarray(x)), dtype=object)


def one_hot(labels: Any, classes: int) -> np.ndarray:
    return np.asarray(np.asarray(labels)[..., None] == np.arange(classes), dtype=float)


# --- per-sample losses and weights --------------------------------------------------------------------------


def categorical(
    logits: Any,
    target: Any,
    *,
    axis: int = -1,
    class_weight: Any = None,
    sample_weight: Any = None,
    where: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    gamma: Any = 0.0,
    alpha: Any = None,
    epsilon: float = 0.0,
    temperature: float = 1.0,
    z_loss: float = 0.0,
    scale: float = 1.0,
    q: float = 0.0,
    log_probs: bool = False,
) -> tuple[Any, Any, Any]:
    """Losses (times the sample weight), weights for the mean, and which samples count; no class axis."""
    given = np.moveaxis(exact(logits), axis, -1)
    x = given / exact(temperature)[()]
    classes = x.shape[-1]
    target = np.asarray(target)
    counts = np.ones(x.shape[:-1], dtype=bool) if where is None else np.broadcast_to(where, x.shape[:-1])
    if target.dtype.kind in "iu":
        # `object` keeps an unsigned label from being compared modulo 2**8.
        counts = counts & (target.astype(object) != ignore_index).astype(bool)
        y = exact(one_hot(target, classes))
    else:
        y = np.moveaxis(exact(target), axis, -1)
    logp = x if log_probs else x - np.asarray(_ln(_exp(x).sum(-1)), dtype=object)[..., None]
    lse = np.asarray(_ln(_exp(given).sum(-1)), dtype=object)
    s = exact(label_smoothing)[()]
    smooth = (1 - s) * y + s / classes
    cw = exact(np.ones(classes) if class_weight is None else class_weight)
    a = exact(np.ones(classes) if alpha is None else alpha)
    focus = _power(1 - _exp(logp), exact(gamma)[()]) if np.any(gamma) else 1
    cost = exact(scale)[()] * focus * -logp + exact(epsilon)[()] * (1 - _exp(logp))
    if q:
        cost = (1 - _power(_exp(logp), exact(q)[()])) / exact(q)[()]
    loss = (smooth * cw * a * cost).sum(-1) + (y * cw).sum(-1) * exact(z_loss)[()] * lse * lse
    w = np.broadcast_to(exact(1.0 if sample_weight is None else sample_weight), counts.shape)
    return loss * w, (y * cw).sum(-1) * w, counts


def binary(
    logits: Any,
    target: Any,
    *,
    pos_weight: Any = None,
    sample_weight: Any = None,
    where: Any = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    gamma: Any = 0.0,
    alpha: Any = None,
    gammas: tuple[float, float] | None = None,
    margin: float = 0.0,
    probs: bool = False,
) -> tuple[Any, Any, Any]:
    x = exact(logits)
    target = np.asarray(target)
    counts = np.ones(x.shape, dtype=bool) if where is None else np.broadcast_to(where, x.shape)
    if ignore_index is not None:
        counts = counts & (target != ignore_index)
    y = exact(target)
    p = x if probs else 1 / (1 + _exp(-x))
    s = exact(label_smoothing)[()]
    y = (1 - s) * y + s / 2
    pw = exact(1.0 if pos_weight is None else pos_weight)
    shifted = np.maximum(p - exact(margin)[()], Decimal(0)) if margin else p
    g, h = (exact(v)[()] for v in gammas or (gamma, gamma))
    on, off = _power(1 - p, g) if np.any(g) else 1, _power(shifted, h) if np.any(h) else 1
    a, b = (1, 1) if alpha is None else (exact(alpha)[()], 1 - exact(alpha)[()])
    loss = -a * pw * y * on * _ln(p) - b * (1 - y) * off * _ln(1 - shifted)
    w = np.broadcast_to(exact(1.0 if sample_weight is None else sample_weight), x.shape)
    return loss * w, np.array(w), counts


def divergence(
    logits: Any,
    target: Any,
    *,
    axis: int = -1,
    temperature: float = 1.0,
    sample_weight: Any = None,
    where: Any = None,
    given: bool = False,
    jensen_shannon: bool = False,
) -> tuple[Any, Any, Any]:
    """Of two arrays of logits; if `given`, of log-probabilities and probabilities."""
    x, t = (np.moveaxis(exact(a), axis, -1) / exact(temperature)[()] for a in (logits, target))
    log_p, log_q = (a - np.asarray(_ln(_exp(a).sum(-1)), dtype=object)[..., None] for a in (x, t))
    if given:
        log_p, log_q = x, np.asarray(_ln(t), dtype=object)
    counts = np.ones(x.shape[:-1], dtype=bool) if where is None else np.broadcast_to(where, x.shape[:-1])
    w = np.broadcast_to(exact(1.0 if sample_weight is None else sample_weight), counts.shape)
    p, q = _exp(log_p), _exp(log_q)
    terms = q * (log_q - log_p)
    if jensen_shannon:
        log_m = _ln((p + q) / 2)
        terms = (p * (log_p - log_m) + q * (log_q - log_m)) / 2
    return terms.sum(-1) * w, np.array(w), counts


# --- reductions ---------------------------------------------------------------------------------------------

Samples = tuple[Any, Any, Any]


def none(samples: Samples) -> Any:
    loss, _, counts = samples
    return np.where(counts, loss, Decimal(0))


def total(samples: Samples) -> Any:
    return none(samples).sum()


def mean(samples: Samples) -> Any:
    _, weight, counts = samples
    return total(samples) / np.where(counts, weight, Decimal(0)).sum()


def _over(what: str | float, samples: Samples) -> Any:
    _, _, counts = samples
    if what == "weight":
        return mean(samples)
    number = {"valid": counts.sum(), "all": counts.size}[what] if isinstance(what, str) else what
    return total(samples) / exact(number)[()]


def _hardest(k: int, samples: Samples) -> Any:
    loss, _, counts = samples
    return sum(sorted(loss[counts], reverse=True)[:k]) / k


def over(what: str | float) -> Callable[[Samples], Any]:
    return functools.partial(_over, what)


def hardest(k: int) -> Callable[[Samples], Any]:
    return functools.partial(_hardest, k)


# --- what the tests ask -------------------------------------------------------------------------------------

Loss = Callable[..., Samples]


def value(loss: Loss, x: Any, *args: Any, reduce: Callable[[Samples], Any] = none, **options: Any) -> np.ndarray:
    def compute() -> np.ndarray:
        with localcontext(CONTEXT):
            return np.asarray(reduce(loss(exact(x), *args, **options)), dtype=float)

    return _once(("value", loss, x, args, reduce, options), compute)


def gradient(
    loss: Loss,
    x: Any,
    *args: Any,
    reduce: Callable[[Samples], Any] = total,
    cotangent: Any = None,
    **options: Any,
) -> np.ndarray:
    """d reduce(loss) / d x. With a cotangent, of the sum of cotangent * reduce(loss)."""

    def scalar(x: Any) -> Decimal:
        out = reduce(loss(x, *args, **options))
        return out if cotangent is None else (np.asarray(out, dtype=object) * exact(cotangent)).sum()

    return _once(("gradient", loss, x, args, reduce, cotangent, options), lambda: difference(scalar, x))


def second(loss: Loss, x: Any, *args: Any, **options: Any) -> np.ndarray:
    """The second derivative of the summed loss by each element of x: the diagonal of its Hessian."""

    def scalar(x: Any) -> Any:
        return total(loss(x, *args, **options))

    def compute() -> np.ndarray:
        with localcontext(CONTEXT, prec=200):
            at = exact(x)
            out, middle = np.empty(at.shape, dtype=float), scalar(at)
            for index in np.ndindex(at.shape):
                up, down = at.copy(), at.copy()
                up[index] += STEP
                down[index] -= STEP
                out[index] = float((scalar(up) - 2 * middle + scalar(down)) / STEP**2)
        return out

    return _once(("second", loss, x, args, options), compute)


_known: dict[bytes, np.ndarray] = {}


def _once(question: Any, compute: Callable[[], np.ndarray]) -> np.ndarray:
    """Every backend asks for the same numbers: work them out for the first."""
    key = pickle.dumps(question)
    if key not in _known:
        _known[key] = compute()
    return _known[key].copy()


def difference(f: Callable[[Any], Any], x: Any) -> np.ndarray:
    """The gradient of a scalar function of a decimal array, by central differences."""
    with localcontext(CONTEXT):
        at = exact(x)
        out = np.empty(at.shape, dtype=float)
        for index in np.ndindex(at.shape):
            up, down = at.copy(), at.copy()
            up[index] += STEP
            down[index] -= STEP
            out[index] = float((f(up) - f(down)) / (2 * STEP))
    return out
