"""What looks like an array and is more: refused with a word of what to pass, or taken as the array it is."""

from __future__ import annotations

import pathlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import arrayloss as al
from arrayloss import cross_entropy, value_and_grad
from outside.common import Array, close, mean_of

X = np.array([[0.5, -1.0, 2.0], [1.0, 0.0, -0.5], [0.25, 0.75, 3.0]])
LABELS = np.array([0, 2, 1])
SHARES = np.full((3, 3), 1 / 3)
BITS = np.array([[1, 0, 1], [0, 1, 0], [1, 1, 0]])
MASK = np.eye(3, dtype=bool)


def refused(call: Callable[[], Any], *said: str) -> None:
    """A TypeError of ours, which says one of these."""
    with pytest.raises(TypeError) as caught:
        call()
    assert any(one in str(caught.value) for one in said), str(caught.value)
    assert "aten::" not in str(caught.value)


def everywhere(wrapped: Callable[[Array], Any], *said: str, plain: Callable[[Array], Any] = np.asarray) -> None:
    """As logits, as labels, as shares and as weights; in losses, their gradients and the functions."""
    x = plain(X)
    for call in (cross_entropy, value_and_grad(cross_entropy)):
        refused(lambda call=call: call(wrapped(X), plain(LABELS)), *said)
        refused(lambda call=call: call(x, wrapped(SHARES)), *said)
    refused(lambda: al.binary_cross_entropy_with_logits(wrapped(X), plain(BITS)), *said)
    refused(lambda: al.kl_divergence_with_logits(x, wrapped(X)), *said)
    refused(lambda: al.softmax(wrapped(X)), *said)
    refused(lambda: al.sigmoid(wrapped(X)), *said)
    refused(lambda: al.sigmoid_focal_loss(x, plain(BITS), sample_weight=wrapped(np.abs(X))), *said)


def test_masked_arrays() -> None:
    def wrapped(a: Array) -> Any:
        return np.ma.array(a, mask=np.resize(MASK, a.shape))

    everywhere(wrapped, "where=")
    refused(lambda: cross_entropy(X, np.ma.array(LABELS, mask=[1, 0, 0])), "where=")
    refused(lambda: cross_entropy(X, LABELS, sample_weight=np.ma.array([1.0, 2.0, 3.0])), "where=")
    refused(lambda: cross_entropy(X, LABELS, class_weight=np.ma.array([1.0, 2.0, 3.0])), "where=")
    refused(lambda: cross_entropy(np.ma.array(X), LABELS), "where=")  # nothing masked: the same word


def test_masked_tensors_of_torch() -> None:
    torch = pytest.importorskip("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # they are a prototype, and say so
        from torch.masked import masked_tensor

        def wrapped(a: Array) -> Any:
            return masked_tensor(torch.tensor(a), torch.ones(a.shape, dtype=torch.bool))

        everywhere(wrapped, "where=", plain=torch.tensor)


def test_chunks_that_are_masked_arrays() -> None:
    da = pytest.importorskip("dask.array")
    everywhere(lambda a: da.ma.masked_array(da.from_array(a)), "where=", plain=da.from_array)


def test_what_a_mean_is_over_is_checked_as_the_others_are() -> None:
    over = al.Mean(over=np.ma.array(4.0, mask=True))
    refused(lambda: cross_entropy(X, LABELS, reduction=over), "over is a masked array")


def test_matrices() -> None:
    # It warns of its own deprecation where one is made.
    with pytest.warns(PendingDeprecationWarning):
        matrix = np.matrix(X)
    everywhere(lambda a: a.view(type(matrix)) if a.ndim == 2 else matrix[0], "np.asarray")


class Series:
    """As much of a pandas Series as matters: not an array, but what NumPy makes one of."""

    def __init__(self, values: Array) -> None:
        self.values = values
        self.dtype, self.shape, self.ndim = values.dtype, values.shape, values.ndim

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        return np.asarray(self.values, dtype=dtype)


def test_what_numpy_would_convert() -> None:
    everywhere(Series, "array")


@pytest.mark.parametrize("name", ["pandas", "xarray", "polars"])
def test_tables(name: str) -> None:
    module = pytest.importorskip(name)
    make = {"pandas": "DataFrame", "xarray": "DataArray", "polars": "DataFrame"}[name]
    everywhere(getattr(module, make), "asarray", "to_numpy", "array")


def test_sparse_of_scipy() -> None:
    sparse = pytest.importorskip("scipy.sparse")
    everywhere(sparse.csr_array, "dense", "toarray", "array")
    everywhere(sparse.coo_matrix, "dense", "toarray", "array")


def test_sparse_of_jax() -> None:
    sparse = pytest.importorskip("jax.experimental.sparse")
    jnp = pytest.importorskip("jax.numpy")
    x, labels = sparse.BCOO.fromdense(jnp.asarray(X)), jnp.asarray(LABELS)
    refused(lambda: cross_entropy(x, labels), "dense", "array")
    refused(lambda: cross_entropy(jnp.asarray(X), x), "dense", "array")
    refused(lambda: al.softmax(x), "dense", "array")


@pytest.mark.filterwarnings("ignore:Sparse:UserWarning")
@pytest.mark.parametrize("layout", ["to_sparse", "to_sparse_csr", "to_sparse_csc", "to_mkldnn"])
def test_sparse_of_torch(layout: str) -> None:
    torch = pytest.importorskip("torch")
    if layout == "to_mkldnn" and not torch.backends.mkldnn.is_available():
        pytest.skip("no MKL-DNN here")

    def wrapped(a: Array) -> Any:
        return getattr(torch.tensor(a, dtype=torch.float32), layout)()

    everywhere(
        wrapped,
        "dense",
        "strided",
        plain=lambda a: torch.tensor(a, dtype=torch.float32 if a.dtype.kind == "f" else None),
    )


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
@pytest.mark.parametrize("layout", ["strided", "jagged"])
def test_nested_of_torch(layout: str) -> None:
    torch = pytest.importorskip("torch")

    def wrapped(a: Array) -> Any:
        return torch.nested.nested_tensor([torch.tensor(a[:2]), torch.tensor(a[2:])], layout=getattr(torch, layout))

    everywhere(wrapped, "nested", plain=torch.tensor)


@pytest.mark.filterwarnings("ignore:.*quantiz:UserWarning", "ignore:.*quantiz:DeprecationWarning")
def test_quantised_of_torch() -> None:
    torch = pytest.importorskip("torch")

    def wrapped(a: Array) -> Any:
        return torch.quantize_per_tensor(torch.tensor(a, dtype=torch.float32), 0.1, 0, torch.qint8)

    everywhere(wrapped, "quantized", "quantised", "qint8", plain=torch.tensor)


def test_parameters_and_subclasses_of_torch_work() -> None:
    torch = pytest.importorskip("torch")

    class Tagged(torch.Tensor):
        pass

    value, gradient = mean_of(cross_entropy, X, LABELS)
    labels = torch.tensor(LABELS)
    parameter = torch.nn.Parameter(torch.tensor(X))
    cross_entropy(parameter, labels).backward()
    close(parameter.grad, gradient, 1e-12)
    weight = torch.nn.Parameter(torch.ones(3, dtype=torch.float64))
    cross_entropy(parameter, labels, class_weight=weight, reduction="sum").backward()
    assert weight.grad is not None
    tagged = torch.tensor(X).as_subclass(Tagged)
    close(cross_entropy(tagged, labels).item(), value, 1e-12)
    close(cross_entropy(torch.tensor(X), labels.as_subclass(Tagged)).item(), value, 1e-12)
    got = value_and_grad(cross_entropy)(tagged, labels)
    close(got[1].as_subclass(torch.Tensor), gradient, 1e-12)
    leaf = torch.tensor(X).as_subclass(Tagged).requires_grad_()
    cross_entropy(leaf, labels).backward()
    close(leaf.grad.as_subclass(torch.Tensor), gradient, 1e-12)
    buffer = torch.nn.Buffer(torch.tensor(X))
    close(cross_entropy(buffer, labels).item(), value, 1e-12)


def test_a_file_of_numbers_works(tmp_path: pathlib.Path) -> None:
    """np.memmap is an array like any other."""
    kept = np.memmap(tmp_path / "x", dtype=np.float64, mode="w+", shape=X.shape)
    kept[:] = X
    value, gradient = mean_of(cross_entropy, X, LABELS)
    got = value_and_grad(cross_entropy)(kept, LABELS)
    close(got[0], value, 1e-12)
    close(got[1], gradient, 1e-12)
    np.testing.assert_array_equal(kept, X)
