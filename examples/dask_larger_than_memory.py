"""A Dask array larger than the memory it is given: 512 MB of logits, on a worker that is killed above 300 MiB.

Nothing is computed at the call: the loss and its gradient are Dask arrays too, and go through the worker chunk by
chunk. The worker's peak is read from Linux.
"""

import re
from pathlib import Path

import dask.array as da
import numpy as np
from dask.distributed import Client, LocalCluster

import arrayloss as al

ROWS, CLASSES, CHUNK = 640_000, 100, 20_000
LIMIT = 300 * 2**20


def peak() -> int:
    """The most memory that this process has held, in bytes."""
    return 1024 * int(re.findall(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])


def main() -> None:
    logits = da.random.default_rng(0).normal(size=(ROWS, CLASSES), chunks=(CHUNK, CLASSES))
    labels = da.arange(ROWS, chunks=CHUNK) % CLASSES
    assert logits.nbytes > LIMIT

    loss, gradient = al.value_and_grad(al.cross_entropy)(logits, labels)
    norm = da.sqrt((gradient**2).sum())
    cluster = LocalCluster(n_workers=1, threads_per_worker=1, memory_limit=LIMIT, dashboard_address=None)
    with cluster, Client(cluster) as client:
        found, length = (float(v) for v in client.gather(client.compute([loss, norm])))
        held = max(client.run(peak).values())
    print(f"{logits.nbytes / 1e6:.0f} MB of logits: loss {found:.6f}, length of the gradient {length:.6f}")
    print(f"the worker held {held / 1e6:.0f} MB at most, of {LIMIT / 1e6:.0f} MB")
    assert held < LIMIT

    # The same, chunk by chunk in this process.
    pairs = zip(logits.to_delayed()[:, 0], labels.to_delayed(), strict=True)
    sums = [al.cross_entropy(*(np.asarray(p.compute()) for p in pair), reduction="sum") for pair in pairs]
    assert np.isclose(found, sum(sums) / ROWS, rtol=1e-12, atol=0)


if __name__ == "__main__":
    main()
