"""Who guides: another model, the same one tuned or warmed up, or a text that is always given.

An expert reads the learner's tokens, so both need one vocabulary. It is never trained here: it is read in evaluation
mode and without gradients.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from holdfast.data.mixing import sample
from holdfast.methods.ranges import Count, Positive, ranged
from holdfast.network.loading import one_line, refuse_other_adapter, refuse_tied_targets
from holdfast.network.models import Model, clone, merged
from holdfast.records import HoldfastError
from holdfast.training.objectives import language
from holdfast.training.optim import Training
from holdfast.training.plan import NOTHING, Context, Optim, Plan, Reference, Spent, given_answers, reference_of

ExpertKind = Literal["model", "adapter", "sft_copy", "tempered", "canned"]


@dataclass(frozen=True, kw_only=True)
@ranged
class Expert:
    """Settings of an expert, of one `kind`.

    - `kind: model`: the one called `name`: `base`, `undefended`, a folder or a Hub id.
    - `kind: adapter`: the learner's weights as it starts from them, with the adapter in the folder `name` merged into a
      copy.
    - `kind: sft_copy`: a copy of the learner as it starts, tuned by `optim` on the harmful answers of `pairs` rows of
      the attack split. What that costs is counted with what the attack costs.
    - `kind: tempered`: the learner as it starts, at another `temperature` (2 unless given).
    - `kind: canned`: `text`, always.

    `temperature` is that of the learner's sampling unless given; canned text has none.
    """

    kind: ExpertKind = "model"
    name: str = "base"
    temperature: Positive | None = None
    pairs: Count = 20
    optim: Training = field(
        default_factory=lambda: Optim(max_steps=20, learning_rate=3e-5, per_device_train_batch_size=8)
    )
    text: str | None = None

    def __post_init__(self) -> None:
        if self.kind == "canned" and not (self.text or "").strip():
            raise HoldfastError("text: `kind: canned` needs the text that is always given")
        if self.kind == "tempered" and self.temperature is None:
            object.__setattr__(self, "temperature", 2.0)


@dataclass(frozen=True, kw_only=True)
class LoadedExpert:
    """An expert that is ready. `spent` is what it cost to make.

    `model` is `None` where it is the learner's own weights, or a text of the tokens `answer`. `temperature` is `None`
    where the learner's is meant.
    """

    model: Model | None = None
    temperature: float | None = None
    answer: tuple[int, ...] | None = None
    spent: Spent = NOTHING
    start: Reference | None = None

    def beginning(self, learner: Model) -> LoadedExpert:
        """The same, where it is the learner's own weights as they are now; holds them a second time if it must."""
        own = self.model is None and self.answer is None
        return replace(self, start=reference_of(learner)) if own else self

    @contextmanager
    def reading(self, learner: Model) -> Iterator[Model]:
        """The expert as a model that reads the learner's prompts as the learner does."""
        if self.start is not None:
            with self.start(learner) as network:
                yield replace(learner, network=network)
        else:
            assert self.model is not None, "a text reads nothing, and own weights are bound by `beginning`"
            yield replace(learner, network=self.model.network)


def load_expert(settings: Expert, model: Model, context: Context) -> LoadedExpert:
    """The expert for a learner that starts as `model`, which is not changed; trains what has to be trained.

    Raises:
        HoldfastError: there is no such model or adapter, or its vocabulary is another.
    """
    if settings.kind == "canned":
        return LoadedExpert(answer=tuple(model.encode_response(settings.text or "")))
    if settings.kind == "tempered":
        return LoadedExpert(temperature=settings.temperature)
    if settings.kind == "sft_copy":
        fitted = context.fit(_tuning(settings, model, context))
        spent = {name: getattr(fitted, name) for name in Spent._fields}
        return LoadedExpert(model=_frozen(fitted.model), temperature=settings.temperature, spent=Spent(**spent))
    if settings.kind == "adapter":
        return LoadedExpert(model=_frozen(_with_adapter(model, settings.name)), temperature=settings.temperature)
    other = context.models(settings.name)
    require_one_vocabulary(model, other)
    return LoadedExpert(model=other, temperature=settings.temperature)


def require_one_vocabulary(learner: Model, expert: Model) -> None:
    """Refuse an expert whose tokens are not the learner's.

    Raises:
        HoldfastError: says what differs.
    """
    ours, theirs = learner.tokenizer.get_vocab(), expert.tokenizer.get_vocab()
    if ours != theirs:
        mismatch = min(set(ours.items()) ^ set(theirs.items()))
        raise HoldfastError(
            f"expert: {expert.name} has another vocabulary than {learner.name} ({len(theirs)} tokens and {len(ours)}; "
            f"{mismatch[0]!r} is not the same in both), so what it writes means nothing to the learner; take an expert "
            "with the learner's tokenizer"
        )
    widths = [int(part.network.get_output_embeddings().weight.shape[0]) for part in (learner, expert)]
    if widths[0] != widths[1]:
        raise HoldfastError(
            f"expert: {expert.name} gives {widths[1]} logits and {learner.name} {widths[0]}; resize its embeddings to "
            "the learner's, or take another"
        )


def _frozen(model: Model) -> Model:
    model.network.eval().requires_grad_(False)
    return model


def _tuning(settings: Expert, model: Model, context: Context) -> Plan:
    rows = context.splits.harmful["attack"]
    chosen = sample(rows, min(settings.pairs, len(rows)), seed=context.seed)
    bad = next((row for row in chosen if not row.response), None)
    if bad is not None:
        raise HoldfastError(f"{bad.source}: expert: `sft_copy` needs harmful answers and the row has none")
    return Plan(
        model=clone(merged(model)),
        data=chosen,
        prepare=given_answers(),
        objective=language,
        optim=settings.optim,
        seed=context.seed,
    )


def _with_adapter(model: Model, folder: str) -> Model:
    from peft import PeftModel
    from peft.utils import SAFETENSORS_WEIGHTS_NAME

    if not (Path(folder) / "adapter_config.json").exists():
        raise HoldfastError(f"expert.name: {folder} holds no adapter_config.json, so it is no adapter's folder")
    if not (Path(folder) / SAFETENSORS_WEIGHTS_NAME).exists():  # peft would go on to read pickled weights
        raise HoldfastError(
            f"expert.name: {folder} holds no {SAFETENSORS_WEIGHTS_NAME}; only safetensors are read, so save the "
            "adapter as such (`save_pretrained(..., safe_serialization=True)`)"
        )
    own: Any = clone(merged(model)).network
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of tensors that do not fit, which are refused below
            adapted = PeftModel.from_pretrained(own, folder)
    except Exception as error:
        raise HoldfastError(f"{folder}: the adapter does not fit {model.name}: {one_line(error)}") from error
    refuse_other_adapter(folder, adapted, Path(folder) / SAFETENSORS_WEIGHTS_NAME)
    refuse_tied_targets(folder, adapted)
    return replace(model, network=adapted.merge_and_unload(), name=f"{model.name}+{folder}")
