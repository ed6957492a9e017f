"""What makes the losses fast and small, without a clock: passes, temporaries, recompilations, jaxprs."""

from __future__ import annotations

import importlib
import re
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import pytest

import arrayloss as al
from benchmarks import memory, rows, timing
from benchmarks.__main__ import main

SHAPE = (2560, 2000)  # large enough for NumPy's threads
LOGITS = np.random.default_rng(0).standard_normal(SHAPE, dtype=np.float32)
LABELS = np.random.default_rng(1).integers(0, SHAPE[1], SHAPE[0])
BLOCK = 2 * 2**20  # the largest block of an eager library on a CPU
PLACED = 8 * 2**20  # where it is written to its place, and takes no memory of its own
WHOLE = 32 * 2**20  # up to where that is one block


@pytest.mark.parametrize("threads", [1, 2])
def test_numpy_needs_blocks_alone(monkeypatch: pytest.MonkeyPatch, threads: int) -> None:
    # A block's exponentials, and a few numbers for each row, on each thread.
    monkeypatch.setenv("OMP_NUM_THREADS", str(threads))
    assert memory.of_numpy(lambda: al.cross_entropy(LOGITS, LABELS)) < threads * BLOCK


def test_numpy_copies_no_other_order_of_the_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    first = LOGITS.reshape(20, 1000, 32, 8)
    swapped = np.ascontiguousarray(first.mT).mT
    last = np.moveaxis(np.ascontiguousarray(np.moveaxis(first, 1, -1)), -1, 1)
    labels = np.zeros((20, 32, 8), np.int64)
    for x in (first, swapped, last):
        most = memory.of_numpy(lambda x=x: al.cross_entropy(x, labels, axis=1))  # type: ignore[misc]
        assert most < LOGITS.nbytes / 2


def test_numpy_gradient_needs_the_gradient_and_blocks() -> None:
    both = al.value_and_grad(al.cross_entropy)
    assert memory.of_numpy(lambda: both(LOGITS, LABELS)) < LOGITS.nbytes + 3 * BLOCK


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_numpy_where_the_rounding_is_made_good(scale: float) -> None:
    # Wide logits go the longer way, in float64, but in blocks too.
    assert memory.of_numpy(lambda: al.cross_entropy(LOGITS * np.float32(scale), LABELS)) < LOGITS.nbytes + 6 * BLOCK


def test_torch_needs_blocks_alone() -> None:
    torch = pytest.importorskip("torch")
    x, t = torch.tensor(LOGITS), torch.tensor(LABELS)
    assert memory.of_torch(lambda: al.cross_entropy(x, t)) < 2 * BLOCK


@pytest.fixture(params=[1, -(-LOGITS.nbytes // PLACED)], ids=["one block", "blocks"])
def blocks(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """How many blocks torch takes for what it writes to its place."""
    pytest.importorskip("torch")
    library = importlib.import_module("arrayloss._libraries.torch")
    assert library._CPU_WHOLE_BYTES == WHOLE
    if request.param > 1:
        monkeypatch.setattr(library, "_CPU_WHOLE_BYTES", 0)
    return int(request.param)


@pytest.mark.parametrize("scale", [1.0, 30.0])
def test_torch_backward_needs_the_gradient_and_blocks(blocks: int, scale: float) -> None:
    import torch

    x, t = torch.tensor(LOGITS * np.float32(scale), requires_grad=True), torch.tensor(LABELS)
    most = memory.of_torch(lambda: torch.autograd.grad(al.cross_entropy(x, t), x))
    # Wide logits go the longer way, of which a distance is as large as the block.
    distance = 0 if scale == 1 else LOGITS.nbytes if blocks == 1 else PLACED
    assert most < LOGITS.nbytes + distance + 5 * BLOCK


def test_torch_exponentials_are_computed_once(blocks: int) -> None:
    import torch

    x, t = torch.tensor(LOGITS, requires_grad=True), torch.tensor(LABELS)
    with torch.profiler.profile() as seen:
        torch.autograd.grad(al.cross_entropy(x, t), x)
    calls = {e.key: e.count for e in seen.key_averages()}
    assert calls["aten::exp"] == blocks
    # Nothing is looked for before them, and nothing is scaled after.
    assert "aten::amax" not in calls or calls["aten::amax"] <= 1  # that of the labels


def test_torch_log_softmax_computes_the_exponentials_once(blocks: int) -> None:
    import torch

    x, t = torch.tensor(LOGITS, requires_grad=True), torch.tensor(LABELS)
    with torch.profiler.profile() as seen:
        torch.autograd.grad(al.nll_loss(al.log_softmax(x), t), x)
    calls = {e.key: e.count for e in seen.key_averages()}
    assert calls["aten::exp"] == blocks
    # Of a gradient that is 0 but at the labels there is nothing to add up: all sums are of exponentials and of losses.
    assert calls["aten::sum"] <= blocks + 1


def test_torch_nll_loss_keeps_the_labels_alone() -> None:
    torch = pytest.importorskip("torch")
    x, t = torch.tensor(LOGITS, requires_grad=True), torch.tensor(LABELS)
    # The exponentials, which become the gradient, and the logarithms, in whose place nll_loss makes its own.
    most = memory.of_torch(lambda: torch.autograd.grad(al.nll_loss(al.log_softmax(x), t), x))
    assert most < 2 * LOGITS.nbytes + 2 * BLOCK


def test_torch_copies_no_other_order_of_the_axes() -> None:
    torch = pytest.importorskip("torch")
    images = torch.tensor(LOGITS.reshape(5, 1000, 32, 32)).contiguous(memory_format=torch.channels_last)
    t = torch.zeros((5, 32, 32), dtype=torch.int64)
    assert memory.of_torch(lambda: al.cross_entropy(images, t, axis=1)) < 2 * BLOCK


def test_no_one_hot_on_eager_libraries() -> None:
    # A one-hot of the labels would be as large as the logits; a boolean one a quarter of that.
    assert memory.of_numpy(lambda: al.softmax_focal_loss(LOGITS, LABELS)) < LOGITS.nbytes // 4 + 6 * BLOCK


def _dynamo() -> Any:
    pytest.importorskip("torch")
    import torch._dynamo.testing

    torch._dynamo.reset()
    return torch._dynamo


@pytest.mark.parametrize("loss", [al.cross_entropy, al.binary_cross_entropy_with_logits])
def test_torch_compiles_once_and_whole(loss: Callable[..., Any]) -> None:
    dynamo = _dynamo()
    import torch

    counter = dynamo.testing.CompileCounter()
    x = torch.tensor(LOGITS[:64, :10], requires_grad=True)
    t = torch.tensor(LABELS[:64] % 10 if loss is al.cross_entropy else np.sign(LOGITS[:64, :10]).clip(0))
    compiled = torch.compile(lambda x, t: loss(x, t), backend=counter, fullgraph=True)
    for _ in range(3):
        compiled(x, t).backward()
    assert counter.frame_count == 1
    explained = dynamo.explain(lambda x, t: loss(x, t))(x, t)
    assert explained.graph_break_count == 0


def test_torch_compiled_backward_has_no_exponentials() -> None:
    dynamo = _dynamo()
    import torch
    from functorch.compile import min_cut_rematerialization_partition, nop

    backward: list[Any] = []

    def keep(graph: Any, inputs: Any) -> Any:
        backward.append(graph.graph)
        return nop(graph, inputs)

    # What torch.compile does but for the code that it writes in the end.
    backend = dynamo.backends.common.aot_autograd(
        fw_compiler=nop,
        bw_compiler=keep,
        partition_fn=partial(min_cut_rematerialization_partition, compiler="inductor"),
    )
    x, t = torch.tensor(LOGITS[:64, :100], requires_grad=True), torch.tensor(LABELS[:64] % 100)
    torch.compile(al.cross_entropy, backend=backend, fullgraph=True)(x, t).backward()
    (graph,) = backward
    large = [n for n in graph.nodes if "val" in n.meta and n.meta["val"].numel() >= x.numel()]
    assert large
    assert not [n for n in large if "exp." in str(n.target)]
    # They are all that is kept, and the gradient is written over them.
    assert [n.op for n in large].count("placeholder") == 1


def test_torch_compiled_loss_reads_the_logits_in_one_loop(needing_a_compiler: Any) -> None:
    _dynamo()
    import torch
    from torch._inductor.utils import run_and_get_code

    x, t = torch.tensor(LOGITS[:64, :300], requires_grad=True), torch.tensor(LABELS[:64] % 300)

    def both() -> Any:
        return torch.autograd.grad(torch.compile(al.cross_entropy, fullgraph=True)(x, t), x)

    with needing_a_compiler():
        _, (forward, backward) = run_and_get_code(both)
    over_a_row = r"for\(int64_t x1=.*x1<static_cast<int64_t>\(300L\)"
    # The maximum, and the exponentials with their sum, while the row is in the cache; then one product.
    assert len(re.findall(over_a_row, forward)) == 2
    assert len(re.findall(over_a_row, backward)) == 1
    # What is kept is all that is written, and becomes the gradient.
    assert len(re.findall(r"empty_strided_cpu\(\(64, 300\)", forward)) == 1
    assert not re.findall(r"empty_strided_cpu\(\(64, 300\)", backward)


def _equations(jaxpr: Any, size: int) -> Iterator[Any]:
    """The equations whose result is at least of `size`, in a jaxpr and those inside it."""
    for equation in jaxpr.eqns:
        if any(v.aval.size >= size for v in equation.outvars):
            yield equation
        for inner in _inside(equation):
            yield from _equations(inner, size)


def _inside(equation: Any) -> Iterator[Any]:
    """The jaxprs of an equation; of a condition, one for each branch."""
    for values in equation.params.values():
        for inner in values if isinstance(values, tuple) else (values,):
            # Open or closed.
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield inner


def _operations(jaxpr: Any, size: int) -> Counter[str]:
    return Counter(equation.primitive.name for equation in _equations(jaxpr, size))


def _exponentials(jaxpr: Any, size: int) -> list[int]:
    """How many there are of at least `size` numbers on each way through the branches."""
    ways = [0]
    for equation in jaxpr.eqns:
        large = any(v.aval.size >= size for v in equation.outvars)
        each = [_exponentials(inner, size) for inner in _inside(equation)]
        if equation.primitive.name == "cond":
            each = [[n for branch in each for n in branch]]
        for inside in each:
            ways = [a + b for a in ways for b in inside]
        if large and equation.primitive.name == "exp":
            ways = [n + 1 for n in ways]
    return ways


def test_jax_computes_the_exponentials_once() -> None:
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    x, t = jnp.asarray(LOGITS[:64]), jnp.asarray(LABELS[:64])
    size = x.size
    # On a CPU those of the logits as they are, and where they are out of range, others after them.
    assert sorted(_exponentials(jax.make_jaxpr(al.cross_entropy)(x, t).jaxpr, size)) == [1, 1, 2]
    assert _exponentials(jax.make_jaxpr(jax.value_and_grad(al.cross_entropy))(x, t).jaxpr, size) == [1]


def test_jax_keeps_one_branch_where_it_is_mapped() -> None:
    # A condition for each of what is mapped over would be a selection, for which both branches are computed.
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    x, t = jnp.asarray(LOGITS[:64]).reshape(4, 16, -1), jnp.asarray(LABELS[:64]).reshape(4, 16)
    mapped = jax.make_jaxpr(jax.vmap(jax.vmap(al.cross_entropy)))(x, t).jaxpr
    assert sorted(_exponentials(mapped, x.size)) == [1, 1, 2]


def test_jax_compiles_an_eager_map_once() -> None:
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    x, t = jnp.asarray(LOGITS[:64]).reshape(4, 16, -1), jnp.asarray(LABELS[:64]).reshape(4, 16)
    jax.vmap(al.cross_entropy)(x, t)
    found: list[str] = []

    def listen(event: str, duration: float, **_: object) -> None:
        found.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.vmap(al.cross_entropy)(x, t)
        assert not found
        jax.vmap(al.cross_entropy)(x[:2], t[:2])
        assert found
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_jax_compares_labels_in_floating_point() -> None:
    # XLA's CPU compiler makes int64 of int32: half as many fit a vector, and those of 512 bits slow down all else.
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    x, t = jnp.asarray(LOGITS[:64]), jnp.asarray(LABELS[:64])
    found = _equations(jax.make_jaxpr(jax.value_and_grad(al.cross_entropy))(x, t).jaxpr, x.size)
    compared = [e for e in found if e.primitive.name == "eq"]
    assert compared
    assert all(v.aval.dtype == x.dtype for e in compared for v in e.invars)


def test_jax_selects_nothing_inside_a_large_reduction() -> None:
    # XLA's CPU compiler writes a selection to memory before it is summed: slow where that is more than a cache holds.
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    shape = (2048, 32000)
    x, t = jax.ShapeDtypeStruct(shape, jnp.float32), jax.ShapeDtypeStruct(shape[:1], jnp.int32)
    jaxpr = jax.make_jaxpr(al.cross_entropy)(x, t).jaxpr
    found = _operations(jaxpr, 2048 * 32000)
    assert sorted(_exponentials(jaxpr, 2048 * 32000)) == [1, 1, 2]
    assert not {"select_n", "eq", "lt", "ge", "scatter", "argmax"} & set(found)


def test_jax_log_softmax_turned_round_needs_one_array() -> None:
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    x, t = jnp.asarray(LOGITS), jnp.asarray(LABELS)
    both = jax.jit(jax.value_and_grad(lambda x, t: al.nll_loss(al.log_softmax(x), t)))
    # The exponentials: what is pulled back is summed once, and is where the terms of the sum of the others were.
    assert both.lower(x, t).compile().memory_analysis().temp_size_in_bytes < 1.1 * LOGITS.nbytes


def test_jax_is_compiled_once() -> None:
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    f = jax.jit(jax.value_and_grad(al.cross_entropy))
    for _ in range(3):
        f(jnp.asarray(LOGITS[:64]), jnp.asarray(LABELS[:64]))
    assert f._cache_size() == 1


# ------------------------------------------------------------------------------------------------- small calls


def _calls(f: Callable[[], Any]) -> int:
    """How many functions a call of `f` calls, Python's and C's."""
    f()
    f()
    found: Counter[str] = Counter()
    sys.setprofile(lambda frame, event, argument: found.update([event]))
    try:
        f()
    finally:
        sys.setprofile(None)
    return found["call"] + found["c_call"]


SMALL = LOGITS[:32, :10].copy(), LABELS[:32] % 10
ANSWERS = np.sign(LOGITS[:5, :1]).clip(0)


def test_small_calls_are_few() -> None:
    # 200 and 230 of them took 46 us, SciPy's log_softmax 18; a call of a Python function takes 0.1.
    assert _calls(lambda: al.cross_entropy(*SMALL)) <= 155
    assert _calls(lambda: al.sigmoid_focal_loss(LOGITS[:5, :1], ANSWERS)) <= 160


def test_torch_small_cross_entropy_is_one_operation() -> None:
    torch = pytest.importorskip("torch")
    assert _calls(lambda: al.cross_entropy(*map(torch.tensor, SMALL))) <= 40


# ------------------------------------------------------------------------------------------- the benchmark itself


def test_medians_are_of_calls() -> None:
    calls: Counter[str] = Counter()
    found = timing.medians({n: (lambda n=n: calls.update([n])) for n in "ab"}, 0.01)  # type: ignore[misc]
    assert set(found) == {"a", "b"}
    assert all(t > 0 for t in found.values())
    assert calls["a"] > 5


def test_every_row_has_a_bound_and_a_name_of_its_own() -> None:
    every = [*rows.rows(), *rows.memories()]
    assert len({(r.name, getattr(r, "peer", "")) for r in every}) == len(every)
    assert all(r.bound > 0 for r in every)
    assert all(r.aim <= r.bound for r in every if isinstance(r, rows.Row))


def test_both_sides_of_a_row_compute_the_same() -> None:
    for row in rows.rows():
        if row.missing() is None and "forward" not in row.work and "value" not in row.work and row.library == "numpy":
            small = rows.Row(row.work, row.peer, row.library, tuple(min(n, 40) for n in row.shape), 1, 1, row.contest)
            contest = small.contest(small)
            np.testing.assert_allclose(float(contest.ours()), float(contest.theirs()), rtol=1e-5)  # type: ignore[arg-type]


def test_the_command(capsys: pytest.CaptureFixture[str], tmp_path: Any) -> None:
    pytest.importorskip("scipy", reason="scipy, the row's peer, is not installed")
    file = tmp_path / "figures.json"
    assert main(["numpy small cross_entropy", "cupy", "--seconds", "0.05", "--json", str(file)]) == 0
    said = capsys.readouterr().out
    assert re.search(r"numpy small cross_entropy +\| 32x10 +\| scipy log_softmax", said)
    assert "not run here" in said or "cupy cross_entropy" in said
    assert '"unit": "seconds"' in file.read_text()
