"""Load tokenizers and weights with transformers and check them: no weight is silently random, dropped or misread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from holdfast.files import is_folder
from holdfast.files.hub import looks_local
from holdfast.network.shards import refuse_foreign_shards
from holdfast.records import HoldfastError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
SHOWN = 3
"""Tensors that an error message names at most."""


def one_line(error: BaseException) -> str:
    """An exception's message on one line; the name of its type if the message is empty."""
    text = " ".join(str(error).split())
    return text[:300] if text else type(error).__name__


def usable_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        HoldfastError: this machine has no such device.
    """
    try:
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError):
        raise HoldfastError(
            f"device: {name!r} is not available on this machine; remove the setting or use cpu"
        ) from None


def load_tokenizer(name: str, *, revision: str | None = None) -> Any:
    """Load the tokenizer of a local folder or Hub id; no remote code is run.

    Raises:
        HoldfastError: the folder is not a model folder, or has no tokenizer.
    """
    from transformers import AutoTokenizer

    if looks_local(name):
        _require_folder(Path(name))
    try:
        return AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except Exception as error:
        raise HoldfastError(
            f"{name}: no tokenizer could be loaded ({one_line(error)}); save one with `tokenizer.save_pretrained`"
        ) from error


def load_weights(
    kind: Any, name: str, *, unloadable: Callable[[str, Exception], HoldfastError] | None = None, **options: Any
) -> tuple[Any, Mapping[str, Any]]:
    """Load a network from safetensors with `kind.from_pretrained`; returns it and transformers' loading info.

    No remote code is run. Warnings of transformers about tensors that do not match are suppressed, since
    `refuse_mismatch` reports them in one line. `unloadable` builds the error that is raised when loading fails.

    Raises:
        HoldfastError: it cannot be loaded, is quantised, holds an adapter, or has weights outside the folder.
    """
    if (Path(name) / "adapter_config.json").exists():
        raise HoldfastError(
            f"{name}: the folder holds an adapter; merge it into its base model and save the whole model"
        )
    refuse_foreign_shards(name, Path(name))
    try:
        with quiet():
            network, info = kind.from_pretrained(
                name,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # so that they are reported by name
                **options,
            )
    except Exception as error:
        raise (unloadable or _unloadable)(name, error) from error
    _refuse_quantised(name, network)
    return network, info


def refuse_mismatch(
    name: str,
    network: Any,
    info: Mapping[str, Any],
    *,
    made: Callable[[str], bool] | None = None,
    spare: Iterable[str] = (),
) -> None:
    """Refuse a checkpoint whose tensors do not match the network's one to one.

    Args:
        name: the folder or Hub id.
        network: what was loaded from it.
        info: the loading info that transformers returns with `output_loading_info`.
        made: whether a tensor of the network is meant to be new, such as a head that is yet to be trained; by default
            none is.
        spare: tensors of the checkpoint that the network does not use on purpose, such as a head that is replaced.

    Raises:
        HoldfastError: a tensor is missing from the checkpoint, is not used by the network or has another shape; names
            the first.
    """
    kind = type(network).__name__
    missing = [key for key in info["missing_keys"] if made is None or not made(key)]
    surplus = set(info["unexpected_keys"]) - set(spare)
    shapes = {key: f"{list(stored)} instead of {list(own)}" for key, stored, own in info["mismatched_keys"]}
    if shapes:
        key = min(shapes)
        raise HoldfastError(
            f"{name}: config.json does not describe the weights: {key} is {shapes[key]}{_more(shapes)}; "
            "take the config.json that they were saved with"
        )
    if missing:
        also = f", and {_listed(surplus)} would be ignored" if surplus else ""
        raise HoldfastError(
            f"{name}: the weights are not those of a {kind}: the files have no {_listed(missing)}, which would be "
            f"initialised at random{also}; use the folder as `save_pretrained` wrote it"
        )
    if surplus:
        raise HoldfastError(
            f"{name}: the weights are not those of a {kind}: {_listed(surplus)} would be ignored; take the "
            "config.json that they were saved with"
        )


def refuse_not_finite(name: str, network: Any) -> None:
    """Refuse weights that are NaN or infinite: the output of such a model is meaningless, and looks like garbled text.

    Raises:
        HoldfastError: a weight is NaN or infinite; names the first tensor.
    """
    for key, weight in network.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise HoldfastError(f"{name}: {key} holds values that are NaN or infinite; the checkpoint is damaged")


def refuse_encoder(name: str, network: Any) -> None:
    """Refuse a network without a causal mask: text cannot be generated with it token by token.

    Raises:
        HoldfastError: the logits of a token depend on a later token, or the forward pass fails.
    """
    vocabulary = network.get_input_embeddings().weight.shape[0]
    device = next(network.parameters()).device
    pair = [torch.tensor([[1, 2, 3, last]], device=device) % vocabulary for last in (4, 5)]
    try:
        with torch.no_grad():
            one, other = (network(input_ids=ids, use_cache=False).logits[:, :3] for ids in pair)
    except Exception as error:
        raise HoldfastError(f"{name}: a forward pass over four tokens failed: {one_line(error)}") from error
    if (one - other).abs().max() > 8 * torch.finfo(one.dtype).eps * one.abs().max():
        raise HoldfastError(
            f"{name}: {type(network).__name__} is an encoder, not a causal language model: tokens attend to later "
            "ones, so that it cannot generate text; take a causal one"
        )


def refuse_other_adapter(name: str, network: Any, file: Path) -> None:
    """Refuse an adapter whose tensors do not match those of the adapter that its configuration describes.

    Raises:
        HoldfastError: a tensor is missing, and would keep its initial value, or is not used; names the first.
    """
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    expected = set(get_peft_model_state_dict(network, save_embedding_layers=False))
    with safe_open(file, "pt") as stored:
        names = set(stored.keys())
    if expected != names:
        raise HoldfastError(
            f"{name}: the adapter's weights do not match its adapter_config.json: {_listed(expected ^ names)} is in "
            "only one of the two; save the adapter again"
        )


def refuse_tied_targets(name: str, network: Any) -> None:
    """Refuse an adapter on a weight that two modules of a network share: merging it would change the other module too.

    Raises:
        HoldfastError: names the module.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    users: dict[int, set[str]] = {}
    adapted = {}
    for place, part in network.named_modules(remove_duplicate=False):
        own = part.get_base_layer() if isinstance(part, BaseTunerLayer) else part
        weight = getattr(own, "weight", None)
        if isinstance(weight, torch.nn.Parameter):
            users.setdefault(id(weight), set()).add(place.removesuffix(".base_layer"))
            if isinstance(part, BaseTunerLayer):
                adapted[id(weight)] = place
    for weight, place in adapted.items():
        if len(users[weight]) > 1:
            raise HoldfastError(
                f"{name}: {place.rpartition('.')[2]} shares its weights with another module, so that merging an "
                "adapter on it would change both; remove it from target_modules"
            )


def _require_folder(folder: Path) -> None:
    """Refuse a folder without a configuration or tokenizer, which transformers would replace or report at length."""
    if not is_folder(folder):
        raise HoldfastError(f"{folder}: no such model folder (a Hugging Face id has the form `owner/name`)")
    if not (folder / "config.json").exists():
        raise HoldfastError(f"{folder}: no config.json; this is not a model folder")
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise HoldfastError(
            f"{folder}: the model folder has no tokenizer (none of {', '.join(TOKENIZER_FILES)}); "
            "save it there with `tokenizer.save_pretrained`"
        )


@contextmanager
def quiet() -> Iterator[None]:
    """Within this context, transformers logs only errors."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _unloadable(name: str, error: Exception) -> HoldfastError:
    return HoldfastError(f"{name}: the model could not be loaded: {one_line(error)}")


def _refuse_quantised(name: str, network: Any) -> None:
    """Refuse quantised weights; transformers reads the codes of methods that it does not know as plain numbers."""
    stated = getattr(network.config, "quantization_config", None)
    integer = any(not p.dtype.is_floating_point or p.dtype.itemsize < 2 for p in network.parameters())
    if stated is None and not integer:
        return
    method = stated.get("quant_method") if isinstance(stated, Mapping) else getattr(stated, "quant_method", None)
    raise HoldfastError(
        f"{name}: the weights are quantised ({getattr(method, 'value', method) or 'method not stated'}), and only "
        "unquantised ones can be trained and measured; use the checkpoint that they were made from"
    )


def _listed(keys: Iterable[str]) -> str:
    ordered = sorted(keys)
    return ", ".join(ordered[:SHOWN]) + (f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else "")


def _more(keys: Mapping[str, str]) -> str:
    return f" ({len(keys) - 1} more)" if len(keys) > 1 else ""
