"""The pytest plugin, there as soon as `arrayloss` is installed: the fixture `array_library`.

pytest imports this module in every run on a machine, so it imports neither `arrayloss` nor NumPy before a test asks for
the fixture. A module within the package could not: it would be imported together with the package.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from arrayloss.testing import Backend

# Those of `arrayloss.testing.backends()`, in the same order.
NAMES = ("numpy", "torch:cpu", "jax:cpu", "array-api-strict", "dask", "torch:cuda", "jax:cuda", "cupy")


@pytest.fixture(params=NAMES)
def array_library(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Run the test on each array library and device, one after the other: an `arrayloss.testing.Backend`.

    One that is missing is skipped, with its reason. `@pytest.mark.parametrize("array_library", ["torch:cpu"],
    indirect=True)` runs on some only. JAX has its 64-bit types while the test runs, as the others always do.
    """
    from arrayloss.testing import backend

    one = backend(request.param)
    reason = one.missing()
    if reason is not None:
        pytest.skip(f"{one.name}: {reason}")
    with one.setting(*one.dtypes):
        yield one
