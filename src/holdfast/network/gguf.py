"""Unpack a GGUF file once into a model folder: float32 safetensors, configuration, tokenizer, chat template.

transformers reads the file and dequantises it to float32. This takes seconds to minutes, mostly for the vocabulary, so
the result is cached by the file's content and the version of transformers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy
import torch
from filelock import FileLock

from holdfast.files import make_folder, sha256, whole_folder
from holdfast.files.cache import cache_root
from holdfast.files.gguf import gguf_file, require_reader
from holdfast.network.loading import one_line, quiet, refuse_mismatch
from holdfast.records import HoldfastError

MARKS = ("is_quantized", "hf_quantizer", "quantization_method")
"""Attributes that transformers sets on a network read from a GGUF file; with them `save_pretrained` refuses to save."""
READS_ROPE_SCALING = ("gpt-oss",)
"""Architectures of which transformers reads the scaling of rotary positions."""


def model_folder(name: str) -> str:
    """The folder to load for a model's name: the name itself, or for a GGUF file the folder into which it is unpacked.

    Raises:
        HoldfastError: there is no such file or package, or it cannot be read completely.
    """
    file = gguf_file(name)
    return name if file is None else str(unpacked(file))


def unpacked(file: Path) -> Path:
    """The folder of a GGUF file in the cache, created on first use.

    Raises:
        HoldfastError: the library `gguf` is missing, transformers does not know the architecture or would drop a part
            of the file, or the cache cannot be written.
    """
    require_reader(file)
    unpacked_files = cache_root() / "gguf"
    folder = unpacked_files / f"{sha256(file)[:24]}-transformers-{metadata.version('transformers')}"
    make_folder(unpacked_files)
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            with whole_folder(folder) as begun:
                _unpack(file, begun)
    return folder


def _unpack(file: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    options: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False}
    with _parsed_once():
        try:
            with quiet():
                network, info = AutoModelForCausalLM.from_pretrained(
                    file.parent, dtype=torch.float32, output_loading_info=True, **options
                )
                tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
        except Exception as error:
            raise HoldfastError(
                f"{file}: the GGUF file could not be read: {one_line(error)}; use the checkpoint that it was made from"
            ) from error
        refuse_mismatch(str(file), network, info)
        refuse_left_out(file, network)
    del network.config.quantization_config
    for mark in MARKS:
        delattr(network, mark)
    network.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@contextmanager
def _parsed_once() -> Iterator[None]:
    """Inside, the library parses a file's fields once, and makes the names of its tensors once for an architecture.

    transformers asks for the former three times, 49,152 words of SmolLM2's vocabulary each, and for the latter once a
    module: together that takes half of the time of unpacking. Both are only read. The fields are parsed out of a plain
    array, in a quarter of the time that numpy's mapped array takes for its many small parts.
    """
    import gguf

    reader, names = gguf.GGUFReader, gguf.get_tensor_name_map

    class PlainReader(reader):  # type: ignore[misc, valid-type]
        """A reader whose mapped file is a plain array, of the same memory."""

        @property
        def data(self) -> Any:
            return self._data

        @data.setter
        def data(self, mapped: Any) -> None:
            self._data = numpy.asarray(mapped)

    readers = cache(PlainReader)
    # transformers and we pass a path as text or as a `Path`.
    gguf.GGUFReader = lambda path, *more: reader(path, *more) if more else readers(str(path))
    gguf.get_tensor_name_map = cache(names)
    try:
        yield
    finally:
        gguf.GGUFReader, gguf.get_tensor_name_map = reader, names


def refuse_left_out(file: Path, network: torch.nn.Module) -> None:
    """Refuse a GGUF file of which transformers has silently dropped a part.

    It drops tensors that it does not use, such as the factors of Llama 3's rotary positions, and settings of rotary
    positions that it does not read. The model would then differ.

    Raises:
        HoldfastError: the file has more numbers than the network, or scaled rotary positions; names the dropped part.
    """
    from gguf import GGUFReader

    reader = GGUFReader(file)
    in_file = {tensor.name: math.prod(int(size) for size in tensor.shape) for tensor in reader.tensors}
    in_network = sum(weight.numel() for weight in network.parameters())
    architecture = reader.fields["general.architecture"].contents()
    scaling = reader.fields.get(f"{architecture}.rope.scaling.type")
    left_out = sorted(name for name in in_file if name.startswith("rope_"))
    if scaling is not None and scaling.contents() != "none" and architecture not in READS_ROPE_SCALING:
        left_out.append(scaling.name)
    if left_out or sum(in_file.values()) > in_network:
        what = ", ".join(left_out[:3]) or f"{sum(in_file.values()) - in_network:,} of its numbers"
        raise HoldfastError(
            f"{file}: transformers would drop {what}, and the model would differ; use the checkpoint that the file was "
            "made from"
        )
