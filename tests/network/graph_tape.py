"""A stand-in for CUDA graphs on the CPU: a step's operations are recorded, and repeated without its Python code.

Like a graph, a repetition reads and writes the very tensors of the recording.
"""

from __future__ import annotations

from functools import cache

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
        if not (_only_looks(func) and _places(output) <= _places(args)):  # a view of the recording stays one
            self.operations.append((func, args, kwargs or {}, _tensors(output)))
        return output

    def __call__(self):
        self.repeated += 1
        for func, args, kwargs, recorded in self.operations:
            for old, new in zip(recorded, _tensors(func(*args, **kwargs)), strict=True):
                if old.data_ptr() != new.data_ptr():
                    old.data.copy_(new)  # as a graph does: autograd is not told


@cache
def _only_looks(func):
    """Whether an operation changes nothing that it is given and gives views of it, or copies where it must."""
    returned = [value.alias_info for value in func._schema.returns]
    return bool(returned) and all(alias is not None and not alias.is_write for alias in returned)


def _places(values):
    return {tensor.untyped_storage().data_ptr() for tensor in _tensors(values)}


def _tensors(output):
    """The tensors of an operation's output that have numbers."""
    leaves = [output] if isinstance(output, torch.Tensor) else tree_leaves(output)
    return [leaf for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.numel()]


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
