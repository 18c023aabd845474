"""The expert: another model, a tuned copy of the learner, the learner at another temperature, or a fixed text.

An expert reads the learner's tokens, so both need the same vocabulary. It is used in evaluation mode and without
gradients.
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
from holdfast.training.objectives import taught
from holdfast.training.optim import Training
from holdfast.training.plan import NOTHING, Context, Optim, Plan, Reference, Spent, reference_of

ExpertKind = Literal["model", "adapter", "sft_copy", "tempered", "canned"]


@dataclass(frozen=True, kw_only=True)
@ranged
class Expert:
    """Settings of an expert, of one kind.

    - `kind`: What writes: another model (`model`), a copy of the learner's initial weights with an adapter merged
      (`adapter`), a copy of the initial learner tuned on a few harmful answers (`sft_copy`, whose costs count in the
      attack's), the initial learner at another temperature (`tempered`), or always the same text (`canned`).
    - `name`: With `kind: model`, the model: `base`, `undefended`, a folder or a Hub id; with `kind: adapter`, the
      adapter's folder.
    - `temperature`: The temperature of the expert's sampling; `None` is the learner's, and 2 with `kind: tempered`.
      Canned text has none.
    - `pairs`: With `kind: sft_copy`, the number of rows of the attack split on whose harmful answers the copy is tuned.
    - `optim`: With `kind: sft_copy`, the optimizer and schedule of that tuning.
    - `text`: With `kind: canned`, the text.
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
            raise HoldfastError("text: `kind: canned` needs a text")
        if self.kind == "tempered" and self.temperature is None:
            object.__setattr__(self, "temperature", 2.0)


@dataclass(frozen=True, kw_only=True)
class LoadedExpert:
    """A loaded expert. `spent` are the costs of making it.

    `model` is `None` for the learner's own weights, or a text of the tokens `answer`. `temperature` is `None` for the
    learner's.
    """

    model: Model | None = None
    temperature: float | None = None
    answer: tuple[int, ...] | None = None
    spent: Spent = NOTHING
    start: Reference | None = None

    def beginning(self, learner: Model) -> LoadedExpert:
        """The same expert; if it is the learner's own weights, bound to their current values, with a copy if needed."""
        own = self.model is None and self.answer is None
        return replace(self, start=reference_of(learner)) if own else self

    @contextmanager
    def reading(self, learner: Model) -> Iterator[Model]:
        """The expert as a model with the learner's prompt format."""
        if self.start is not None:
            with self.start(learner) as network:
                yield replace(learner, network=network)
        else:
            assert self.model is not None, "a text does not read, and own weights are bound by `beginning`"
            yield replace(learner, network=self.model.network)


def load_expert(settings: Expert, model: Model, context: Context) -> LoadedExpert:
    """The expert for a learner with the initial model `model`, which is not changed; trains the expert if necessary.

    Raises:
        HoldfastError: there is no such model or adapter, or its vocabulary differs.
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
            f"expert: {expert.name} has a different vocabulary than {learner.name} ({len(theirs)} tokens and "
            f"{len(ours)}; {mismatch[0]!r} differs), so the learner cannot read its tokens; use an expert with the "
            "learner's tokenizer"
        )
    widths = [int(part.network.get_output_embeddings().weight.shape[0]) for part in (learner, expert)]
    if widths[0] != widths[1]:
        raise HoldfastError(
            f"expert: {expert.name} gives {widths[1]} logits and {learner.name} {widths[0]}; resize its embeddings to "
            "the learner's, or use another expert"
        )


def _frozen(model: Model) -> Model:
    model.network.eval().requires_grad_(False)
    return model


def _tuning(settings: Expert, model: Model, context: Context) -> Plan:
    rows = context.splits.harmful["attack"]
    chosen = sample(rows, min(settings.pairs, len(rows)), seed=context.seed)
    bad = next((row for row in chosen if not row.response), None)
    if bad is not None:
        raise HoldfastError(f"{bad.source}: expert: `sft_copy` needs harmful answers, and the row has none")
    return taught(clone(merged(model)), chosen, settings.optim, seed=context.seed)


def _with_adapter(model: Model, folder: str) -> Model:
    from peft import PeftModel
    from peft.utils import SAFETENSORS_WEIGHTS_NAME

    if not (Path(folder) / "adapter_config.json").exists():
        raise HoldfastError(f"expert.name: {folder} has no adapter_config.json, so it is not an adapter's folder")
    if not (Path(folder) / SAFETENSORS_WEIGHTS_NAME).exists():  # otherwise peft would read pickled weights
        raise HoldfastError(
            f"expert.name: {folder} has no {SAFETENSORS_WEIGHTS_NAME}; only safetensors are read, so save the adapter "
            "in that format (`save_pretrained(..., safe_serialization=True)`)"
        )
    own: Any = clone(merged(model)).network
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about tensors that do not match, which are refused below
            adapted = PeftModel.from_pretrained(own, folder)
    except Exception as error:
        raise HoldfastError(f"{folder}: the adapter does not fit {model.name}: {one_line(error)}") from error
    refuse_other_adapter(folder, adapted, Path(folder) / SAFETENSORS_WEIGHTS_NAME)
    refuse_tied_targets(folder, adapted)
    return replace(model, network=adapted.merge_and_unload(), name=f"{model.name}+{folder}")
