"""The parts from which you make your own loss. All names here are public; `docs/adding-a-loss.md` uses them.

- A loss is a function that is decorated with `loss` and returns a `Problem`. `categorical` and `binary` make one from a
  link and a penalty; `problem(other_loss, ...)` returns that of another loss.
- A penalty (`Penalty`) says what a `Probability` costs. A link (`Link`, `BinaryLink`) computes the probabilities from
  an array: `softmax`, `given_log_probabilities`, `sigmoid`, `given_probabilities`.
- `**options: Unpack[ClassOptions]` adds the options that several losses have; there are more such classes. `loss` knows
  their names, defaults and descriptions. `documented` completes a docstring from your own table.
- `linear` makes a loss of the output of a linear layer, which is never held whole.
- If a formula is not a penalty of a probability, write a `Kernel`; `paired` turns it into a loss. It returns a
  `Forward`, and uses the operations of `Ops`.
- A reduction (`Reduction`) returns `Parts` for given `Samples`.
- `backend_of` returns the backend of the library that the arrays belong to; all must belong to the same one. It and the
  `check_` functions raise errors that contain the names of your own arguments.
"""

from arrayloss._checks import at_least as check_at_least
from arrayloss._checks import backend as backend_of
from arrayloss._checks import broadcastable as check_broadcastable
from arrayloss._checks import class_axis as check_axis
from arrayloss._checks import fraction as check_fraction
from arrayloss._checks import given as check_given
from arrayloss._checks import mask as check_mask
from arrayloss._checks import same_shape as check_same_shape
from arrayloss._checks import within as check_within
from arrayloss._kernels.divergence import GivenKullbackLeibler
from arrayloss._kernels.ops import Forward, Kernel, Ops, Position, Vjp
from arrayloss._kernels.penalties import CrossEntropy, Focal, Generalized, Penalty, Probability, expm1
from arrayloss._kernels.sigmoid import BinaryLink, BinaryLoss, BinaryVjp, given_probabilities, sigmoid
from arrayloss._kernels.softmax import FromTarget, Link, given_log_probabilities, softmax, weighted
from arrayloss._options import AnswerOptions, ClassOptions, ElementOptions, LabelOptions, RowOptions, Scalar, documented
from arrayloss._problem import Problem, binary, categorical, linear, paired
from arrayloss.gradients import loss, problem
from arrayloss.reductions import Parts, Reduction, Samples

__all__ = [
    "AnswerOptions",
    "BinaryLink",
    "BinaryLoss",
    "BinaryVjp",
    "ClassOptions",
    "CrossEntropy",
    "ElementOptions",
    "Focal",
    "Forward",
    "FromTarget",
    "Generalized",
    "GivenKullbackLeibler",
    "Kernel",
    "LabelOptions",
    "Link",
    "Ops",
    "Parts",
    "Penalty",
    "Position",
    "Probability",
    "Problem",
    "Reduction",
    "RowOptions",
    "Samples",
    "Scalar",
    "Vjp",
    "backend_of",
    "binary",
    "categorical",
    "check_at_least",
    "check_axis",
    "check_broadcastable",
    "check_fraction",
    "check_given",
    "check_mask",
    "check_same_shape",
    "check_within",
    "documented",
    "expm1",
    "given_log_probabilities",
    "given_probabilities",
    "linear",
    "loss",
    "paired",
    "problem",
    "sigmoid",
    "softmax",
    "weighted",
]
