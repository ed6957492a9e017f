"""From the loss of each sample to the number that is asked for."""

from __future__ import annotations

import math
import numbers
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple, SupportsFloat

from arrayloss import _checks
from arrayloss._backends import Backend
from arrayloss._kernels.ops import Array, Complete


class Samples(NamedTuple):
    """What a reduction knows of the samples: number, which count (None: all), what they weigh (None: 1), shape."""

    backend: Backend
    number: int
    valid: Array | None
    weight: Array | None
    shape: tuple[int, ...]


class Parts(NamedTuple):
    """A reduction's value is sum(share * loss) / denominator, or `empty` where the denominator is 0.

    A `share` of None stands for 1. The sum is over all samples, or over the axes in `axis` (counted from the front,
    ascending): then there is one result for each position along the other axes.
    """

    share: Array | None
    denominator: Array | float
    empty: float = float("nan")
    axis: tuple[int, ...] | None = None


class Reduction(Complete):
    """The base of all reductions: a hashable object (a frozen dataclass) with one method.

    `parts(samples, losses)` returns the `Parts` of the result. `losses` are those of the samples if the class says
    `ranks = True`. Otherwise they are None, so that the gradient is computed in the same pass as the losses.
    """

    ranks: ClassVar[bool] = False

    @abstractmethod
    def parts(self, samples: Samples, losses: Array | None) -> Parts: ...


@dataclass(frozen=True)
class Sum(Reduction):
    """The sum of the losses of all samples, or along some axes; 0 if there are no samples.

    Parameters
    ----------
    axis : int or tuple of int, optional
        The axes to sum along, in the shape of the losses. Without it, the result is one number.

    Raises
    ------
    ValueError
        In the call of a loss, if the losses have no such axis.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import Sum, binary_cross_entropy_with_logits
    >>> x, y = np.zeros(4), np.asarray([0, 1, 1, 0])
    >>> float(binary_cross_entropy_with_logits(x, y, reduction=Sum()))
    2.772588722239781
    """

    axis: int | tuple[int, ...] | None = None

    def parts(self, samples: Samples, losses: Array | None) -> Parts:
        return Parts(None, 1.0, axis=_checks.axes(self.axis, samples.shape))


@dataclass(frozen=True)
class Mean(Reduction):
    """The mean of the losses.

    Parameters
    ----------
    over : {"weight", "valid", "all"}, number or 0-d array
        What the sum is divided by. "weight": the sum of the weights. "valid": the number of samples that are neither
        ignored nor masked. "all": the number of all samples. A number: that number.
    empty : {"nan", "zero"}
        The mean where the divisor is 0, for example of no samples.
    axis : int or tuple of int, optional
        The axes of the losses to take means along. For losses of shape (batch, sequence), `axis=1` gives one mean for
        each sequence. Each mean has its own divisor, of its own samples. The gradient of several means needs
        `cotangent=`. Without `axis`, the result is one number.

    Raises
    ------
    ValueError
        If `over` or `empty` is none of these; in the call of a loss, if the losses have no such axis.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import Mean, cross_entropy
    >>> x, t = np.zeros((2, 4)), np.asarray([1, -100])
    >>> float(cross_entropy(x, t)), float(cross_entropy(x, t, reduction=Mean(over="all")))
    (1.3862943611198906, 0.6931471805599453)
    >>> x, t = np.zeros((2, 3, 4)), np.asarray([[1, 2, -100], [-100, -100, -100]])
    >>> cross_entropy(x, t, reduction=Mean(axis=1, empty="zero")).tolist()
    [1.3862943611198906, 0.0]
    """

    over: Literal["weight", "valid", "all"] | SupportsFloat = "weight"
    empty: Literal["nan", "zero"] = "nan"
    axis: int | tuple[int, ...] | None = None

    def __post_init__(self) -> None:
        named = isinstance(self.over, str) and self.over in ("weight", "valid", "all")
        number = isinstance(self.over, numbers.Real) and not isinstance(self.over, bool)
        if not named and not number and not getattr(self.over, "ndim", None) == 0:
            raise ValueError(f'over must be "weight", "valid", "all", a number or a 0-d array, not {self.over!r}')
        if self.empty not in ("nan", "zero"):
            raise ValueError(f'empty must be "nan" or "zero", not {self.empty!r}')

    def parts(self, samples: Samples, losses: Array | None) -> Parts:
        over: Array | float
        axis = _checks.axes(self.axis, samples.shape)
        if not isinstance(self.over, str):
            # An np.float64 becomes a Python float: it has a dtype, and would be taken for an array (`_divided`).
            over = _checks.scalar(self.over) if isinstance(self.over, numbers.Real) else self.over
            if not isinstance(over, (int, float)):
                _checks.shared(samples.backend, "logits", "over", over)
        elif self.over == "weight" and samples.weight is not None:
            over = samples.backend.sum(samples.weight, axis)
        elif self.over != "all" and samples.valid is not None:
            over = samples.backend.count(samples.valid, axis)
        else:
            over = samples.number if axis is None else math.prod(samples.shape[i] for i in axis)
        return Parts(None, over, 0.0 if self.empty == "zero" else float("nan"), axis)


@dataclass(frozen=True)
class Hardest(Reduction):
    """The mean of the largest losses: online hard example mining.

    All samples are ranked together, whatever the shape of the losses. Those that are ignored or masked don't take
    part. Losses that tie for the last places share these equally, in the value and in the gradient, so that neither
    depends on the order of the samples. The mean of no samples is nan, and its gradient is 0.

    Other libraries compare the label's probability with a threshold p; for a cross-entropy without weights, a
    probability below p is a loss above -log p. MMSegmentation's ``OHEMPixelSampler(thresh=p, min_kept=n)`` keeps the
    pixels of ``Hardest(threshold=-log(p), k=n * images)`` (its mean is over all pixels), BiSeNet's ``OhemCELoss(p)``
    is ``Hardest(threshold=-log(p), fraction=1 / 16)``, and Detectron2's ``DeepLabCE``, without a threshold,
    ``Hardest(fraction=top_k_percent_pixels)``.

    Parameters
    ----------
    fraction : float in (0, 1], optional
        The fraction of the samples that counts: `int(fraction * samples)` samples, at least one.
    k : int >= 1, optional
        The number of samples that counts (all, where there are fewer).
    threshold : scalar >= 0, optional
        All samples whose loss, times its weight, is larger than this number count. If `fraction` or `k` is given too,
        at least that many samples count.

    Raises
    ------
    ValueError
        If none of the three is given, or both `fraction` and `k`, or one is out of its range.

    References
    ----------
    Shrivastava, Gupta and Girshick, "Training Region-based Object Detectors with Online Hard Example Mining",
    CVPR 2016.
    The code of the others: github.com/open-mmlab/mmsegmentation, mmseg/structures/sampler/ohem_pixel_sampler.py;
    github.com/CoinCheung/BiSeNet, bisenetv2/ohem_ce_loss.py; github.com/facebookresearch/detectron2,
    projects/DeepLab/deeplab/loss.py.

    Examples
    --------
    >>> import numpy as np
    >>> from arrayloss import Hardest, binary_cross_entropy_with_logits
    >>> x, y = np.asarray([-3.0, 0.0, 0.0, 5.0]), np.asarray([0, 1, 0, 1])
    >>> float(binary_cross_entropy_with_logits(x, y, reduction=Hardest(fraction=0.5)))
    0.6931471805599453
    >>> float(binary_cross_entropy_with_logits(x, y, reduction=Hardest(threshold=1.0, k=1)))
    0.6931471805599453
    """

    ranks: ClassVar[bool] = True
    fraction: float | None = None
    k: int | None = None
    threshold: SupportsFloat | None = None

    def __post_init__(self) -> None:
        given = (self.fraction is not None) + (self.k is not None)
        if given == 2 or (not given and self.threshold is None):
            raise ValueError("Hardest takes fraction= or k=, one of the two, or threshold=, alone or with one of these")
        if self.threshold is not None:
            _checks.at_least("threshold", 0, self.threshold)
        if self.fraction is not None and not 0 < _checks.real("fraction", self.fraction) <= 1:
            raise ValueError(f"fraction must be above 0 and at most 1, not {self.fraction!r}")
        if self.k is not None and _checks.integer("k", self.k) < 1:
            raise ValueError(f"k must be an int of at least 1, not {self.k!r}")

    def parts(self, samples: Samples, losses: Array | None) -> Parts:
        backend, valid = samples.backend, samples.valid
        xp = backend.xp
        assert losses is not None  # as `ranks` is True
        n = samples.number
        # Not if n is an array that a graph counts. isinstance first: torch.compile can't trace hasattr of a symbol.
        if (isinstance(n, int) or not hasattr(n, "dtype")) and not n:
            return Parts(None, 0)
        flat = xp.reshape(losses, (-1,))
        if valid is None and not isinstance(n, int):
            # A symbolic length (torch.export, jax.export): the exported program counts the samples.
            valid = xp.ones_like(losses, dtype=xp.bool)
        if valid is None:
            least = 0 if self.fraction is None else max(1, int(n * float(self.fraction)))
            most = self.k if self.k is not None else least
            k = backend.number(float(min(n, most)), flat, flat.dtype)
        else:
            # Samples that don't count become -inf, below every loss; a nan sorts above +inf.
            flat = xp.where(xp.reshape(valid, (-1,)), flat, xp.full_like(flat, -float("inf")))
            # In float64 where there is one, as `int(fraction * n)` without a mask.
            number = backend.sum(xp.astype(valid, flat.dtype))
            if self.k is not None:
                k = xp.minimum(number, xp.full_like(number, float(self.k)))
            else:
                k = xp.floor(number * float(self.fraction or 0))
                k = xp.where(number > 0, xp.maximum(k, xp.ones_like(k)), k) if self.fraction is not None else k
            k = xp.astype(k, flat.dtype)
        if self.threshold is not None:
            # A nan counts as larger, so that the result is nan.
            larger = backend.count(~(flat <= _checks.scalar(self.threshold)))
            k = xp.maximum(k, xp.astype(larger, flat.dtype))
        ordered = xp.sort(backend.gathered(flat), descending=True)
        places = backend.arange(n, ordered)
        # The smallest of the k largest losses, without an index that depends on the data.
        last = xp.min(xp.where(places < k, ordered, xp.full_like(ordered, float("inf"))))
        above = xp.astype(flat > last, flat.dtype)
        level = xp.astype(flat == last, flat.dtype)
        ties = xp.sum(level)
        share = above + level * (k - xp.sum(above)) / xp.where(ties == 0, xp.ones_like(ties), ties)
        share = xp.where(xp.isnan(last), last, share)
        return Parts(share if losses.ndim == 1 else xp.reshape(share, losses.shape), k)


NAMED: dict[str, Reduction | None] = {"none": None, "mean": Mean(), "sum": Sum()}
"""The reductions that have a name."""
