"""What is said to whoever made a common mistake: the way out, and no way that leads astray."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
import pytest

import arrayloss as al
from arrayloss import grad, value_and_grad
from outside.common import BINARY, CATEGORICAL, over_categorical, over_losses

X = np.array([[0.5, 0.25, 0.125], [0.25, 0.5, 0.75]])
LABELS = np.array([0, 2])


def told(call: Any, kind: type[Exception] | tuple[type[Exception], ...]) -> str:
    with pytest.raises(kind) as caught:
        call()
    return str(caught.value)


@over_categorical
def test_labels_that_are_floats(backend: Any, loss: Any) -> None:
    """As a CSV file or a data frame gives them."""
    x = -X if loss is al.nll_loss else X
    for labels in (LABELS.astype(float), LABELS.astype(np.float32)):
        moved = backend.asarray(x), backend.asarray(labels, "float32")
        for call in (loss, value_and_grad(loss)):
            message = told(lambda call=call, moved=moved: call(*moved), (TypeError, ValueError))
            assert "labels must be integers" in message
            assert "astype" in message or "cast" in message
    message = told(lambda: al.cross_entropy(X, LABELS.astype(float)), (TypeError, ValueError))
    assert "target.astype(int)" in message


@over_categorical
def test_images_with_labels_of_each_pixel(backend: Any, loss: Any) -> None:
    """(N, C, H, W) and (N, H, W), as torch has them: the class axis is 1 there and -1 here."""
    x, labels = np.full((2, 3, 4, 5), -0.5), np.zeros((2, 4, 5), dtype=np.int64)
    moved = backend.asarray(x), backend.asarray(labels)
    message = told(lambda: loss(*moved), ValueError)
    assert "axis=1" in message
    assert "(2, 3, 4, 5)" in message
    assert "(2, 4, 5)" in message
    assert np.isfinite(backend.to_numpy(loss(*moved, axis=1)))
    # Where no axis would fit, none is suggested.
    other = backend.asarray(np.zeros((2, 7, 5), dtype=np.int64))
    assert "axis=" not in told(lambda: loss(moved[0], other), ValueError)


def test_images_with_shares_of_each_pixel_need_no_axis_but_theirs() -> None:
    message = told(lambda: al.cross_entropy(np.zeros((2, 3, 4)), np.zeros((2, 4, 3))), ValueError)
    assert "(2, 3, 4)" in message


WORDS = {
    "weight": {"class_weight", "sample_weight"},
    "weights": {"class_weight", "sample_weight"},
    "dim": {"axis"},
    "mask": {"where"},
    "targets": {"target", "target_logits"},
    "labels": {"target", "target_logits"},
    "lable_smoothing": {"label_smoothing"},
    "reductoin": {"reduction"},
}


@over_losses
@pytest.mark.parametrize("wrong", WORDS)
def test_the_word_of_another_library(loss: Any, wrong: str) -> None:
    meant = WORDS[wrong] & set(inspect.signature(loss).parameters)
    given = (X,) if wrong in ("targets", "labels") else (X, LABELS)
    for call in (loss, value_and_grad(loss), grad(loss)) if meant else ():
        message = told(lambda call=call: call(*given, **{wrong: LABELS}), TypeError)
        assert f"'{wrong}'" in message or f"`{wrong}`" in message
        _, found, suggested = message.lower().partition("did you mean")
        assert found, message
        assert any(one in suggested for one in meant), message


@pytest.mark.parametrize(("wrong", "meant"), [("dim", "axis"), ("keepdim", "keepdims"), ("mask", "where")])
def test_the_word_of_another_library_in_a_function(wrong: str, meant: str) -> None:
    message = told(lambda: al.logsumexp(X, **{wrong: 1}), TypeError)
    assert message.endswith(f"'{wrong}'; did you mean {meant}?")
    if wrong != "keepdim":
        assert f"did you mean {meant}?" in told(lambda: al.softmax(X, **{wrong: 1}), TypeError)


def test_a_word_that_an_objective_passes_on() -> None:
    made = al.objective(al.cross_entropy, class_weights=np.ones(3))
    assert "did you mean class_weight?" in told(lambda: made(LABELS, X), TypeError)


@over_losses
def test_a_word_that_is_like_no_other(loss: Any) -> None:
    """No suggestion is better than a silly one."""
    message = told(lambda: loss(X, LABELS, zzz=1), TypeError)
    assert "zzz" in message
    assert "did you mean" not in message.lower()


@over_losses
def test_a_list_is_told_what_to_do(loss: Any) -> None:
    for x, t, what in (([[0.5, 1.0]], LABELS, "list"), (X, [0, 2], "list"), (((0.5, 1.0),), LABELS, "tuple")):
        message = told(lambda x=x, t=t: loss(x, t), TypeError)
        assert "asarray" in message
        assert what in message


@pytest.mark.parametrize("option", ["sample_weight", "class_weight", "where", "alpha"])
def test_a_list_of_weights_is_told_what_to_do(option: str) -> None:
    given = [True, False] if option == "where" else [1.0, 0.5, 0.25][: 2 if option == "sample_weight" else 3]
    message = told(lambda: al.softmax_focal_loss(X, LABELS, **{option: given}), TypeError)
    assert "asarray" in message
    assert option in message


def test_a_list_of_pos_weights_is_told_what_to_do() -> None:
    message = told(lambda: al.binary_cross_entropy_with_logits(X, X > 0.3, pos_weight=[1.0, 2.0, 3.0]), TypeError)
    assert "asarray" in message


def test_a_list_of_tensors_is_told_what_to_do() -> None:
    torch = pytest.importorskip("torch")
    message = told(lambda: al.cross_entropy([torch.zeros(3), torch.zeros(3)], torch.tensor([0, 1])), TypeError)
    assert "torch.stack" in message or "asarray" in message


def test_batchmean_and_the_like() -> None:
    message = told(lambda: al.kl_divergence_with_logits(X, X, reduction="batchmean"), ValueError)
    assert '"mean"' in message
    message = told(lambda: al.cross_entropy(X, LABELS, reduction=None), (TypeError, ValueError))
    assert '"none"' in message


def test_one_hot_integers() -> None:
    message = told(lambda: al.cross_entropy(X, np.array([[1, 0, 0], [0, 0, 1]])), ValueError)
    assert "float" in message


@pytest.mark.parametrize("loss", [*CATEGORICAL, *BINARY], ids=lambda loss: loss.__name__)
def test_a_column_of_labels(loss: Any) -> None:
    x = X if loss in CATEGORICAL else X[:, 0]
    message = told(lambda: loss(x, LABELS[:, None] > 0 if loss in BINARY else LABELS[:, None]), ValueError)
    assert "(2, 1)" in message
    assert "(2,)" in message
