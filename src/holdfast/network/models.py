"""Models: loading, copying, adapters, and the prompt format of each."""

from __future__ import annotations

import copy
import re
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from holdfast.files.hub import refuse_revision
from holdfast.methods.ranges import Count, PartialShare, ranged
from holdfast.network.adapters import places
from holdfast.network.chat import Chat
from holdfast.network.gguf import model_folder
from holdfast.network.loading import load_tokenizer, load_weights, refuse_encoder, refuse_mismatch, refuse_tied_targets
from holdfast.network.precision import Dtype, stored_type, widen
from holdfast.network.templates import DATE, check_prompt_format
from holdfast.records import Example, HoldfastError, Message
from holdfast.tensors import Batch, collate

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


AT_ONCE = 1000
"""The number of prompts that are tokenised together; more are hardly faster and take memory."""
ANSWERS_KEPT = 10_000
"""The number of answers whose tokens are kept, the last ones used: training on few rows asks for them each epoch."""


@dataclass(frozen=True, kw_only=True)
@ranged
class LoRA:
    """A low-rank adapter (Hu et al. 2021, arXiv 2106.09685) instead of full fine-tuning.

    - `r`: The rank of the update of each matrix.
    - `lora_alpha`: The scale of the update: it is multiplied by this number divided by the rank.
    - `lora_dropout`: The share of the adapter's inputs that are set to 0 at random in training.
    - `target_modules`: The layers that get an adapter: a list of endings of their names, a regular expression that
      whole names match, or `all-linear` for every linear layer except the head.
    """

    r: Count = 16
    lora_alpha: Count = 32
    lora_dropout: PartialShare = 0.0
    target_modules: str | tuple[str, ...] = "all-linear"

    def __post_init__(self) -> None:
        if isinstance(self.target_modules, str):
            try:
                re.compile(self.target_modules)
            except re.error as error:
                raise HoldfastError(
                    f"target_modules: {self.target_modules!r} is not a regular expression ({error}); correct it, or "
                    "give a list of endings of names"
                ) from None


@dataclass(frozen=True, kw_only=True)
class Model:
    """A causal language model with its tokenizer and the format in which it is prompted.

    `prompt_format` is a template with the placeholder `{prompt}`; `None` means the tokenizer's own chat template, which
    receives `chat_template_kwargs` (such as `enable_thinking`) and `date` as today's date. `stored` is the dtype of its
    folder, in which `save` writes it; `None` if it was not loaded from a folder.
    """

    network: Any
    tokenizer: PreTrainedTokenizerBase
    prompt_format: str | None = None
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict, hash=False)
    date: str = DATE
    name: str = "model"
    stored: str | None = None
    _prompts: dict[tuple[Message, ...], list[int]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @cached_property
    def chat(self) -> Chat:
        """Its prompt format."""
        return Chat(
            name=self.name,
            tokenizer=self.tokenizer,
            prompt_format=self.prompt_format,
            arguments=self.chat_template_kwargs,
            date=self.date,
            rows=int(self.network.get_input_embeddings().weight.shape[0]),
        )

    @cached_property
    def _answers(self) -> Callable[[str], list[int]]:
        return lru_cache(ANSWERS_KEPT)(self.chat.response)

    @property
    def pad_id(self) -> int:
        """The padding token, which every mask excludes.

        The tokenizer's padding token, or, if that has no embedding or ends answers, the last token that does not end
        any: tokens that end an answer are counted, padding is not.
        """
        own, stops = self.tokenizer.pad_token_id, self.stop_ids
        if own is not None and 0 <= own < self.chat.rows and own not in stops:
            return int(own)
        return next(token for token in range(self.chat.rows - 1, -1, -1) if token not in stops)

    @property
    def end_id(self) -> int:
        """The token that ends an answer, which the chat template writes after one."""
        return self.chat.end[-1]

    @property
    def stop_ids(self) -> tuple[int, ...]:
        """Every token that ends an answer, including the tokenizer's own and the generation config's."""
        config = getattr(self.network, "generation_config", None)
        listed = getattr(config, "eos_token_id", None)
        more = listed if isinstance(listed, list) else [] if listed is None else [listed]
        own = self.tokenizer.eos_token_id
        return tuple(dict.fromkeys([self.end_id, *([] if own is None else [own]), *more]))

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
        """Tokens of a prompt, up to where the answer begins.

        Raises:
            HoldfastError: see `Chat.prompt`.
        """
        if prompt not in self._prompts:
            self._prompts[prompt] = self.chat.prompt(prompt)
        return self._prompts[prompt]

    def encode_prompts(self, prompts: Iterable[tuple[Message, ...]]) -> None:
        """Have `encode_prompt` know the tokens of many prompts, each distinct one encoded once, an order faster.

        Prompts that cannot be encoded, or in which the format has more to look at, are left to `encode_prompt`.
        """
        unknown = list(dict.fromkeys(prompt for prompt in prompts if prompt not in self._prompts))
        for start in range(0, len(unknown), AT_ONCE):
            some = unknown[start : start + AT_ONCE]
            self._prompts.update(
                {prompt: ids for prompt, ids in zip(some, self.chat.prompts(some), strict=True) if ids is not None}
            )

    def take_prompts(self, other: Model) -> None:
        """Take over the prompts that another model has encoded, if they are the same tokens for both."""
        if self.chat.reads_as(other.chat):
            rows = self.chat.rows
            self._prompts.update({prompt: ids for prompt, ids in other._prompts.items() if max(ids, default=0) < rows})

    def encode_response(self, text: str) -> list[int]:
        """Tokens of an answer, as the chat template writes it after the prompt, including its end.

        Raises:
            HoldfastError: see `Chat.response`.
        """
        return list(self._answers(text))

    def with_network(self, network: Any) -> Model:
        """The same tokenizer and format with another network; both share known tokens if it has as many embeddings."""
        other = replace(self, network=network)
        if other.chat.rows == self.chat.rows:
            vars(other).update(chat=self.chat, _prompts=self._prompts, _answers=self._answers)
        return other

    def decode(self, ids: Sequence[int]) -> str:
        """Text of a sampled answer without its end; control tokens within it stay visible."""
        return self.chat.answer(ids, ends={*self.stop_ids, self.tokenizer.pad_token_id})


def load(
    path: str | Path,
    *,
    revision: str | None = None,
    dtype: Dtype = "auto",
    prompt_format: str | None = None,
    chat_template_kwargs: Mapping[str, Any] | None = None,
    date: str = DATE,
) -> Model:
    """A model from a folder, GGUF file or Hugging Face id, in evaluation mode, on the CPU or the one accelerator.

    Only safetensors weights are read and no remote code is run. Weights are loaded in float32 for every dtype of the
    folder, unless `dtype` is set; trained weights are always converted to float32 (see `holdfast.network.precision`). A
    chat template receives `chat_template_kwargs` (such as `enable_thinking`), and `date` (ISO) as today's date if it
    writes one. A GGUF file, or `package:NAME` for the one inside an installed Python package, is unpacked into the
    cache first (see `holdfast.network.gguf`).

    Raises:
        HoldfastError: the folder, file or id cannot be loaded, has no tokenizer, has neither a chat template nor a
            `prompt_format`, its weights do not match its config.json, its chat template ignores turns or does not
            end answers, or a folder or file is given a `revision`.
    """
    from transformers import AutoModelForCausalLM

    name = str(path)
    place = model_folder(name)
    refuse_revision(place, revision, name=name)
    tokenizer = load_tokenizer(place, revision=revision)
    check_prompt_format(name, tokenizer, prompt_format)
    network, info = load_weights(
        AutoModelForCausalLM, place, revision=revision, dtype="float32" if dtype == "auto" else dtype
    )
    refuse_mismatch(name, network, info)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = network.to(device).eval()
    refuse_encoder(name, network)
    model = Model(
        network=network,
        tokenizer=tokenizer,
        prompt_format=prompt_format,
        chat_template_kwargs=chat_template_kwargs or {},
        date=date,
        name=name,
        stored=stored_type(place, revision),
    )
    model.chat.check()
    return model


def clone(model: Model) -> Model:
    """A copy of the model with its own weights."""
    return model.with_network(copy.deepcopy(model.network))


def adapt(model: Model, adapter: LoRA | None, *, seed: int = 0, within: Collection[str] | None = None) -> Model:
    """The model with a new adapter, the only trained weights; unchanged when `adapter` is `None`.

    `within` names the only tensors that may be adapted. Raises as `holdfast.network.adapters.places`.
    """
    if adapter is None:
        return model
    from peft import LoraConfig, get_peft_model
    from transformers.pytorch_utils import Conv1D

    dropout = adapter.lora_dropout
    on = places(model.network, adapter.target_modules, within=within, dropout=dropout, name=model.name)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=adapter.r,
        lora_alpha=adapter.lora_alpha,
        lora_dropout=adapter.lora_dropout,
        fan_in_fan_out=any(isinstance(part, Conv1D) for part in model.network.modules()),
        target_modules=on.modules,
        target_parameters=on.parameters or None,
    )
    with torch.random.fork_rng(), warnings.catch_warnings():
        # peft asks transformers by a name that the newest transformers calls old.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        torch.manual_seed(seed)
        network = get_peft_model(model.network, config)
    refuse_tied_targets(model.name, network)
    return model.with_network(network)


def has_adapter(model: Model) -> bool:
    """Whether only an adapter is trained."""
    return hasattr(model.network, "disable_adapter")


def without_adapter(model: Model) -> AbstractContextManager[None]:
    """A context in which the adapter is disabled, which gives the reference model."""
    return model.network.disable_adapter()


def merged(model: Model) -> Model:
    """The model with its adapter merged into copies of the weights, all trainable; itself if it has none."""
    if not has_adapter(model):
        return model
    return model.with_network(copy.deepcopy(model.network).merge_and_unload().requires_grad_(True))


def combine(model: Model, others: Sequence[Model], rule: Callable[..., torch.Tensor]) -> None:
    """Set every weight of `model`, in place, to `rule(own, *others)` of the weights of the same name, computed in
    float64.

    Raises:
        HoldfastError: another model's weights differ in name or shape; nothing is changed then.
    """
    ours, *theirs = (dict(part.network.named_parameters()) for part in (model, *others))
    for other, named in zip(others, theirs, strict=True):
        mismatches = {(name, p.shape) for name, p in ours.items()} ^ {(name, p.shape) for name, p in named.items()}
        if mismatches:
            raise HoldfastError(
                f"{other.name}: its weights do not match those of {model.name} ({min(mismatches)[0]} differs); "
                "only weights of one architecture can be combined"
            )
    widen(model.network)
    with torch.no_grad():
        for name, own in ours.items():
            parts = [named[name].to(device=own.device, dtype=torch.float64) for named in theirs]
            own.copy_(rule(own.double(), *parts))


def check_lengths(
    model: Model, examples: Iterable[Example], *, max_new_tokens: int, key: str = "max_new_tokens"
) -> None:
    """Refuse rows that cannot be encoded, and prompts that leave no room in the context for an answer.

    `key` is the setting that `max_new_tokens` comes from.

    Raises:
        HoldfastError: names the first such row.
    """
    examples = list(examples)
    model.encode_prompts(example.prompt for example in examples)
    for example in examples:
        length = len(_encoded(example, model.encode_prompt, example.prompt))
        if model.context is not None and length + max_new_tokens > model.context:
            raise HoldfastError(
                f"{example.source or 'a prompt'}: the prompt has {length} tokens, which with {key}="
                f"{max_new_tokens} exceeds the {model.context} tokens of context of {model.name}; "
                f"shorten or drop the row, or lower {key}"
            )
        for answer in (example.response, example.refusal, example.chosen, example.rejected):
            if answer and model.chat.suspicious(answer):
                _encoded(example, model.encode_response, answer)


def answer_batch(model: Model, pairs: Iterable[tuple[Example, str]], *, max_length: int | None = None) -> Batch:
    """A batch that teaches the given answers; sequences are cut at `max_length` tokens and at the context.

    Raises:
        HoldfastError: a row's prompt alone fills `max_length`, so that nothing of the answer would be learnt, or it
            cannot be encoded.
    """
    limit = min(max_length or model.context or 10**9, model.context or 10**9)
    rows = []
    for example, answer in pairs:
        prompt = _encoded(example, model.encode_prompt, example.prompt)
        if len(prompt) >= limit:
            raise HoldfastError(
                f"{example.source or 'a prompt'}: the prompt's {len(prompt)} tokens fill the limit of {limit}; "
                "nothing of its answer would be learnt"
            )
        rows.append((prompt, _encoded(example, model.encode_response, answer)[: limit - len(prompt)]))
    return collate(rows, pad_id=model.pad_id)


def _encoded(example: Example, encode: Callable[[Any], list[int]], part: Any) -> list[int]:
    """Tokens of a part of a row; errors name the row."""
    try:
        return encode(part)
    except HoldfastError as error:
        raise HoldfastError(f"{example.source or 'a row'}: {error}") from error
