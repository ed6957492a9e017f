"""A sample's loss and gradient are its own.

No bit of them depends on the other samples, on where in the batch the sample is, on how many samples there are, on
threads, on the reduction, or on an option that is given with its default value: on the libraries that run each call
as it is made. What a compiler makes of a batch is its own affair, as long as every place is within the budget.

Every batch here is (rows, columns). A row is one sample of the categorical losses and `columns` samples of the binary
ones; `first` puts the class axis first, that is, transposes what is passed.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import Phase, example, given, settings
from hypothesis import strategies as st

import arrayloss as al
from arrayloss.testing import Case, fault, measure
from conformance import budget
from conformance.oracle import exact

Array = npt.NDArray[Any]
INF, NAN = float("inf"), float("nan")


@dataclass(frozen=True)
class Subject:
    """A public function, and what its target is: "index", "soft", "logits" (two arrays of logits) or "none"."""

    name: str
    target: str

    def __str__(self) -> str:
        return f"{self.name}-{self.target}"

    @property
    def call(self) -> Any:
        return getattr(al, self.name)

    @property
    def elementwise(self) -> bool:
        return "binary" in self.name or "sigmoid" in self.name or self.name == "asymmetric_loss"

    @property
    def has_axis(self) -> bool:
        return "axis" in inspect.signature(self.call).parameters

    def logits(self, x: Array) -> Array:
        """Real numbers, as what the function takes: log-probabilities, probabilities, or as they are."""
        if self.name in ("nll_loss", "kl_divergence", "js_divergence"):
            return np.asarray(-np.abs(x))
        return np.asarray(1 / (1 + np.exp(-np.clip(x, -80, 16)))) if self.name == "binary_cross_entropy" else x


LOSSES = [
    *(
        Subject(name, kind)
        for name in ("nll_loss", "cross_entropy", "softmax_focal_loss")
        for kind in ("index", "soft")
    ),
    *(Subject("poly_loss", kind) for kind in ("index", "soft")),
    *(Subject(name, "logits") for name in ("kl_divergence_with_logits", "js_divergence_with_logits")),
    *(Subject(name, "soft") for name in ("kl_divergence", "js_divergence")),
    *(Subject("binary_cross_entropy", kind) for kind in ("index", "soft")),
    *(Subject("binary_cross_entropy_with_logits", kind) for kind in ("index", "soft")),
    *(Subject("sigmoid_focal_loss", kind) for kind in ("index", "soft")),
    *(Subject("asymmetric_loss", kind) for kind in ("index", "soft")),
]
FUNCTIONS = [Subject(name, "none") for name in ("softmax", "log_softmax", "logsumexp", "sigmoid", "log_sigmoid")]
SUBJECTS = LOSSES + FUNCTIONS
LIBRARIES = ["numpy", "torch", "array-api-strict"]


def batch(subject: Subject, rows: int, columns: int, std: float, seed: int, dtype: str) -> tuple[Array, Array | None]:
    rng = np.random.default_rng(seed)
    x = subject.logits(rng.normal(size=(rows, columns)) * std).astype(dtype)
    if subject.target == "none":
        return x, None
    if subject.target == "logits":
        return x, (rng.normal(size=x.shape) * std).astype(dtype)
    if subject.elementwise:
        y = rng.random(x.shape)
        return x, (y < 0.5).astype(np.int64) if subject.target == "index" else y.astype(dtype)
    if subject.target == "index":
        return x, rng.integers(columns, size=rows)
    shares = rng.random(x.shape) + 1e-3
    return x, (shares / shares.sum(-1, keepdims=True)).astype(dtype)


def array(library: str, values: Array) -> Any:
    if library == "torch":
        return pytest.importorskip("torch").from_numpy(values.copy())
    if library == "array-api-strict":
        return pytest.importorskip("array_api_strict").asarray(values.copy())
    return values.copy()


def answer(
    library: str,
    subject: Subject,
    x: Array,
    t: Array | None,
    *,
    first: bool = False,
    reduction: str = "none",
    **options: Any,
) -> dict[str, Array]:
    """The values (rows first), the closed gradient, and torch's own, of the sum of all values."""
    turn = (lambda a: np.ascontiguousarray(a.T)) if first else (lambda a: a)
    options |= {"axis": 0} if first and subject.has_axis else {}
    logits, rest = array(library, turn(x)), [] if t is None else [array(library, turn(t))]
    found: dict[str, Any] = {}
    with np.errstate(all="ignore") if library == "array-api-strict" else contextlib.nullcontext():
        if t is None:
            value = subject.call(logits, **options)
            back = np.resize([0.5, -1.0, 2.0, 0.25], x.shape[1:]).astype(x.dtype)
            weight = turn(np.broadcast_to(back if tuple(value.shape) == turn(x).shape else back[:1], x.shape))
            cotangent = array(library, weight if tuple(value.shape) == turn(x).shape else np.ones(x.shape[0], x.dtype))
        else:
            options["reduction"] = reduction
            shape = turn(x).shape if subject.elementwise else x.shape[:1]
            cotangent = array(library, np.ones(shape if reduction == "none" else (), x.dtype))
            value = subject.call(logits, *rest, **options)
            pulled = {"cotangent": cotangent} if reduction == "none" else {}
            found["closed value"], found["closed gradient"] = al.value_and_grad(subject.call)(
                logits, *rest, **options, **pulled
            )
        found["value"] = value
        if library == "torch":
            torch = pytest.importorskip("torch")
            leaf = logits.clone().requires_grad_()
            again = subject.call(leaf, *rest, **options)
            found["autograd value"] = again.detach()
            (found["autograd gradient"],) = torch.autograd.grad(again, leaf, cotangent)
    return {name: turn(np.asarray(a)) if np.ndim(np.asarray(a)) == 2 else np.asarray(a) for name, a in found.items()}


def same_bits(got: dict[str, Array], expected: dict[str, Array], what: str) -> None:
    """Every bit of every array; but one NaN is as good as another."""
    assert got.keys() == expected.keys()
    for name, values in got.items():
        due = expected[name]
        assert (values.shape, values.dtype) == (due.shape, due.dtype), f"{what}, {name}"
        values, due, kind = np.atleast_1d(values), np.atleast_1d(due), f"i{values.dtype.itemsize}"
        bits, right = (np.ascontiguousarray(a).view(kind) for a in (values, due))
        other = (bits != right) & ~(np.isnan(values) & np.isnan(due))
        if other.any():
            at = tuple(int(i) for i in np.argwhere(other)[0])
            raise AssertionError(
                f"{what}: {name} differs in {int(other.sum())} of {other.size} numbers, first at {at}: "
                f"{values[at]!r} for {due[at]!r}"
            )


def take(found: dict[str, Array], rows: Any) -> dict[str, Array]:
    return {name: values[rows] for name, values in found.items()}


def outlier(subject: Subject, value: float) -> float:
    """A number that is as far from the rest, among those that the function takes."""
    if subject.name == "nll_loss":
        return -abs(value)
    if subject.name == "binary_cross_entropy":
        return {INF: 1.0, -INF: 0.0, 60.0: 1e-30}.get(value, NAN)
    return value


BATCHES = {
    "rows": st.sampled_from([2, 3, 5, 17, 64]),
    "columns": st.sampled_from([1, 2, 3, 10, 33, 100]),
    "std": st.sampled_from([0.1, 1.0, 5.0, 15.0, 30.0]),
    "seed": st.integers(0, 2**20),
    "dtype": st.sampled_from(["float32", "float64"]),
    "first": st.booleans(),
}
THE_ISSUES_OWN = {"rows": 513, "columns": 100, "std": 3.0, "seed": 0, "dtype": "float32", "first": False}

# No shrinking: what is drawn is written out already, and each message says where the first number differs.
quickly = settings(max_examples=3, phases=[Phase.explicit, Phase.generate])
over_libraries = pytest.mark.parametrize("library", LIBRARIES)
over_subjects = pytest.mark.parametrize("subject", SUBJECTS, ids=str)
over_losses = pytest.mark.parametrize("subject", LOSSES, ids=str)


@pytest.fixture(autouse=True)
def one_thread(request: pytest.FixtureRequest) -> Iterator[None]:
    """Where threads are not what it is about, torch has one: two test processes share the cores."""
    asked = getattr(request.node, "callspec", None)
    if asked is None or asked.params.get("library") != "torch" or "threads" in request.node.name:
        yield
    else:
        with torch_threads(1):
            yield


# --- outliers, places, numbers of rows ----------------------------------------------------------------------


@over_libraries
@over_subjects
@quickly
@given(**BATCHES, value=st.sampled_from([60.0, INF, NAN, -INF]), where=st.floats(0, 1))
@example(**THE_ISSUES_OWN, value=60.0, where=0.5)
def test_an_outlier_changes_its_own_row_alone(
    library: str,
    subject: Subject,
    rows: int,
    columns: int,
    std: float,
    seed: int,
    dtype: str,
    first: bool,
    value: float,
    where: float,
) -> None:
    x, t = batch(subject, rows, columns, std, seed, dtype)
    before = answer(library, subject, x, t, first=first)
    victim = round(where * (rows - 1))
    x[victim, seed % columns] = outlier(subject, value)
    others = np.arange(rows) != victim
    same_bits(take(answer(library, subject, x, t, first=first), others), take(before, others), f"{value} at {victim}")


@over_libraries
@over_subjects
@quickly
@given(**BATCHES, start=st.floats(0, 1), length=st.sampled_from([1, 1, 2, 7, 40]))
@example(**THE_ISSUES_OWN, start=0.3, length=1)
def test_the_place_and_the_number_of_rows_change_nothing(
    library: str,
    subject: Subject,
    rows: int,
    columns: int,
    std: float,
    seed: int,
    dtype: str,
    first: bool,
    start: float,
    length: int,
) -> None:
    """Some rows alone, and all of them in another order."""
    x, t = batch(subject, rows, columns, std, seed, dtype)
    whole = answer(library, subject, x, t, first=first)
    low = round(start * (rows - 1))
    some = np.arange(low, min(low + length, rows))
    order = np.random.default_rng(seed).permutation(rows)
    for chosen, what in ((some, f"rows {low} to {some[-1]} alone"), (order, "another order")):
        alone = answer(library, subject, x[chosen], None if t is None else t[chosen], first=first)
        same_bits(alone, take(whole, chosen), what)


LARGE = [
    (Subject("cross_entropy", "index"), 3000),
    (Subject("cross_entropy", "soft"), 1100),
    (Subject("softmax_focal_loss", "index"), 3000),
    (Subject("kl_divergence_with_logits", "logits"), 1100),
    (Subject("binary_cross_entropy_with_logits", "index"), 1100),
    (Subject("log_softmax", "none"), 1100),
]


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize(("subject", "rows"), LARGE, ids=str)
def test_blocks_and_threads_keep_rows_apart(library: str, subject: Subject, rows: int) -> None:
    """So many rows of 1,000 are many blocks, on as many threads as there are; a row of them, and 40, are one."""
    x, t = batch(subject, rows, 1000, 15.0, 7, "float32")
    whole = answer(library, subject, x, t)
    for start, stop in ((0, 1), (rows // 2, rows // 2 + 1), (rows - 1, rows), (700, 740)):
        alone = answer(library, subject, x[start:stop], None if t is None else t[start:stop])
        same_bits(alone, take(whole, slice(start, stop)), f"rows {start} to {stop}")
    victims = [rows // 3, rows - 50]
    x[victims[0], 3], x[victims[1], 9] = outlier(subject, 60.0), NAN
    others = ~np.isin(np.arange(rows), victims)
    same_bits(take(answer(library, subject, x, t), others), take(whole, others), "outliers")


# --- threads ------------------------------------------------------------------------------------------------

NUMPY_PROGRAM = """
import hashlib, os, sys
sys.path[:0] = [os.path.join(os.getcwd(), "tests")]
from test_neighbours import LARGE, answer, batch
for subject, _ in LARGE:
    x, t = batch(subject, 1100, 1000, 5.0, 7, "float32")
    for first in (False, True):
        for name, values in answer("numpy", subject, x, t, first=first).items():
            print(subject, first, name, hashlib.sha256(values.tobytes()).hexdigest())
"""


def test_the_number_of_numpys_threads_changes_nothing() -> None:
    root = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    running = [
        subprocess.Popen(
            [sys.executable, "-c", NUMPY_PROGRAM],
            env={**os.environ, "OMP_NUM_THREADS": threads},
            cwd=root,
            stdout=subprocess.PIPE,
            text=True,
        )
        for threads in ("1", "3")
    ]
    said = [process.communicate(timeout=300)[0].splitlines() for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert len(said[0]) == 2 * (3 * len(LARGE) - 2)
    assert said[0] == said[1]


@pytest.mark.parametrize(("classes", "axis"), [(7, 0), (7, -1), (40_000, -1)])
def test_torchs_gradient_on_a_tape_keeps_rows_apart(classes: int, axis: int) -> None:
    """Where a weight needs a gradient too, the gradient is made by other operations."""
    torch = pytest.importorskip("torch")
    generator = torch.Generator().manual_seed(0)
    x, t = (torch.rand((33, classes), generator=generator) * size for size in (9, 1))

    def gradient(rows: int) -> Any:
        logits, target = ((a[:rows] if axis else a[:rows].T.contiguous()) for a in (x, t))
        weight = torch.ones(rows, requires_grad=True)
        loss = al.cross_entropy(logits.requires_grad_(), target, axis=axis, sample_weight=weight, reduction="sum")
        return torch.autograd.grad(loss, logits)[0].movedim(axis, -1)

    for rows in (1, 5, 32):
        assert torch.equal(gradient(rows), gradient(33)[:rows])


@contextlib.contextmanager
def torch_threads(number: int) -> Iterator[None]:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("subject", [subject for subject, _ in LARGE], ids=str)
def test_the_number_of_torchs_threads_changes_nothing(subject: Subject) -> None:
    pytest.importorskip("torch")
    x, t = batch(subject, 400, 1000, 5.0, 7, "float32")
    found = []
    for number in (1, 3):
        with torch_threads(number):
            found.append(answer("torch", subject, x, t))
    same_bits(found[1], found[0], "3 threads for 1")


# --- reductions and defaults --------------------------------------------------------------------------------


@over_libraries
@over_losses
@quickly
@given(**BATCHES)
@example(**THE_ISSUES_OWN)
def test_the_reduction_changes_no_gradient(
    library: str, subject: Subject, rows: int, columns: int, std: float, seed: int, dtype: str, first: bool
) -> None:
    """The gradient of the sum is that of the losses with a cotangent of ones."""
    x, t = batch(subject, rows, columns, std, seed, dtype)
    apart = answer(library, subject, x, t, first=first)
    total = answer(library, subject, x, t, first=first, reduction="sum")
    for name in apart:
        if "gradient" in name:
            same_bits({name: total[name]}, {name: apart[name]}, "sum")


def ways_agree(found: dict[str, Array]) -> None:
    """A value is the same whether or not its gradient is asked for, and so is a gradient, by whom it is."""
    for name, values in found.items():
        other = "value" if "value" in name else "closed gradient"
        if other in found:
            same_bits({"it": values}, {"it": found[other]}, f"{name} for {other}")


@over_libraries
@over_subjects
@quickly
@given(**BATCHES, reduction=st.sampled_from(["none", "mean", "sum"]))
def test_the_value_is_the_same_with_its_gradient(
    library: str,
    subject: Subject,
    rows: int,
    columns: int,
    std: float,
    seed: int,
    dtype: str,
    first: bool,
    reduction: str,
) -> None:
    x, t = batch(subject, rows, columns, std, seed, dtype)
    if subject.target == "none":
        reduction = "none"
    ways_agree(answer(library, subject, x, t, first=first, reduction=reduction))


def defaults(subject: Subject) -> dict[str, Any]:
    options = inspect.signature(subject.call).parameters.values()
    return {option.name: option.default for option in options if option.kind is option.KEYWORD_ONLY}


@over_libraries
@over_subjects
def test_an_option_at_its_default_changes_no_bit(library: str, subject: Subject) -> None:
    """All at once on batches of many sizes, each alone on one; `ignore_index` goes with labels."""
    options = defaults(subject)
    alone = [{name: value} for name, value in options.items()]
    given_ones = {(513, 100): [options], (8, 3): [options, *alone]}
    given_ones |= {(rows, columns): [options] for rows in (1, 2, 7) for columns in (2, 5, 10)}
    with np.errstate(all="ignore") if library == "array-api-strict" else contextlib.nullcontext():
        for (rows, columns), some in given_ones.items():
            x, t = batch(subject, rows, columns, 3.0, rows, "float32")
            logits, rest = array(library, x), [] if t is None else [array(library, t)]
            for way in [subject.call] if t is None else [subject.call, al.value_and_grad(subject.call)]:
                plain = way(logits, *rest)
                for passed in some:
                    got = way(logits, *rest, **passed)
                    for one, other in zip(got, plain, strict=True) if isinstance(plain, tuple) else [(got, plain)]:
                        same_bits({"it": np.asarray(one)}, {"it": np.asarray(other)}, f"{rows} x {columns}: {passed}")


# --- compilers ----------------------------------------------------------------------------------------------


def compiled_jax(subject: Subject, options: dict[str, Any]) -> Any:
    jax = pytest.importorskip("jax")
    run = jax.jit(functools.partial(al.value_and_grad(subject.call), reduction="none"), compiler_options=options)

    def ask(x: Array, t: Array) -> tuple[Array, Array]:
        value, gradient = run(
            jax.numpy.asarray(x), jax.numpy.asarray(t), cotangent=jax.numpy.ones(t.shape, dtype=np.float32)
        )
        return np.asarray(value), np.asarray(gradient)

    return ask


def compiled_torch(subject: Subject, options: dict[str, Any]) -> Any:
    torch = pytest.importorskip("torch")
    pytest.importorskip("torch._dynamo").reset()
    run = torch.compile(functools.partial(subject.call, reduction="none"), fullgraph=True, dynamic=False)

    def ask(x: Array, t: Array) -> tuple[Array, Array]:
        leaf = torch.from_numpy(x.copy()).requires_grad_()
        value = run(leaf, torch.from_numpy(t))
        value.sum().backward()
        return value.detach().numpy(), leaf.grad.numpy()

    return ask


@pytest.mark.parametrize(
    ("compiler", "subject"),
    [
        (compiled_jax, Subject("cross_entropy", "index")),
        (compiled_jax, Subject("sigmoid_focal_loss", "index")),
        (compiled_torch, Subject("cross_entropy", "index")),
    ],
    ids=lambda one: str(getattr(one, "__name__", one)),
)
def test_compiled_every_place_is_within_the_budget(
    compiler: Any, subject: Subject, needing_a_compiler: Any, users_compiler: dict[str, Any]
) -> None:
    """The same rows in three orders, one of them beside an outlier in each."""
    rows, columns = 61, 11
    x, t = batch(subject, rows, columns, 5.0, 3, "float32")
    assert t is not None
    x[20, 5] = 60.0
    if subject.elementwise:
        x, t = x[:, 5].copy(), t[:, 5].copy()
    arrays = {"logits": x.astype(np.float64), "target": t.astype(np.float64)}
    kind = "float" if subject.elementwise else "index"
    case = Case(subject.name, "", "", "float32", arrays, {"reduction": "none"}, kind, np.ones(t.shape))
    due = budget.due(case, exact(case))
    ask = compiler(subject, users_compiler)
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(rows) if seed else np.arange(rows)
        with needing_a_compiler():
            answers = ask(x[order], t[order])
        for name, got in zip(("value", "d logits"), answers, strict=True):
            one, at_home = due[name], np.empty(got.shape)
            at_home[order] = got
            rest = (one.dtype, one.budget, one.allowance, one.terms, one.magnified, one.flushable)
            found = measure(at_home, one.exact, *rest)
            assert not fault(found, one.budget), f"{name}, order {seed}: {found}"
