"""The losses of other libraries, by their names, arguments, defaults and numbers, on any array.

A module for each: `torch`, `torchvision`, `optax`, `keras`, `sklearn`, `onnx`, `kornia`, `monai`. None imports the
library it is named after. Each function is a preset of `arrayloss`: it says which axis holds the classes, what a mean
divides by, and what is clipped, and leaves the formula to the loss. `value_and_grad` takes all of these losses.
docs/porting.md says where libraries differ.
"""

from __future__ import annotations

from arrayloss.compat import keras, kornia, monai, onnx, optax, sklearn, torch, torchvision

__all__ = ["keras", "kornia", "monai", "onnx", "optax", "sklearn", "torch", "torchvision"]
