"""The pytest plugin, there as soon as `arrayloss` is installed: the fixture `array_library`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from arrayloss.testing._backends import Backend, backend, backends


@pytest.fixture(params=[one.name for one in backends()])
def array_library(request: pytest.FixtureRequest) -> Iterator[Backend]:
    """Run the test on each array library and device, one after the other: a `Backend`.

    One that is missing is skipped, with its reason. `@pytest.mark.parametrize("array_library", ["torch:cpu"],
    indirect=True)` runs on some only. JAX has its 64-bit types while the test runs, as the others always do.
    """
    one = backend(request.param)
    reason = one.missing()
    if reason is not None:
        pytest.skip(f"{one.name}: {reason}")
    with one.setting(*one.dtypes):
        yield one
