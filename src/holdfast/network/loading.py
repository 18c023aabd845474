"""What transformers makes of a checkpoint's folder, checked: no weight is made up, dropped or misread in silence."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from holdfast.files.hub import looks_local
from holdfast.records import HoldfastError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")
SHOWN = 3
"""How many tensors a message names."""


def one_line(error: BaseException) -> str:
    """An exception's message on one line, its type where it has none."""
    text = " ".join(str(error).split())
    return text[:300] if text else type(error).__name__


def usable_device(name: str) -> torch.device:
    """The device of that name.

    Raises:
        HoldfastError: this machine has none.
    """
    try:
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError):
        raise HoldfastError(f"device: {name!r} is none of this machine's; leave it out, or name cpu") from None


def load_tokenizer(name: str, *, revision: str | None = None) -> Any:
    """The tokenizer of a folder or Hub id; no remote code is run.

    Raises:
        HoldfastError: it is no model's folder, or has no tokenizer.
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
    """A network from safetensors by `kind.from_pretrained`, and what became of the file's tensors.

    Only what is in the folder is read: no remote code. The pages of text that transformers writes about a file that
    does not fit are left out, since `refuse_unlike` says the same on a line. `unloadable` words what went wrong.

    Raises:
        HoldfastError: it cannot be loaded, is quantised, or holds an adapter over other weights.
    """
    if (Path(name) / "adapter_config.json").exists():
        raise HoldfastError(f"{name}: holds an adapter beside or over other weights; merge it and save the whole model")
    try:
        with _quiet():
            network, info = kind.from_pretrained(
                name,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                ignore_mismatched_sizes=True,  # they are reported so, by name; without it only that there are some
                **options,
            )
    except Exception as error:
        raise (unloadable or _unloadable)(name, error) from error
    _refuse_quantised(name, network)
    return network, info


def refuse_unlike(
    name: str,
    network: Any,
    info: Mapping[str, Any],
    *,
    made: Callable[[str], bool] | None = None,
    spare: Iterable[str] = (),
) -> None:
    """Refuse a file whose tensors are not the network's, one for one.

    Args:
        name: the folder or Hub id.
        network: what was loaded from it.
        info: what became of the tensors, as transformers tells it with `output_loading_info`.
        made: which of the network's tensors are meant to be new, a head's that is to be trained; none unless given.
        spare: tensors of the file that are known to have no place, such as the head that is replaced.

    Raises:
        HoldfastError: a tensor of the network is missing from the file, or one of the file has no place in the
            network or another shape there; names the first.
    """
    kind = type(network).__name__
    missing = [key for key in info["missing_keys"] if made is None or not made(key)]
    surplus = set(info["unexpected_keys"]) - set(spare)
    shapes = {key: f"{list(stored)} where {list(own)} is wanted" for key, stored, own in info["mismatched_keys"]}
    if shapes:
        key = min(shapes)
        raise HoldfastError(
            f"{name}: config.json does not describe the weights: {key} is {shapes[key]}{_more(shapes)}; "
            "take the config.json that they were saved with"
        )
    if missing:
        also = f", and {_listed(surplus)} would be left out" if surplus else ""
        raise HoldfastError(
            f"{name}: the weights are not those of a {kind}: the files have no {_listed(missing)}, which would "
            f"be filled with random numbers{also}; take the folder as `save_pretrained` wrote it"
        )
    if surplus:
        raise HoldfastError(
            f"{name}: the weights are not those of a {kind}: {_listed(surplus)} would be left out; take the "
            "config.json that they were saved with"
        )


def refuse_not_finite(name: str, network: Any) -> None:
    """Refuse weights that are no numbers: what such a model says is worth nothing, and looks like garbled text.

    Raises:
        HoldfastError: a weight is NaN or infinite; names the first tensor.
    """
    for key, weight in network.named_parameters():
        if not bool(torch.isfinite(weight).all()):
            raise HoldfastError(f"{name}: {key} holds numbers that are NaN or infinite; the checkpoint is damaged")


def refuse_encoder(name: str, network: Any) -> None:
    """Refuse a network in which a token sees those after it: nothing can be written with it token by token.

    Raises:
        HoldfastError: the logits of a token change with the token after it, or there are none to be had.
    """
    vocabulary = network.get_input_embeddings().weight.shape[0]
    device = next(network.parameters()).device
    pair = [torch.tensor([[1, 2, 3, last]], device=device) % vocabulary for last in (4, 5)]
    try:
        with torch.no_grad():
            one, other = (network(input_ids=ids, use_cache=False).logits[:, :3] for ids in pair)
    except Exception as error:
        raise HoldfastError(f"{name}: a first pass over four tokens failed: {one_line(error)}") from error
    if (one - other).abs().max() > 8 * torch.finfo(one.dtype).eps * one.abs().max():
        raise HoldfastError(
            f"{name}: {type(network).__name__} reads both ways, an encoder and no causal language model: a token sees "
            "those after it, so that nothing can be sampled from it"
        )


def refuse_other_adapter(name: str, network: Any, file: Path) -> None:
    """Refuse an adapter's file whose tensors are not those of the adapter that was made of its configuration.

    Raises:
        HoldfastError: one is missing, and would stay as it began, or has no place; names the first.
    """
    from peft import get_peft_model_state_dict
    from safetensors import safe_open

    expected = set(get_peft_model_state_dict(network, save_embedding_layers=False))
    with safe_open(file, "pt") as stored:
        names = set(stored.keys())
    if expected != names:
        raise HoldfastError(
            f"{name}: the adapter's file and its adapter_config.json do not fit: {_listed(expected ^ names)} is in one "
            "of them only; save the adapter anew"
        )


def refuse_tied_targets(name: str, network: Any) -> None:
    """Refuse an adapter on a weight that two parts of a network share: merged, it would move the other part too.

    Raises:
        HoldfastError: names the part.
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
                f"{name}: an adapter on {place.rpartition('.')[2]}, whose weights are tied to another part's, would be "
                "another model once it is merged; leave it out of target_modules"
            )


def _require_folder(folder: Path) -> None:
    """Refuse a folder that lacks what transformers would silently make up or complain of at length."""
    if not folder.is_dir():
        raise HoldfastError(f"{folder}: no such model folder (a Hugging Face id has the form `owner/name`)")
    if not (folder / "config.json").exists():
        raise HoldfastError(f"{folder}: no config.json; this is not a model folder")
    if not any((folder / name).exists() for name in TOKENIZER_FILES):
        raise HoldfastError(
            f"{folder}: the model folder has no tokenizer (none of {', '.join(TOKENIZER_FILES)}); "
            "save it there with `tokenizer.save_pretrained`"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """While it lasts, transformers says nothing of its own below an error."""
    from transformers.utils import logging

    said = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(said)


def _unloadable(name: str, error: Exception) -> HoldfastError:
    return HoldfastError(f"{name}: the model could not be loaded: {one_line(error)}")


def _refuse_quantised(name: str, network: Any) -> None:
    """Refuse weights that are codes and not numbers; transformers reads those of kinds it does not know as numbers."""
    stated = getattr(network.config, "quantization_config", None)
    coded = any(not p.dtype.is_floating_point or p.dtype.itemsize < 2 for p in network.parameters())
    if stated is None and not coded:
        return
    method = stated.get("quant_method") if isinstance(stated, Mapping) else getattr(stated, "quant_method", None)
    raise HoldfastError(
        f"{name}: the weights are quantised ({getattr(method, 'value', method) or 'by a method that is not named'}), "
        "and only plain ones are trained and measured here; give the checkpoint that they were made from"
    )


def _listed(keys: Iterable[str]) -> str:
    ordered = sorted(keys)
    return ", ".join(ordered[:SHOWN]) + (f" and {len(ordered) - SHOWN} more" if len(ordered) > SHOWN else "")


def _more(keys: Mapping[str, str]) -> str:
    return f" ({len(keys) - 1} more like it)" if len(keys) > 1 else ""
