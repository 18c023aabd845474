"""A stand-in for CUDA graphs on the CPU: a step's operations are recorded, and repeated without its Python code.

Like a graph, a repetition reads and writes the very tensors of the recording.
"""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Tape(TorchDispatchMode):
    """Records the operations within its context; a call repeats them."""

    def __init__(self):
        super().__init__()
        self.operations = []
        self.repeated = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        output = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, output))
        return output

    def __call__(self):
        self.repeated += 1
        for func, args, kwargs, recorded in self.operations:
            output = func(*args, **kwargs)
            for old, new in zip(tree_leaves(recorded), tree_leaves(output), strict=True):
                if isinstance(old, torch.Tensor) and old.numel() and old.data_ptr() != new.data_ptr():
                    old.data.copy_(new)  # as a graph does: autograd is not told


class Tapes:
    """What `capturing.recorder` gives on CUDA, with tapes; `made` has all of them."""

    def __init__(self):
        self.made = []

    def __call__(self, step, restore):
        for _ in range(2):
            step()
            restore()
        tape = Tape()
        with tape:
            step()
        restore()
        self.made.append(tape)
        return tape
