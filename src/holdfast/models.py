"""Models: load, save, clone, adapters, and the text format in which each is spoken to."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from holdfast.loading import load_weights, one_line, refuse_encoder, refuse_tied_targets, refuse_unlike
from holdfast.precision import Dtype, stored_type, widen
from holdfast.ranges import Count, PartialShare, ranged
from holdfast.records import Example, HoldfastError, Message
from holdfast.tensors import Batch, collate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt", "spiece.model")


@dataclass(frozen=True, kw_only=True)
@ranged
class LoRA:
    """A low-rank adapter (Hu et al. 2021, arXiv 2106.09685) instead of full fine-tuning."""

    r: Count = 16
    lora_alpha: Count = 32
    lora_dropout: PartialShare = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"


@dataclass(frozen=True, kw_only=True)
class Model:
    """A causal language model with its tokenizer and the format in which it is prompted.

    `prompt_format` is a template with the place `{prompt}`; `None` means the tokenizer's own chat template. `stored` is
    the type of numbers that its folder holds, and that `save` writes; `None` where it came from no folder.
    """

    network: Any
    tokenizer: PreTrainedTokenizerBase
    prompt_format: str | None = None
    name: str = "model"
    stored: str | None = None
    _prompts: dict[tuple[Message, ...], list[int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def pad_id(self) -> int:
        """The padding token; models without one are padded with their end token, which every mask leaves out."""
        pad = self.tokenizer.pad_token_id
        return int(self.end_id if pad is None else pad)

    @property
    def end_id(self) -> int:
        """The token that ends an answer."""
        if self.tokenizer.eos_token_id is None:
            raise HoldfastError(f"{self.name}: the tokenizer has no end-of-sequence token; set `eos_token` in it")
        return int(self.tokenizer.eos_token_id)

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Every token that ends an answer, the generation config's included."""
        config = getattr(self.network, "generation_config", None)
        listed = getattr(config, "eos_token_id", None)
        more = listed if isinstance(listed, list) else [] if listed is None else [listed]
        return tuple(dict.fromkeys([self.end_id, *more]))

    @property
    def context(self) -> int | None:
        """The longest sequence in tokens that the architecture can read, if its configuration says."""
        config = self.network.config
        return getattr(config, "max_position_embeddings", None) or getattr(config, "n_positions", None)

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.network.parameters()).device

    def encode_prompt(self, prompt: tuple[Message, ...]) -> list[int]:
        """Tokens of a prompt, up to the place where the answer begins."""
        if prompt not in self._prompts:
            if self.prompt_format is None:
                ids = self.tokenizer.apply_chat_template(
                    [turn._asdict() for turn in prompt], add_generation_prompt=True, return_dict=False
                )
            else:
                text = self.prompt_format.replace("{prompt}", _as_text(prompt))
                ids = self.tokenizer(text)["input_ids"]
            self._prompts[prompt] = list(ids)
        return self._prompts[prompt]

    def encode_response(self, text: str) -> list[int]:
        """Tokens of an answer, the end token included."""
        return [*self.tokenizer(text, add_special_tokens=False)["input_ids"], self.end_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of sampled tokens without special ones."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).strip()


def _as_text(prompt: tuple[Message, ...]) -> str:
    """One turn as it is; several with their speakers, since a plain format has no other place for them."""
    if len(prompt) == 1:
        return prompt[0].content
    return "\n".join(f"{turn.role}: {turn.content}" for turn in prompt)


def load(
    path: str | Path,
    *,
    revision: str | None = None,
    dtype: Dtype = "auto",
    prompt_format: str | None = None,
) -> Model:
    """A model from a local folder or a Hugging Face id, in evaluation mode, on the CPU or the one accelerator.

    Only safetensors weights are read and no remote code is run. Weights are held in float32 whatever type the folder
    has, unless `dtype` says otherwise; those that are trained become float32 at any rate (see `holdfast.precision`).

    Raises:
        HoldfastError: the folder or id cannot be loaded, has no tokenizer, has neither a chat template nor a
            `prompt_format`, or its weights are not those that its config.json describes.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    name = str(path)
    if looks_local(name):
        _require_folder(Path(name))
    try:
        tokenizer = AutoTokenizer.from_pretrained(name, revision=revision, trust_remote_code=False)
    except Exception as error:
        raise HoldfastError(
            f"{name}: no tokenizer could be loaded ({one_line(error)}); save one with `tokenizer.save_pretrained`"
        ) from error
    check_prompt_format(name, tokenizer, prompt_format)
    network, info = load_weights(
        AutoModelForCausalLM, name, revision=revision, dtype="float32" if dtype == "auto" else dtype
    )
    refuse_unlike(name, network, info)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device).eval()
    refuse_encoder(name, network)
    stored = stored_type(name, revision)
    return Model(network=network, tokenizer=tokenizer, prompt_format=prompt_format, name=name, stored=stored)


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


def check_prompt_format(name: str, tokenizer: PreTrainedTokenizerBase, prompt_format: str | None) -> None:
    """Refuse a model that nobody said how to speak to: guessing a template moves harm scores by tens of points."""
    if prompt_format is None and not getattr(tokenizer, "chat_template", None):
        raise HoldfastError(
            f"{name}: the tokenizer has no chat template; give `prompt_format`, "
            r"for example 'Question: {prompt}\nAnswer:'"
        )
    if prompt_format is not None and "{prompt}" not in prompt_format:
        raise HoldfastError(f"prompt_format {prompt_format!r} has no place for the prompt: write {{prompt}} in it")


def looks_local(path: str) -> bool:
    """Whether a model or data path means a folder here and not a Hub id."""
    return Path(path).exists() or path.startswith((".", "/", "~")) or path.count("/") != 1


def clone(model: Model) -> Model:
    """The same model with weights of its own."""
    return replace(model, network=copy.deepcopy(model.network))


def adapt(model: Model, adapter: LoRA | None, *, seed: int = 0) -> Model:
    """The model with a fresh adapter whose weights alone are trained; unchanged when `adapter` is `None`."""
    if adapter is None:
        return model
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    targets = adapter.target_modules
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=adapter.r,
        lora_alpha=adapter.lora_alpha,
        lora_dropout=adapter.lora_dropout,
        fan_in_fan_out=any(isinstance(part, Conv1D) for part in model.network.modules()),
        target_modules=targets if isinstance(targets, str) else list(targets),
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = get_peft_model(model.network, config)
    refuse_tied_targets(model.name, network)
    return replace(model, network=network)


def has_adapter(model: Model) -> bool:
    """Whether training moves an adapter only."""
    return hasattr(model.network, "disable_adapter")


def without_adapter(model: Model) -> AbstractContextManager[None]:
    """A context in which the adapter is switched off: the reference model for free."""
    return model.network.disable_adapter()


def merged(model: Model) -> Model:
    """The model with its adapter folded into copies of the weights, all trainable; itself where it has none."""
    if not has_adapter(model):
        return model
    return replace(model, network=copy.deepcopy(model.network).merge_and_unload().requires_grad_(True))


def combine(model: Model, others: Sequence[Model], rule: Callable[..., torch.Tensor]) -> None:
    """Set every weight of `model`, in place, to `rule(own, *others)` of the weights of its name, taken in float64.

    Raises:
        HoldfastError: another model has other weights, by name or shape; nothing is set then.
    """
    ours, *theirs = (dict(part.network.named_parameters()) for part in (model, *others))
    for other, named in zip(others, theirs, strict=True):
        unlike = {(name, p.shape) for name, p in ours.items()} ^ {(name, p.shape) for name, p in named.items()}
        if unlike:
            raise HoldfastError(
                f"{other.name}: its weights are not those of {model.name} ({min(unlike)[0]} is not the same in both); "
                "only weights of one architecture can be combined"
            )
    widen(model.network)
    with torch.no_grad():
        for name, own in ours.items():
            parts = [named[name].to(device=own.device, dtype=torch.float64) for named in theirs]
            own.copy_(rule(own.double(), *parts))


def num_parameters(model: Model) -> int:
    """How many weights the model has, tied ones counted once."""
    return sum(p.numel() for p in model.network.parameters())


def check_lengths(model: Model, examples: Iterable[Example], *, max_new_tokens: int) -> None:
    """Refuse prompts that leave no room in the context for an answer of `max_new_tokens`, naming the first."""
    if model.context is None:
        return
    for example in examples:
        length = len(model.encode_prompt(example.prompt))
        if length + max_new_tokens > model.context:
            raise HoldfastError(
                f"{example.source or 'a prompt'}: the prompt has {length} tokens, which with max_new_tokens="
                f"{max_new_tokens} exceeds the {model.context} tokens of context of {model.name}; "
                "shorten or drop the row, or lower max_new_tokens"
            )


def answer_batch(model: Model, pairs: Iterable[tuple[Example, str]], *, max_length: int | None = None) -> Batch:
    """A batch that teaches the given answers; sequences are cut at `max_length` tokens and at the context.

    Raises:
        HoldfastError: a row's prompt alone fills `max_length`, so that nothing of the answer would be learnt.
    """
    limit = min(max_length or model.context or 10**9, model.context or 10**9)
    rows = []
    for example, answer in pairs:
        prompt = model.encode_prompt(example.prompt)
        if len(prompt) >= limit:
            raise HoldfastError(
                f"{example.source or 'a prompt'}: the prompt's {len(prompt)} tokens fill the limit of {limit}; "
                "nothing of its answer would be learnt"
            )
        rows.append((prompt, model.encode_response(answer)[: limit - len(prompt)]))
    return collate(rows, pad_id=model.pad_id)
