"""Import hygiene, each in a Python of its own."""

import subprocess
import sys
import textwrap

import pytest

OTHERS = ["torch", "jax", "jaxlib", "cupy", "dask", "array_api_strict", "pandas", "scipy", "sparse"]

BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {others!r}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Blocked())
"""


def python(code: str, *flags: str) -> str:
    out = subprocess.run(
        [sys.executable, *flags, "-c", textwrap.dedent(code)], capture_output=True, text=True, timeout=120
    )
    assert out.returncode == 0, out.stderr
    # The warnings of an import or a call would be here.
    assert out.stderr == ""
    return out.stdout


def test_importing_brings_in_no_other_library() -> None:
    code = f"""
    import sys
    import arrayloss
    print(*[name for name in {OTHERS!r} if name in sys.modules])
    """
    assert python(code).split() == []


def test_a_numpy_call_brings_in_no_other_library() -> None:
    code = f"""
    import sys
    import numpy as np
    import arrayloss
    x = np.array([[0.5, -1.0], [2.0, 0.25]])
    arrayloss.value_and_grad(arrayloss.cross_entropy)(x, np.array([0, 1]))
    arrayloss.sigmoid_focal_loss(x, np.array([[0, 1], [1, 0]]))
    print(*[name for name in {OTHERS!r} if name in sys.modules])
    """
    assert python(code).split() == []


def test_numpy_works_with_no_other_library_installed() -> None:
    code = BLOCK.format(others=OTHERS) + textwrap.dedent("""
    import numpy as np
    import arrayloss as al
    x = np.array([[0.5, -1.0], [2.0, 0.25]])
    y = np.array([0, 1])
    binary = np.array([[0, 1], [1, 0]])
    al.softmax(x), al.log_softmax(x), al.logsumexp(x), al.sigmoid(x), al.log_sigmoid(x)
    for loss in (al.cross_entropy, al.softmax_focal_loss):
        value, gradient = al.value_and_grad(loss)(x, y)
        assert np.isfinite(value) and gradient.shape == x.shape
    al.nll_loss(al.log_softmax(x), y)
    al.binary_cross_entropy(al.sigmoid(x), binary)
    for loss in (al.binary_cross_entropy_with_logits, al.sigmoid_focal_loss):
        assert al.grad(loss)(x, binary, reduction=al.Sum()).shape == x.shape
    print(float(al.cross_entropy(x, y, reduction=al.Mean(over="all"))))
    """)
    assert 0 < float(python(code)) < 2


@pytest.mark.parametrize("other", ["torch", "jax", "dask.array", "array_api_strict"])
def test_one_library_does_not_bring_in_another(other: str) -> None:
    """torch users need no JAX, and the other way round."""
    top = other.split(".")[0]
    pytest.importorskip(other)
    # What the library itself imports is its own affair: block only what it does not need.
    others = [name for name in ("torch", "jax", "cupy", "dask", "array_api_strict") if name != top]
    make = {
        "torch": "xp.tensor([[0.5, -1.0]]), xp.tensor([1])",
        "jax": "jnp.array([[0.5, -1.0]]), jnp.array([1])",
        "dask.array": "xp.from_array([[0.5, -1.0]]), xp.from_array([1])",
        "array_api_strict": "xp.asarray([[0.5, -1.0]]), xp.asarray([1])",
    }[other]
    code = BLOCK.format(others=others) + textwrap.dedent(f"""
    import {other} as xp
    {"import jax.numpy as jnp" if other == "jax" else ""}
    import arrayloss
    x, y = {make}
    print(float(arrayloss.cross_entropy(x, y)))
    """)
    assert abs(float(python(code)) - 1.7014132779827524) < 1e-6
