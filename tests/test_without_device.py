"""What can be known of a device where none is: reads, mixed devices, names that a library lacks, programs for it.

torch's `meta` device and fake CUDA tensors hold no numbers, so that every read raises; programs of JAX are lowered for
CUDA, ROCm and TPU, and not run; CuPy is a stand-in over NumPy (`tests/standin`).
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from combinations import CLASSES, ROWS, Combination, combinations
from outside.common import ACTIVATIONS, LOSSES

import arrayloss as al
from arrayloss import value_and_grad

TESTS = Path(__file__).parent
ROOT = TESTS.parent


def run(command: list[str], *path: Path) -> str:
    """What a command printed, which must not fail; `path` goes before Python's own."""
    before = [*map(str, path), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(before), "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-4000:]
    return done.stdout


def told(wrong: list[str]) -> str:
    return "\n".join([f"{len(wrong)} wrong", *wrong[:20]])


# ---------------------------------------------------------------------------------------------------------------
# CuPy


def test_cupy_by_its_stand_in() -> None:
    """The tests of a device, and the semantics, in a process where `import cupy` finds the stand-in."""
    asked = ["tests/test_device.py", "tests/test_semantics.py", "-k", "cupy"]
    said = run([sys.executable, "-m", "pytest", "-n", "0", "-q", "-p", "no:cacheprovider", *asked], TESTS / "standin")
    assert int(said.rpartition(" passed")[0].split()[-1]) > 100, said


# ---------------------------------------------------------------------------------------------------------------
# torch


def leaves_of(torch: Any, arrays: list[Any], options: dict[str, Any], every: bool) -> list[Any]:
    """The tensors to differentiate by: the logits, or everything of floating-point numbers."""
    among = [*arrays, *options.values()] if every else arrays[:1]
    found = [a for a in among if isinstance(a, torch.Tensor) and a.is_floating_point()]
    return [a.requires_grad_() for a in found]


def put_through(torch: Any, one: Combination, move: Callable[[Any], Any]) -> None:
    """A call, its backward, the backward of that, and the gradient in closed form: shapes, dtypes and devices."""
    wide = {"dtype": torch.float64} if "dtype" in one.options else {}
    for every in (False, True):
        arrays, options = one.moved(move)
        x, options = arrays[0], options | wide
        leaves = leaves_of(torch, arrays, options, every)
        y = one.function(*arrays, **options)
        assert (y.device, y.dtype) == (x.device, options.get("dtype", x.dtype))
        # By the logits alone as in training, by everything with a tape of the gradients.
        gradients = torch.autograd.grad(y.sum(), leaves, create_graph=every, allow_unused=True)
        assert gradients[0] is not None
        for leaf, g in zip(leaves, gradients, strict=True):
            assert g is None or (g.device, g.dtype, g.shape) == (leaf.device, leaf.dtype, leaf.shape)
        total = sum(g.sum() for g in gradients if g is not None)
        if total.requires_grad:
            torch.autograd.grad(total, leaves, allow_unused=True)
    if one.is_loss:
        arrays, options = one.moved(move)
        none = options.get("reduction") == "none"
        assert tuple(y.shape) == (one.samples if none else ())
        pull = {"cotangent": torch.ones_like(y.detach())} if none else {}
        _, gradient = value_and_grad(one.function)(*arrays, **(options | wide), **pull)
        assert (gradient.device, gradient.dtype, gradient.shape) == (x.device, x.dtype, x.shape)


def wrong_of(torch: Any, tensor: Callable[..., Any], dtype: Any, chosen: Iterable[Combination]) -> list[str]:
    """The combinations that can't be put through."""

    def move(x: Any) -> Any:
        kind = dtype if x.dtype.kind == "f" else getattr(torch, x.dtype.name)
        return tensor(x.shape, dtype=kind)

    wrong = []
    for one in chosen:
        try:
            put_through(torch, one, move)
        except Exception as error:  # one of many is no reason to stop
            wrong.append(f"{one.name}: {type(error).__name__}: {error}")
    return wrong


def test_torch_on_meta() -> None:
    """In place and in blocks, as on a device, and on the tape; a read of a number raises."""
    torch = pytest.importorskip("torch")

    def tensor(shape: Any, dtype: Any) -> Any:
        return torch.empty(shape, dtype=dtype, device="meta")

    chosen = (c for c in combinations(few=True) if c.options.get("reduction") != "none")
    wrong = wrong_of(torch, tensor, torch.float32, chosen)
    # Half types ask torch for an autocast, which this device has not.
    wrong += wrong_of(torch, tensor, torch.bfloat16, (c for c in combinations(few=True) if not c.options))
    assert not wrong, told(wrong)


FAKE_CUDA = """
import ctypes, sys
ctypes.CDLL(sys.argv[1])  # before torch
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import arrayloss._backends.torch as backend
from arrayloss import Hardest
from combinations import combinations
from test_without_device import told, wrong_of

def tensor(shape, dtype):
    return torch.empty(shape, dtype=dtype, device="cuda")


found = []
# As a tracer has them; then in place, as real tensors are taken.
for plain, reduction in ((backend._plain, Hardest(k=2)), (lambda: True, "mean")):
    backend._plain = plain
    losses = [c for c in combinations(few=True) if c.options.get("reduction") == reduction]
    functions = [c for c in combinations(few=True) if not c.is_loss and reduction == "mean"]
    with FakeTensorMode():
        found += wrong_of(torch, tensor, torch.float32, losses + functions)
if found:
    sys.exit(told(found))
"""


def test_torch_on_a_fake_cuda_device(tmp_path: Path) -> None:
    """Forward, backward and the backward of that, where a tensor on another device is an error."""
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available() or torch.version.cuda:
        pytest.skip("this torch has CUDA of its own")
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None:
        pytest.skip("there is no C++ compiler")
    from torch.utils.cpp_extension import include_paths

    home, library = Path(torch.__file__).parent / "lib", tmp_path / "fake_cuda.so"
    flags = ["-shared", "-fPIC", "-std=c++20", "-O0", *(f"-I{path}" for path in include_paths())]
    linked = [f"-L{home}", "-ltorch_cpu", "-lc10", f"-Wl,-rpath,{home}"]
    run([compiler, *flags, str(TESTS / "standin/fake_cuda.cpp"), "-o", str(library), *linked])
    run([sys.executable, "-c", FAKE_CUDA, str(library)], TESTS)


# ---------------------------------------------------------------------------------------------------------------
# Programs for other devices


@pytest.mark.parametrize("lengths", ["fixed", "symbolic"])
@pytest.mark.parametrize("function", [*ACTIVATIONS, *LOSSES], ids=lambda f: f.__name__)
def test_jax_lowers_for_accelerators(function: Any, lengths: str) -> None:
    """The value, the gradient in closed form, and JAX's own of every floating-point argument."""
    jax = pytest.importorskip("jax")
    export = pytest.importorskip("jax.export")
    chosen = [c for c in combinations(few=True) if c.function is function]
    if lengths == "fixed":
        chosen = [c for c in chosen if c.options.get("reduction", "mean") == "mean" and (c.options or not c.is_loss)]
    wrong = []
    try:
        lowered(jax, export, chosen, lengths)
    except Exception:
        for one in chosen:
            try:
                lowered(jax, export, [one], lengths)
            except Exception as error:
                wrong.append(f"{one.name}: {type(error).__name__}: {error}")
        assert wrong, "together, not alone"
    assert not wrong, told(wrong)


def lowered(jax: Any, export: Any, chosen: list[Combination], lengths: str) -> None:
    """One program of all of these."""
    jnp = jax.numpy
    symbols = dict(zip((ROWS, CLASSES), export.symbolic_shape("rows, classes"), strict=True))
    given: list[Any] = []

    def move(x: Any) -> Any:
        dtype = np.float32 if x.dtype.kind == "f" else np.int32 if x.dtype.kind == "i" else x.dtype
        shape = [symbols.get(n, n) for n in x.shape] if lengths == "symbolic" else x.shape
        given.append(jax.ShapeDtypeStruct(shape, dtype))
        return len(given) - 1

    calls = [(one, *one.moved(move)) for one in chosen]  # with numbers, of the arrays in `given`

    def program(*given: Any) -> Any:
        found = []
        for one, places, options in calls:
            named = {k: given[options.pop(k)] for k, v in one.options.items() if isinstance(v, np.ndarray)}
            arrays, of = [given[i] for i in places], functools.partial(one.function, **options)
            y, pullback = jax.vjp(lambda arrays, named, of=of: of(*arrays, **named), arrays, named)
            found += [y, pullback(jnp.ones_like(y))]
            if one.is_loss:
                pull = {"cotangent": jnp.ones_like(y)} if options.get("reduction") == "none" else {}
                found.append(value_and_grad(one.function)(*arrays, **options, **named, **pull))
        return [leaf for leaf in jax.tree.leaves(found) if leaf.dtype != jax.dtypes.float0]

    exported = export.export(jax.jit(program), platforms=("cuda", "rocm", "tpu"))(*given)
    assert exported.platforms == ("cuda", "rocm", "tpu")


def test_torch_exports_a_dynamic_batch() -> None:
    """The hardest samples, with all options and with none; the program serves another number of samples."""
    torch = pytest.importorskip("torch")
    # Where every sample counts, as in the last two, their number is the program's own.
    asked = [(al.softmax_focal_loss, "int64", True), (al.sigmoid_focal_loss, "float", True)]
    asked += [(al.kl_divergence_with_logits, "teacher", False), (al.binary_cross_entropy, "float", False)]
    chosen = []
    for one in combinations():
        hardest = al.Hardest(fraction=0.5) if one.target == "float" else al.Hardest(k=2)
        wanted = one.options.get("reduction") == hardest and "axis" not in one.options
        if wanted and (one.function, one.target, len(one.options) > 1) in asked:
            chosen.append(one)

    def numbers(x: Any) -> Any:
        return torch.tensor(x, dtype=torch.float32 if x.dtype.kind == "f" else None)

    def inputs(times: int) -> list[Any]:
        """All arrays of all calls, those of the samples so many times over."""
        found: list[Any] = []
        for one in chosen:
            arrays, options = one.moved(lambda x: numbers(np.concatenate([x] * times) if x.shape[:1] == (ROWS,) else x))
            found += [*arrays, *(v for v in options.values() if isinstance(v, torch.Tensor))]
        return found

    class All(torch.nn.Module):
        def forward(self, *given: Any) -> Any:
            found, rest = [], iter(given)
            for one in chosen:
                arrays, options = one.moved(lambda _: next(rest))
                found.append(one.function(*arrays, **options))
            return torch.stack(found)

    rows = torch.export.Dim("rows", min=2, max=64)
    given = inputs(1)
    shapes = (tuple({0: rows} if a.ndim and a.shape[0] == ROWS else None for a in given),)
    program = torch.export.export(All(), tuple(given), dynamic_shapes=shapes).module()
    for times in (1, 2):
        found, due = program(*inputs(times)), All()(*inputs(times))
        wrong = [one.name for one, a, b in zip(chosen, found, due, strict=True) if not torch.allclose(a, b, rtol=1e-5)]
        assert not wrong, told(wrong)
