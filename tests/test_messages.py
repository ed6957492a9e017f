"""Every message that a mistake is met with, in one place to be read; no `raise` in the package is without its line."""

from __future__ import annotations

import ast
import dataclasses
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any

import numpy as np
import pytest

import arrayloss as al
from arrayloss import extending, testing
from arrayloss.compat import keras, kornia, monai, onnx, optax, torch, torchvision
from arrayloss.compat.sklearn import log_loss
from conformance.cases import FUNCTIONS

strict = pytest.importorskip("array_api_strict")


@extending.loss
def halved(logits: Any, target: Any, **options: Any) -> Any:
    made = extending.problem(al.cross_entropy, logits / 2, target, **options)
    return dataclasses.replace(made, restore=lambda g: g / 2)


class Unhashable(extending.CrossEntropy):
    __hash__ = None  # type: ignore[assignment]


class Bare:
    """An array of a library that has next to nothing."""

    dtype, shape, ndim = "float32", (2,), 1

    def __array_namespace__(self, api_version: str | None = None) -> Any:
        return SimpleNamespace(__name__="bare", isdtype=lambda dtype, kind: kind == "real floating", float32="float32")


NAMES: dict[str, Any] = {
    **vars(al),
    "np": np,
    "strict": strict,
    "elsewhere": strict.Device("device1"),
    "log_loss": log_loss,
    "keras": keras,
    "kornia": kornia,
    "monai": monai,
    "onnx": onnx,
    "optax": optax,
    "torchvision": torchvision,
    "like_torch": torch,
    "extending": extending,
    "halved": halved,
    "testing": testing,
    "traced": SimpleNamespace(shape=(), dtype="float32"),  # as much as is asked of a 0-d array that is no constant
    "x": np.asarray([[0.5, 1.0, -1.0], [2.0, 0.0, 1.0]]),
    "labels": np.asarray([0, 2]),
    "bits": np.asarray([[1, 0, 1], [0, 1, 0]]),
    "bare": Bare(),
    "unhashable": Unhashable(),
    "p": np.asarray([[0.5, 0.25, 0.25], [0.25, 0.5, 0.25]]),
}

ARRAY = "must be an array (of NumPy, PyTorch, JAX, CuPy, or any other library of the array API standard), not"

SERVED = "float16, bfloat16, float32, float64, where the library itself has them"

WHERE = "where must be an array of bool, not of"

JUDGED = ", ".join(sorted(FUNCTIONS))

MESSAGES = [
    (
        "objective(like_torch.multilabel_soft_margin_loss)(p, x)",
        TypeError,
        "second derivatives are there for the sum of the losses, and this loss is divided by a number",
    ),
    # A linear layer.
    (
        "linear_cross_entropy(x, p[:, :2], labels)",
        ValueError,
        "weight has shape (2, 2) and hidden (2, 3): the logits are hidden @ weight.T, so weight must have shape "
        "(classes, 3), with one class at least",
    ),
    (
        "linear_cross_entropy(x, p, labels, bias=labels * 1.0 + np.ones((3, 1)))",
        ValueError,
        "bias has shape (3, 2), and must have (2,), one for each class",
    ),
    (
        "linear_cross_entropy(x, bits, labels)",
        TypeError,
        "weight must be an array of floating-point numbers, not of int64",
    ),
    (
        "like_torch.linear_cross_entropy(x, p, labels, options=3)",
        TypeError,
        "options choose how torch cuts its blocks; leave them out: here the loss is always in blocks",
    ),
    (
        "like_torch.linear_cross_entropy(np.zeros((2, 2, 3)), p, labels)",
        ValueError,
        "input must be (D,) or (N, D), not (2, 2, 3)",
    ),
    (
        "like_torch.linear_cross_entropy(x, p, p[:, :2], ignore_index=1)",
        ValueError,
        "ignore_index 1 goes with integer labels; a target of probabilities has none",
    ),
    # What is no array, or none of numbers.
    (
        "cross_entropy([[0.5, 1.0]], labels)",
        TypeError,
        f"logits {ARRAY} a list; make an array of it, for example by asarray",
    ),
    (
        "sigmoid(bare)",
        TypeError,
        "bare lacks float64, a part of the array API standard that is needed here",
    ),
    # A tensor of a library that is none of the standard, such as TensorFlow.
    (
        "cross_entropy(type('Tensor', (), {'__module__': 'other.ops', '__array__': x.__array__})(), labels)",
        TypeError,
        f"logits {ARRAY} a Tensor of other; make an array of it, for example by asarray",
    ),
    ("nll_loss('x', labels)", TypeError, f"log_probs {ARRAY} 'x'"),
    (
        "cross_entropy(x, labels, class_weight={0: 1.0, 1: 2.0, 2: 1.0})",
        TypeError,
        f"class_weight {ARRAY} a dict; make an array of its values, in the order of the classes",
    ),
    (
        'cross_entropy(x, labels, class_weight="balanced")',
        TypeError,
        f"class_weight {ARRAY} 'balanced'; balanced_class_weight(labels, classes) makes such an array",
    ),
    ("cross_entropy(x, [0, 2])", TypeError, f"target {ARRAY} a list; make an array of it, for example by asarray"),
    ("cross_entropy(x, None)", TypeError, "target must be an array, not None"),
    (
        "sigmoid_focal_loss(x, bits, alpha=[0.5, 0.25, 1.0])",
        TypeError,
        f"alpha {ARRAY} a list; make an array of it, for example by asarray",
    ),
    (
        "softmax(labels)",
        TypeError,
        f"x must be an array of real floating-point numbers ({SERVED}), not of int64; "
        "cast it first, for example to float32",
    ),
    (
        "cross_entropy(x, labels > 0)",
        TypeError,
        "target must be integer labels or floating-point probabilities, not bool",
    ),
    (
        "sigmoid_focal_loss(x, x + 0j)",
        TypeError,
        f"target must be an array of real numbers (bool, integers, {SERVED}), not of complex128",
    ),
    ("cross_entropy(x, labels, where=labels)", TypeError, f"{WHERE} int64; for a mask of 0 and 1, pass mask != 0"),
    (
        "cross_entropy(np.ma.asarray(x), labels)",
        TypeError,
        "logits is a masked array: pass its data, and where=~mask for the samples that count",
    ),
    (
        "cross_entropy(x, labels.astype(float))",
        ValueError,
        "target has shape (2,), that of labels, but is of float64: labels must be integers, so "
        "cast them, as by target.astype(int) or target.long(); probabilities have shape (2, 3), one number for each "
        "logit",
    ),
    (
        "cross_entropy(x, p, ignore_index=1)",
        ValueError,
        "ignore_index=1 is for integer labels and has no effect on probabilities: leave samples out with "
        "where= or sample_weight=",
    ),
    (
        "cross_entropy(x, labels, weight=np.ones(3))",
        TypeError,
        "cross_entropy() got an unexpected keyword argument 'weight'; did you mean class_weight or sample_weight?",
    ),
    (
        "cross_entropy(x, target=labels)",
        TypeError,
        "cross_entropy() takes target by position: pass it without its name",
    ),
    ("softmax(x=x)", TypeError, "softmax() takes x by position: pass it without its name"),
    ("cross_entropy(x, labels, zzz=1)", TypeError, "cross_entropy() got an unexpected keyword argument 'zzz'"),
    ("type('Mine', (extending.Reduction,), {})", TypeError, "the Reduction Mine lacks parts"),
    (
        "extending.categorical(extending.sigmoid, extending.CrossEntropy(), x, labels)",
        TypeError,
        "the link of a loss must be an object of a subclass of Link, not a _SigmoidLink of arrayloss",
    ),
    (
        "extending.binary(extending.sigmoid, extending.CrossEntropy, x, bits)",
        TypeError,
        "the penalty of a loss must be an object of a subclass of Penalty, not a type",
    ),
    (
        "extending.loss(lambda x, t, /: None)(x, labels)",
        TypeError,
        "<lambda> must return what categorical, binary, paired or problem returns, not NoneType",
    ),
    (
        "extending.categorical(extending.softmax, unhashable, x, labels)",
        TypeError,
        "Unhashable has no hash: make it a frozen dataclass",
    ),
    ("__import__('arrayloss').nowhere", AttributeError, "module 'arrayloss' has no attribute 'nowhere'"),
    ("__import__('arrayloss').nn.flax", AttributeError, "module 'arrayloss.nn' has no attribute 'flax'"),
    # Arrays that don't go together.
    (
        "cross_entropy(x, strict.asarray(labels))",
        TypeError,
        "logits is an array of numpy, and target is one of array_api_strict; pass arrays of one library",
    ),
    (
        "cross_entropy(x, labels, reduction=Mean(over=strict.asarray(3.0)))",
        TypeError,
        "logits is an array of numpy, and over is one of array_api_strict; pass arrays of one library",
    ),
    (
        "cross_entropy(strict.asarray(x), strict.asarray(labels, device=elsewhere))",
        ValueError,
        "logits is on device array_api_strict.Device('CPU_DEVICE') and target on array_api_strict.Device('device1'); "
        "move them to one device",
    ),
    # Shapes.
    (
        "cross_entropy(x, bits)",
        ValueError,
        "target has shape (2, 3) and the logits have shape (2, 3): integers are labels, without the class axis "
        "(axis -1), so target must have shape (2,); one-hot targets must be floats, so cast them, as by "
        "target.astype(float)",
    ),
    (
        "cross_entropy(x[:, :2], np.asarray([0, 1, 1]))",
        ValueError,
        "target has shape (3,) and the logits have shape (2, 2): integers are labels, without the class axis (axis "
        "-1), so target must have shape (2,); nothing is broadcast here",
    ),
    (
        "cross_entropy(x, np.asarray([0, 1, 1]))",
        ValueError,
        "target has shape (3,) and the logits have shape (2, 3): integers are labels, without the class axis (axis "
        "-1), so target must have shape (2,); if the classes are on axis 0, pass axis=0",
    ),
    (
        "cross_entropy(labels, x)",
        TypeError,
        f"logits must be an array of real floating-point numbers ({SERVED}), not of int64; "
        "cast it first, for example to float32; if it is the target, pass it second",
    ),
    (
        "cross_entropy(x, x[:, :2])",
        ValueError,
        "target has shape (2, 2) and the logits have shape (2, 3): probabilities have one number for each logit, so "
        "target must have shape (2, 3); nothing is broadcast here",
    ),
    (
        "binary_cross_entropy_with_logits(x[:, :1], bits[:, 0])",
        ValueError,
        "target has shape (2,) and the logits have shape (2, 1): the loss is elementwise, so target must have shape "
        "(2, 1); nothing is broadcast here",
    ),
    (
        "cross_entropy(x, labels, class_weight=np.ones(2))",
        ValueError,
        "class_weight has shape (2,) and the logits have shape (2, 3): there is one number for each class, so "
        "class_weight must have shape (3,); nothing is broadcast here",
    ),
    (
        "cross_entropy(x, labels, sample_weight=np.ones(3))",
        ValueError,
        "sample_weight has shape (3,), which does not broadcast to (2,), the shape of what it applies to",
    ),
    ("cross_entropy(x[:, :0], labels)", ValueError, "logits of shape (2, 0) have no classes along axis -1"),
    (
        "sigmoid_focal_loss(x, bits, alpha=np.ones(2))",
        ValueError,
        "alpha has shape (2,), which does not broadcast to (2, 3), the shape of what it applies to",
    ),
    ("balanced_class_weight(x, 3)", TypeError, "labels must be an array of integers, not of float64"),
    ("balanced_class_weight(labels, np.arange(3))", TypeError, "classes must be an int, not a ndarray of numpy"),
    ("balanced_class_weight(labels, 0)", ValueError, "classes must be an int of at least 1, not 0"),
    # Labels.
    (
        "cross_entropy(x, labels + 1)",
        ValueError,
        "label 3 at position (1,) is out of range: the logits have 3 classes, so labels must be in [0, 3), or "
        "-100 to be ignored",
    ),
    (
        "binary_cross_entropy_with_logits(x, 2 * bits)",
        ValueError,
        "label 2 at position (0, 0) is out of range: a binary target must be 0 or 1; ignore_index= leaves a target out",
    ),
    (
        "binary_cross_entropy_with_logits(x, 1.5 * bits)",
        ValueError,
        "probability 1.5 at position (0, 0) is out of range: a binary target must be in [0, 1]; ignore_index= leaves a "
        "target out",
    ),
    # Options.
    ("cross_entropy(x, labels, axis=1.0)", TypeError, "axis must be an int, not 1.0"),
    (
        "cross_entropy(x, labels, axis=2)",
        ValueError,
        "axis 2 is out of range: the array has 2 dimensions, so axis must be from -2 to 1",
    ),
    (
        "log_softmax(x[0], axis=1)",
        ValueError,
        "axis 1 is out of range: the array has 1 dimension, so axis must be from -1 to 0",
    ),
    (
        "softmax(x[0, 0])",
        ValueError,
        "there must be at least one dimension, the class axis; this array is 0-dimensional",
    ),
    (
        "cross_entropy(x, labels, label_smoothing=1.5)",
        ValueError,
        "label_smoothing must be between 0 and 1, not 1.5",
    ),
    ("cross_entropy(x, labels, label_smoothing=None)", TypeError, "label_smoothing must be a real number, not None"),
    (
        "cross_entropy(x, labels, temperature=0)",
        ValueError,
        "temperature must be a finite number above 0, not 0",
    ),
    (
        "softmax_focal_loss(x, labels, gamma=np.asarray([1.0, np.inf, 0.0]))",
        ValueError,
        "gamma inf at position (1,) is out of range: gamma must hold finite numbers of at least 0",
    ),
    (
        "softmax_focal_loss(x, labels, gamma=-0.5)",
        ValueError,
        "gamma must be a finite number of at least 0, not -0.5",
    ),
    (
        "softmax_focal_loss(x, labels, alpha=np.asarray([0.5, 2.0, -1.0]))",
        ValueError,
        "alpha 2 at position (1,) is out of range: alpha must be between 0 and 1",
    ),
    (
        "cross_entropy(x, labels, ignore_index='none')",
        TypeError,
        "ignore_index must be an int, a tuple of these, or None where no label is ignored, not 'none'",
    ),
    (
        "cross_entropy(x, labels, dtype='float32')",
        TypeError,
        f"dtype must be one of numpy's own real floating-point dtypes ({SERVED}), not 'float32'",
    ),
    # Reductions.
    (
        "cross_entropy(x, labels, reduction='average')",
        ValueError,
        'reduction must be "none", "mean" or "sum", or one such as Mean(), Sum() or Hardest(k=3), not \'average\'',
    ),
    (
        "Mean(over='batch')",
        ValueError,
        'over must be "weight", "valid", "all", a number or a 0-d array, not \'batch\'',
    ),
    ("Mean(empty=0)", ValueError, 'empty must be "nan" or "zero", not 0'),
    (
        "Hardest()",
        ValueError,
        "Hardest takes fraction= or k=, one of the two, or threshold=, alone or with one of these",
    ),
    ("Hardest(threshold=-1)", ValueError, "threshold must be a finite number of at least 0, not -1"),
    ("Hardest(fraction=1.5)", ValueError, "fraction must be above 0 and at most 1, not 1.5"),
    ("Hardest(k=0)", ValueError, "k must be an int of at least 1, not 0"),
    # Focal losses that are maps elsewhere.
    (
        "kornia.focal_loss(x, labels, None)",
        ValueError,
        'reduction must be "mean" or "sum"; for "none" there is arrayloss.softmax_focal_loss, by pixel',
    ),
    (
        "monai.FocalLoss(x, p, reduction='none', use_softmax=True)",
        ValueError,
        'with a softmax, reduction must be "mean" or "sum"',
    ),
    # Gradients.
    (
        "value_and_grad(len)",
        TypeError,
        "value_and_grad takes a loss of arrayloss, such as cross_entropy, not len; its options go to the function that "
        "comes back",
    ),
    (
        "grad(cross_entropy)(x, labels, reduction='none')",
        TypeError,
        "the result has the shape (2,): for a gradient, pass cotangent=, an array of that shape (ones, for the "
        "gradient of the sum)",
    ),
    (
        "grad(cross_entropy)(x, labels, cotangent=np.ones(2))",
        TypeError,
        'cotangent= goes with reduction="none" or Mean(axis=...); this result is one number',
    ),
    (
        "cross_entropy(x, labels, reduction=Mean(axis=(0, -1)))",
        ValueError,
        "axis (0, -1) of a reduction is out of range or named twice: the losses have shape (2,)",
    ),
    # As in other libraries.
    (
        "like_torch.cross_entropy(x, abs(x), ignore_index=0)",
        ValueError,
        "ignore_index 0 goes with integer labels; a target of probabilities has none",
    ),
    (
        "log_loss(['ham', 'ham'], p[:, 0])",
        ValueError,
        "log_loss needs two labels at least, and there is ['ham']; pass labels=",
    ),
    (
        "log_loss(['ham', 'eggs'], p, labels=['ham', 'spam'])",
        ValueError,
        "y_true holds ['eggs'], which labels=['ham', 'spam'] does not",
    ),
    (
        "log_loss(['ham', 'spam'], p)",
        ValueError,
        "there are 2 labels, and y_proba has 3 columns; pass labels=",
    ),
    ("log_loss(['ham', 'spam'], p[0])", ValueError, "y_proba is of 3 samples and y_true of 2"),
    ("log_loss(labels, abs(x[0, 0]))", ValueError, "y_proba must have shape (N, C), (N, 1) or (N,), not ()"),
    (
        "log_loss(labels, x)",
        ValueError,
        "y_proba -1 at position (0, 2) is out of range: y_proba must be between 0 and 1",
    ),
    ("log_loss(labels, x, y_pred=x)", TypeError, "y_pred is the old name of y_proba; pass one of the two"),
    (
        "like_torch.cross_entropy(x, bits)",
        ValueError,
        "target has shape (2, 3) and input has shape (2, 3): labels have no class axis (axis 1), so target must have "
        "shape (2,); nothing is broadcast here",
    ),
    (
        "keras.binary_crossentropy(bits[0], x)",
        ValueError,
        "y_true has shape (3,) and y_pred has shape (2, 3): each number of y_pred has its own, so y_true must have "
        "shape (2, 3); nothing is broadcast here",
    ),
    (
        "onnx.SoftmaxCrossEntropyLoss(x, labels, np.ones(2))",
        ValueError,
        "weights has shape (2,) and scores has shape (2, 3): there is one number for each class, so weights must have "
        "shape (3,); nothing is broadcast here",
    ),
    ("like_torch.nll_loss(x, x)", TypeError, "target must be integers, not float64"),
    (
        "keras.binary_crossentropy(bits, x, epsilon=0.5)",
        ValueError,
        "epsilon must be at least 0 and less than 0.5, not 0.5",
    ),
    (
        "keras.binary_crossentropy(bits, x, epsilon=traced)",
        TypeError,
        "epsilon must be a number that is known at the call, not a traced value",
    ),
    (
        "keras.sparse_categorical_crossentropy(labels, x, ignore_class=0.5)",
        TypeError,
        "ignore_class must be an int or None, not 0.5",
    ),
    (
        "keras.binary_crossentropy(bits[:0], x[:0], axis=0)",
        ValueError,
        "y_pred of shape (0, 3) has nothing along axis 0 to take the mean of",
    ),
    (
        "optax.softmax_cross_entropy(x, x, axis=(1, -1))",
        ValueError,
        "axis names one axis twice: (1, -1)",
    ),
    (
        "optax.softmax_cross_entropy_with_integer_labels(x, labels, axis=None)",
        TypeError,
        "axis must be an int or a tuple of them, not None, where labels are integers",
    ),
    # Of arrayloss.testing.
    (
        "testing.ulp_distance(labels, labels)",
        ValueError,
        "an array of int64 has no ULP: give dtype, one of float16, bfloat16, float32, float64",
    ),
    (
        "testing.ulp_distance(x, x[0])",
        ValueError,
        "numbers of shape (2, 3) against exact ones of shape (3,)",
    ),
    (
        "testing.measure(x, testing.Exact(x[0], x[0], x[0]), 'float32', 4.0, x)",
        ValueError,
        "shape (2, 3) came back, (3,) was due",
    ),
    (
        "testing.backend('tensorflow')",
        ValueError,
        "no array library 'tensorflow'; there are numpy, torch:cpu, jax:cpu, array-api-strict, dask, torch:cuda, "
        "jax:cuda, cupy",
    ),
    ("testing.backend('numpy').differentiate(sum, {})", TypeError, "numpy has no autodiff"),
    (
        "testing.assert_conforms(cross_entropy, library='numpy')",
        ValueError,
        "numpy has no autodiff: give value_and_grad, or gradient=False to judge values alone",
    ),
    ("testing.assert_same(sigmoid, sigmoid, [])", ValueError, "no cases to compare by"),
    (
        "testing.assert_same(sigmoid, sigmoid, [([1.0],)], libraries=('numpy', 'numpy'))",
        ValueError,
        "numpy has no autodiff: give gradient=False to compare values alone",
    ),
    # Second derivatives.
    (
        "objective(optax.sigmoid_focal_loss)",
        TypeError,
        "objective takes a loss of logits, a target and reduction=, such as cross_entropy; sigmoid_focal_loss of "
        "arrayloss.compat.optax takes logits, labels, alpha, gamma",
    ),
    (
        "objective(torchvision.sigmoid_focal_loss)(bits, x)",
        TypeError,
        "BlendedFocal, the formula of this loss, has no second derivatives in closed form",
    ),
    (
        "objective(cross_entropy, reduction='sum')",
        TypeError,
        "an objective has no reduction: a booster sums over the samples of each leaf",
    ),
    (
        "objective(cross_entropy, min_hessian=0)",
        ValueError,
        "min_hessian must be a finite number above 0, not 0",
    ),
    (
        "objective(cross_entropy)(np.asarray([0.5, 1.0]), x)",
        ValueError,
        "y_true must hold whole numbers, the classes, and does not",
    ),
    (
        "objective(nll_loss)(labels, x)",
        TypeError,
        "second derivatives are there for losses of logits",
    ),
    (
        "objective(halved)(labels, x)",
        TypeError,
        "second derivatives are there by the logits themselves, and these were made of another array",
    ),
    (
        "objective(keras.binary_crossentropy)",
        TypeError,
        "objective takes a loss of logits, a target and reduction=, such as cross_entropy; binary_crossentropy of "
        "arrayloss.compat.keras takes y_true, y_pred, from_logits, label_smoothing, axis, epsilon",
    ),
    (
        "objective(torchvision.sigmoid_focal_loss)(bits, x)",
        TypeError,
        "BlendedFocal, the formula of this loss, has no second derivatives in closed form",
    ),
    ("softmax(x, dim=1)", TypeError, "softmax() got an unexpected keyword argument 'dim'; did you mean axis?"),
    # Two arrays of logits.
    (
        "kl_divergence_with_logits(x, labels)",
        TypeError,
        "target_logits must be an array of real floating-point numbers, not of int64",
    ),
    (
        "kl_divergence_with_logits(np.zeros((2, 0)), np.zeros((2, 0)))",
        ValueError,
        "logits of shape (2, 0) have no classes along axis -1",
    ),
    (
        "optax.softmax_cross_entropy_with_integer_labels(x, x)",
        TypeError,
        "labels must be integers, not float64",
    ),
    (
        "extending.documented(extending.AnswerOptions)(sum)",
        TypeError,
        "the docstring of sum does not fit its signature: iterable, start",
    ),
    (
        "testing._vectors._installed('no_such_package')",
        ModuleNotFoundError,
        "the golden vectors are not installed: they are in the package arrayloss-conformance, which "
        'pip install "arrayloss[conformance]" installs',
    ),
    ("testing.vectors('hinge')", ValueError, f"no golden vectors of 'hinge'; there are {JUDGED}"),
    ("testing._vectors.parse('{\"schema\": 0}')", ValueError, "vectors of schema 0; this reads 1"),
    (
        "testing.assert_conforms(sum)",
        ValueError,
        f"sum says nothing of what it is judged as: give as_, one of {JUDGED}",
    ),
    (
        "testing.assert_conforms(sum, 'hinge')",
        ValueError,
        f"hinge is no function that can be judged; {JUDGED}",
    ),
    (
        "testing.assert_conforms(lambda x: 1 / 0, 'sigmoid', library='numpy', gradient=False)",
        ValueError,
        "no library's arrays are taken: numpy: ZeroDivisionError: division by zero",
    ),
    (
        "testing.assert_conforms(lambda y_true, y_pred: 1 / 0, 'nll_loss', library='numpy', gradient=False)",
        ValueError,
        "<lambda> takes the target first; it is called with the logits first: judge a function with its arguments in "
        "that order, such as def judged(logits, target): return <lambda>(target, logits)",
    ),
    (
        "testing._backends._fits(x, labels)",
        testing._backends.WrongShape,
        "a result of shape (2, 3), and a cotangent of shape (2,)",
    ),
]


def raised(call: str) -> BaseException:
    try:
        eval(call, dict(NAMES))
    except Exception as error:
        return error
    raise AssertionError(f"{call} raised nothing")


@pytest.mark.parametrize(("call", "kind", "message"), MESSAGES, ids=[call for call, _, _ in MESSAGES])
def test_what_is_said(call: str, kind: type[Exception], message: str) -> None:
    error = raised(call)
    assert (type(error), str(error)) == (kind, message)


APART = ("raise AssertionError", "raise NotImplementedError")
PACKAGE = Path(al.__file__).parent


def places() -> set[tuple[str, int, int]]:
    """Every `raise` of the package, but for what a test asserts, what a class leaves to others, and what is said of
    losses of one's own (test_adding_a_loss.py)."""
    found = set()
    for path in [path for path in PACKAGE.rglob("*.py") if "_kernels" not in str(path)]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Raise) and node.exc and not ast.unparse(node).startswith(APART):
                assert node.end_lineno is not None
                found.add((str(path.relative_to(PACKAGE)), node.lineno, node.end_lineno))
    return found


def place(trace: TracebackType | None) -> tuple[str, int]:
    """Where an exception was raised."""
    assert trace is not None
    while trace.tb_next is not None:
        trace = trace.tb_next
    return str(Path(trace.tb_frame.f_code.co_filename).relative_to(PACKAGE)), trace.tb_lineno


def test_every_raise_has_its_line_above() -> None:
    reached = {place(raised(call).__traceback__) for call, _, _ in MESSAGES}
    unread = {
        f"{path}:{first}"
        for path, first, last in places()
        if not any(path == name and first <= line <= last for name, line in reached)
    }
    assert unread == set()
