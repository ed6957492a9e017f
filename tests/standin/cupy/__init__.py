"""A stand-in for CuPy, over NumPy. It is not CuPy and no device: it finds what CuPy would refuse, not wrong kernels.

With this folder's parent first on the path, `import cupy` is this. `real.json` holds the names, signatures and array
methods of the real CuPy 14.2, which imports without a driver; here there is nothing beside them. Its manners:

- Arrays and results are never NumPy's, nor converted without being asked; a NumPy array beside one is a TypeError.
- An array is on the device that was current when it was made; what is made ignores `device=`. Used while another device
  is current, it is an error (CuPy, by peer access, would put the result on the current one).
- A read waits for the device: `bool()`, `int()`, `float()`, `item()`, a mask as an index. One that the package itself
  makes, in whatever depth, is a RuntimeError.
- An index out of range wraps.
"""

from cupy._standin import PUBLIC

globals().update(PUBLIC)
