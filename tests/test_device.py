"""What a device is asked: torch on CUDA and CuPy, wherever they are.

`.ci/device` runs this on a machine with one. `test_without_device.py` runs it on a stand-in for CuPy.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from combinations import Combination, combinations
from outside.common import ACTIVATIONS, BINARY, LOSSES, close

import arrayloss as al
from arrayloss import value_and_grad

on_device = pytest.mark.only(lambda backend: backend.library in ("torch", "cupy") and not backend.on_cpu)


def test_every_option_is_among_the_combinations() -> None:
    for function in (*ACTIVATIONS, *LOSSES):
        taken = {n for n, p in inspect.signature(function).parameters.items() if p.kind is p.KEYWORD_ONLY}
        used = {k for c in combinations() if c.function is function for k in c.options}
        assert taken == used, function.__name__


def ways(one: Combination, move: Callable[[Any], Any], dtype: Callable[[str], Any]) -> dict[str, Any]:
    """The result of a call, and of its gradient and second derivative in closed form, where it has them."""
    arrays, options = one.moved(move)
    if "dtype" in options:
        options["dtype"] = dtype(options["dtype"])
    found = {"value": one.function(*arrays, **options)}
    if one.is_loss:
        pull = {"cotangent": move(np.ones(one.samples))} if options.get("reduction") == "none" else {}
        found["closed value"], found["gradient"] = value_and_grad(one.function)(*arrays, **options, **pull)
    return found


@on_device
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_every_combination(backend: Any, dtype: str) -> None:
    """As on NumPy, on the device of the logits, in its dtype; all of them in float32."""

    def move(x: Any) -> Any:
        return backend.asarray(x, dtype if x.dtype.kind == "f" else None)

    wrong = []
    for one in combinations(few=dtype != "float32"):
        expected = ways(one, lambda x: x.astype(dtype) if x.dtype.kind == "f" else x, np.dtype)
        try:
            found = ways(one, move, backend.dtype)
            for way, y in found.items():
                due = np.asarray(expected[way])
                assert backend.device_of(y) == backend.device
                assert backend.dtype_name(y) == due.dtype.name
                assert tuple(y.shape) == due.shape
                close(backend.to_numpy(y), due, 4 * backend.rtol(dtype), way)
        except Exception as error:  # one of many is no reason to stop
            wrong.append(f"{one.name}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join([f"{len(wrong)} wrong", *wrong[:20]])


@on_device
@pytest.mark.parametrize("loss", [al.cross_entropy, al.binary_cross_entropy_with_logits], ids=lambda f: f.__name__)
def test_an_objective(backend: Any, loss: Any) -> None:
    x = np.random.default_rng(0).normal(size=(6, 3))
    y = np.asarray([0.0, 1.0, 2.0, 1.0, 0.0, 2.0]) if loss is al.cross_entropy else (x > 0.5) * 1.0
    weight = np.linspace(0.5, 2.0, 6)
    for given in ((y, x), (y, x, weight)):
        found = al.objective(loss, min_hessian=0.01)(*map(backend.asarray, given))
        for one, due in zip(found, al.objective(loss, min_hessian=0.01)(*given), strict=True):
            assert backend.device_of(one) == backend.device
            np.testing.assert_allclose(backend.to_numpy(one), due, rtol=1e-12)


# What a device does in about a second.
_CYCLES = 2_000_000_000


def busy(backend: Any) -> Callable[[], bool]:
    """Gives the device a second of work; the function says whether that is done."""
    if backend.library == "torch":
        backend.xp.cuda._sleep(_CYCLES)
        event = backend.xp.cuda.Event()
        event.record()
        return event.query  # type: ignore[no-any-return]
    spin = backend.xp.RawKernel(
        'extern "C" __global__ void spin(long long n) { for (long long b = clock64(); clock64() - b < n;); }', "spin"
    )
    spin((1,), (1,), (np.int64(_CYCLES),))
    event = backend.xp.cuda.Event()
    event.record()
    return lambda: bool(event.done)


@on_device
@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_a_call_does_not_wait_for_the_device(backend: Any, loss: Any) -> None:
    """It returns while the device still has to do what it was given before."""
    if getattr(backend.xp, "__version__", "").endswith("standin"):
        pytest.skip("the stand-in refuses a read where it is made")
    chosen = [c for c in combinations(few=True) if c.function is loss]
    calls = [(one, *one.moved(backend.asarray)) for one in chosen]
    cotangent = {one.samples: backend.asarray(np.ones(one.samples)) for one in chosen}

    def call() -> None:
        for one, arrays, options in calls:
            loss(*arrays, **options)
            pull = {"cotangent": cotangent[one.samples]} if options.get("reduction") == "none" else {}
            value_and_grad(loss)(*arrays, **options, **pull)
            if backend.library == "torch":
                leaf = arrays[0].detach().clone().requires_grad_()
                loss(leaf, *arrays[1:], **options).sum().backward()

    call()  # loads the kernels, and takes the memory
    done = busy(backend)
    if backend.library == "torch":
        backend.xp.cuda.set_sync_debug_mode("error")
    try:
        call()
    finally:
        if backend.library == "torch":
            backend.xp.cuda.set_sync_debug_mode("default")
    assert not done()


@on_device
@pytest.mark.parametrize("bad", [-1, 3, 1 << 40])
def test_a_label_out_of_range_is_nan_and_the_device_lives(backend: Any, bad: int) -> None:
    x, labels = np.random.default_rng(0).normal(size=(4, 3)), np.asarray([0, bad, 2, 1])
    for options in ({}, {"label_smoothing": 0.1}, {"class_weight": np.asarray([1.0, 2.0, 3.0])}):
        moved = backend.options(options)
        losses = al.cross_entropy(backend.asarray(x), backend.asarray(labels), reduction="none", **moved)
        assert np.isnan(backend.to_numpy(losses)).tolist() == [False, True, False, False]
        _, gradient = value_and_grad(al.cross_entropy)(backend.asarray(x), backend.asarray(labels), **moved)
        assert np.isnan(backend.to_numpy(gradient)).all(1).tolist() == [False, True, False, False]
        assert np.isnan(backend.to_numpy(gradient)).any(1).tolist() == [False, True, False, False]
    again = al.cross_entropy(backend.asarray(x), backend.asarray(labels % 3))
    np.testing.assert_allclose(backend.to_numpy(again), al.cross_entropy(x, labels % 3), rtol=1e-12)


@on_device
@pytest.mark.parametrize("loss", LOSSES, ids=lambda f: f.__name__)
def test_two_devices_are_refused(backend: Any, loss: Any) -> None:
    one = next(c for c in combinations() if c.function is loss and "sample_weight" in c.options)
    (x, t), options = one.moved(backend.asarray)
    if backend.library == "torch":
        elsewhere, said = (lambda a: a.cpu()), ("cuda", "cpu")
    elif backend.xp.cuda.runtime.getDeviceCount() > 1:
        elsewhere, said = _on_second(backend), ("Device 0", "Device 1")
    else:
        pytest.skip("there is one device")
    weight = options["sample_weight"]
    for call in (loss, value_and_grad(loss)):
        for arrays, given in (
            ((elsewhere(x), t), {}),
            ((x, elsewhere(t)), {}),
            ((x, t), {"sample_weight": elsewhere(weight)}),
        ):
            with pytest.raises(ValueError, match=rf"{said[0]}.*{said[1]}|{said[1]}.*{said[0]}"):
                call(*arrays, **given)


def _on_second(backend: Any) -> Callable[[Any], Any]:
    def moved(a: Any) -> Any:
        with backend.xp.cuda.Device(1):
            return backend.xp.asarray(a.get())

    return moved


@pytest.mark.only(lambda backend: backend.library == "cupy")
def test_arrays_on_another_device_than_the_current_one(backend: Any) -> None:
    if backend.xp.cuda.runtime.getDeviceCount() < 2:
        pytest.skip("there is one device")
    move, second = _on_second(backend), backend.xp.cuda.Device(1)
    wrong = []
    for one in combinations(few=True):
        try:
            found = ways(one, lambda x: move(backend.asarray(x)), backend.dtype)
            assert {y.device for y in found.values()} == {second}
        except Exception as error:  # one of many is no reason to stop
            wrong.append(f"{one.name}: {type(error).__name__}: {error}")
    assert not wrong, "\n".join([f"{len(wrong)} wrong", *wrong[:20]])
    x, y = (move(backend.asarray(a)) for a in (np.zeros((4, 3)), np.asarray([0.0, 1.0, 2.0, 1.0])))
    assert {a.device for a in al.objective(al.cross_entropy)(y, x)} == {second}


@on_device
def test_a_binary_target_out_of_range_is_nan(backend: Any) -> None:
    x, t = np.zeros((2, 2)), np.asarray([[0.0, 2.0], [1.0, np.nan]])
    for loss in BINARY:
        losses = loss(backend.asarray(x + 0.5), backend.asarray(t), reduction="none")
        assert np.isnan(backend.to_numpy(losses)).tolist() == [[False, True], [False, True]], loss.__name__
