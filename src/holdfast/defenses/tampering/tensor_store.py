"""Storage for tensors that are not needed at the moment: on a device, or in files."""

from __future__ import annotations

import shutil
import weakref
from pathlib import Path
from tempfile import mkdtemp
from typing import Literal

from safetensors.torch import load_file, save_file
from torch import Tensor

Place = Literal["device", "cpu", "disk"]
"""On the tensor's own device, in CPU memory, or in temporary files, which need no memory."""


class TensorStore:
    """Stores tensors by number, bit for bit."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.held: dict[int, Tensor] = {}
        self.folder = Path(mkdtemp(prefix="holdfast-")) if place == "disk" else None
        if self.folder is not None:
            weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)

    def put(self, number: int, tensor: Tensor) -> None:
        """Store a copy of a tensor."""
        if self.folder is not None:
            save_file({"": tensor.contiguous()}, self._file(number))
        else:
            self.held[number] = tensor.to("cpu" if self.place == "cpu" else tensor.device, copy=True)

    def get(self, number: int) -> Tensor | None:
        """The tensor of that number, where it is stored; `None` if there is none."""
        if self.folder is None:
            return self.held.get(number)
        file = self._file(number)
        return load_file(file)[""] if file.exists() else None

    def add(self, number: int, tensor: Tensor) -> None:
        """Add to the stored tensor of that number."""
        waiting = self.get(number)
        if waiting is None:
            self.put(number, tensor)
        elif self.folder is None:
            waiting.add_(tensor.to(waiting.device))
        else:
            self.put(number, waiting.add_(tensor.to(waiting.device)))

    def _file(self, number: int) -> Path:
        assert self.folder is not None
        return self.folder / str(number)
