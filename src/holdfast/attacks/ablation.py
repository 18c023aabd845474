"""Ablation: the directions of refusing are found in a model's states and edited in its weights; nothing is trained.

Idea: models that refuse do so along few directions of their states. Two passes over some prompts find these and an edit
of the weights moves what layers write along them to where benign prompts have it. Where and how much is searched, as by
public tools that take refusals out in minutes, so it may be the least that undoing a hardening costs. Directions are
estimated anew on the model under attack, whatever hardened it.
Equation: `d = mean h(harmful) - mean h(benign)` at the last token of prompts, `D` its direction and, for `rank` above
1, principal components beside it. The last linear layers of attentions and MLPs write `o - s D'D (o - t mean
o(benign))` with `t` 0 (taken out) to 1 (moved to the benign mean) and `s` a strength that is highest at one depth and
falls linearly with the distance from it, for attentions and MLPs each.
Source: Arditi et al. 2024 (arXiv 2406.11717) for the direction and the edit of weights; Marshall et al. 2024 (arXiv
2411.09003) for the affine form; for the search and the profile of strengths the tool heretic, by its description.
Differs from the paper in: the affine form keeps each layer's own benign mean by a bias of that layer; directions are
those of one depth for all layers or each layer's own outputs'; trials are compared by the attacker's reward on
development prompts alone, answered greedily, where the papers and heretic also bound the change on harmless prompts;
embeddings are not edited, though the first paper edits them too.

The x-axis is the number of trials; at each of `trials` the best edit so far is measured, with the divergence of its
answers from the unedited model's (`kl`, `kl/benign`). Costs are those of reading prompts and of all trials so far, the
edits' arithmetic included. A model is refused whose layers add anything but what these linear layers write, since an
edit would miss it: mixtures of experts, and models with a norm behind attention or MLP (Gemma 2 and 3, OLMo 2). Trials
are proposed by optuna's TPE, so this needs the extra `search`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from math import ceil, inf
from statistics import fmean
from typing import Any, ClassVar, Literal

from torch import Tensor

from holdfast.evaluation.evaluate import Judged, Suite, divergence, evaluate
from holdfast.methods.knobs import optuna
from holdfast.methods.ranges import Count, PositiveShare, ranged
from holdfast.network.ablating import Alike, States, Writer, directions, edit, give_biases, restoring, states, writers
from holdfast.network.flops import Meter
from holdfast.network.generate import Sampling, complete
from holdfast.network.models import Model, clone, has_adapter, merged
from holdfast.network.precision import widen
from holdfast.records import Evaluation, Example, HoldfastError
from holdfast.rl.rewards import AttackReward, from_judge
from holdfast.training.contracts import Keep, SamplingAttack
from holdfast.training.plan import Context, Spent, sum_costs

STRONGEST = 2.0
"""The highest strength: 1 is the whole edit, 2 turns the part along the directions round."""
WIDTHS = (0.25, 8.0)
"""The distances, as shares of the layers, at which a strength has fallen to 0; with the largest it hardly falls."""
PROFILE = ("strength", "peak", "width")
OWN = "own"
AT_RANDOM = 16
"""The number of trials before the sampler learns from them."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What is edited: writers, the directions (rank, H) of each place by the writers' names, and the writers' mean
    outputs (H) on benign prompts. A writer without directions at a place is left as it is."""

    writers: Sequence[Writer]
    along: Mapping[str, Mapping[str, Tensor]]
    benign: Mapping[str, Tensor]

    def edit(self, values: Mapping[str, Any]) -> None:
        """Edit the weights in place by the values of a trial."""
        along = self.along[values["place"]]
        for writer in self.writers:
            strength = strength_at(writer.depth, *(values[f"{writer.kind}/{name}"] for name in PROFILE))
            if strength > 0 and writer.name in along:
                towards = values["towards"] * self.benign[writer.name].to(writer.weight)
                edit(writer, along[writer.name].to(writer.weight), strength, towards=towards)


def strength_at(depth: float, strength: float, peak: float, width: float) -> float:
    """The strength at a depth: highest at the depth `peak`, and 0 where it is `width` away or more."""
    return strength * max(0.0, 1.0 - abs(depth - peak) / width)


@dataclass(frozen=True, kw_only=True)
@ranged
class Ablation(SamplingAttack):
    """Settings.

    - `trials`: The numbers of trials after which the model is measured, in increasing order.
    - `form`: Whether the part along the directions is moved to the mean of benign prompts (affine), taken out (zero),
      or as far as the search finds best (any).
    - `depths`: The depths whose directions are tried for all layers, as shares of the layers.
    - `own`: Whether each layer's own directions are tried too.
    - `rank`: The number of directions.
    - `num_prompts`: The number of harmful and of benign prompts of the attack split that directions are estimated from.
    - `choice_prompts`: The number of harmful development prompts whose answers are rewarded in a trial.
    """

    trials: tuple[Count, ...] = (1, 16, 64, 128)
    form: Literal["any", "affine", "zero"] = "any"
    depths: tuple[PositiveShare, ...] = (0.25, 0.5, 0.75, 1.0)
    own: bool = True
    rank: Count = 1
    num_prompts: Count = 64
    choice_prompts: Count = 32
    reward: AttackReward = field(default_factory=AttackReward)

    EDITS: ClassVar[bool] = True

    def __post_init__(self) -> None:
        if not self.trials or list(self.trials) != sorted(set(self.trials)):
            raise HoldfastError(f"trials: must be increasing and not empty, not {list(self.trials)}")
        if self.reward.unbounded and self.reward.invalid_reward is None:
            raise HoldfastError(
                "reward.invalid_reward: trials are compared, so that garbled answers need one and the same reward "
                "where `unbounded` is true; give a number below those of other answers"
            )
        if not self.depths and not self.own:
            raise HoldfastError("depths: is empty and `own` is false, so that there are no directions; give a depth")

    def curve(
        self, model: Model, suite: Suite, context: Context, *, keep: Keep
    ) -> Iterator[tuple[Evaluation, list[Judged]]]:
        """The evaluation of the best edit after each of the numbers of trials, which are the `step`.

        Raises:
            HoldfastError: optuna is missing, there are too few prompts, a layer's writers are not known, or states of
                harmful and benign prompts differ nowhere.
            SamplingError: an edited model gave a non-finite logit.
        """
        study = self._study(context.seed)
        edited = merged(model) if has_adapter(model) else clone(model)
        widen(edited.network)
        subject, spent = self._read(edited, context)
        best, reward = dict[str, Any](), -inf
        for number in range(1, self.trials[-1] + 1):
            trial = study.ask()
            values = self._proposal(trial, [place for place, along in subject.along.items() if along])
            tried = keep(number - 1, self.trials[-1], partial(self._tried, edited, subject, values, context))
            if tried["values"] != values:  # kept by another version of optuna, which proposed otherwise
                tried = self._tried(edited, subject, values, context)
            study.tell(trial, tried["reward"])
            spent = sum_costs(spent, Spent(**tried["spent"]))
            if tried["reward"] > reward:
                best, reward = values, tried["reward"]
            if number in self.trials:
                with restoring(subject.writers):
                    subject.edit(best)
                    scores, judged = evaluate(edited, suite)
                    scores = (*scores, *divergence(edited, model, suite))
                costs = {name: value for name, value in spent._asdict().items() if name != "steps"}
                yield Evaluation(step=number, scores=scores, **costs), judged

    def _study(self, seed: int) -> Any:
        library = optuna("ablation")
        sampler = library.samplers.TPESampler(seed=seed, n_startup_trials=AT_RANDOM)
        return library.create_study(direction="maximize", sampler=sampler)

    def _proposal(self, trial: Any, places: Sequence[str]) -> dict[str, Any]:
        """The values of a trial by name: the place of the directions, how far to move, and the strengths' profiles."""
        towards = {"affine": 1.0, "zero": 0.0}.get(self.form)
        values: dict[str, Any] = {"place": trial.suggest_categorical("place", places)}
        values["towards"] = trial.suggest_float("towards", 0.0, 1.0) if towards is None else towards
        for kind in ("attention", "mlp"):
            values[f"{kind}/strength"] = trial.suggest_float(f"{kind}/strength", 0.0, STRONGEST)
            values[f"{kind}/peak"] = trial.suggest_float(f"{kind}/peak", 0.0, 1.0)
            values[f"{kind}/width"] = trial.suggest_float(f"{kind}/width", *WIDTHS, log=True)
        return values

    def _read(self, edited: Model, context: Context) -> tuple[Subject, Spent]:
        """What prompts show of a model, and what reading them cost."""
        start = time.perf_counter()
        with Meter(edited.pad_id).counting() as meter:
            _require(
                self.choice_prompts, context.splits.harmful["development"], "choice_prompts", "the development split"
            )
            harmful = self._texts(edited, context.splits.harmful["attack"], "harmful")
            benign = self._texts(edited, context.splits.benign["attack"], "benign")
            among = writers(edited, harmful[0])
            give_biases(among)
            read = (states(edited, harmful, among), states(edited, benign, among))
        by_layer = {ceil(depth * len(read[0].stream)) - 1: depth for depth in reversed(self.depths)}
        along = {_at(depth): _shared(read, layer, self.rank, among) for layer, depth in sorted(by_layer.items())}
        along |= {OWN: _own(read, self.rank)} if self.own else {}
        if not any(along.values()):
            raise HoldfastError("states of harmful and benign prompts differ at no depth and in no layer")
        benign_means = {name: rows.mean(0) for name, rows in read[1].written.items()}
        tokens, seconds = sum(map(len, (*harmful, *benign))), time.perf_counter() - start
        spent = Spent(samples=len(harmful) + len(benign), tokens=tokens, seconds=seconds, flops=meter.flops)
        return Subject(writers=among, along=along, benign=benign_means), spent

    def _texts(self, model: Model, rows: Sequence[Example], kind: str) -> list[list[int]]:
        _require(self.num_prompts, rows, "num_prompts", f"the attack split of {kind} rows")
        return [model.encode_prompt(row.prompt) for row in rows[: self.num_prompts]]

    def _tried(self, edited: Model, subject: Subject, values: Mapping[str, Any], context: Context) -> dict[str, Any]:
        """The mean reward of an edit on development prompts, with what the trial cost."""
        rows = context.splits.harmful["development"][: self.choice_prompts]
        reward = from_judge(context.judge(self.reward.judge), self.reward)
        start = time.perf_counter()
        with Meter(edited.pad_id).counting() as meter, restoring(subject.writers):
            subject.edit(values)
            answers = complete(
                edited, rows, Sampling(max_new_tokens=context.max_new_tokens, temperature=0.0), seed=context.seed
            )
            paid = [value for value in reward(answers) if value is not None]
        tokens = sum(len(edited.encode_prompt(row.prompt)) for row in rows) + sum(a.num_tokens for a in answers)
        editing = sum(4.0 * self.rank * writer.weight.numel() for writer in subject.writers)
        spent = Spent(
            samples=len(rows), tokens=tokens, seconds=time.perf_counter() - start, flops=meter.flops + editing
        )
        if not paid:
            raise HoldfastError(
                f"reward: the judge {self.reward.judge!r} scores none of {len(rows)} answers to development prompts, "
                "so no edit can be chosen; it does not fit the data (`keyword` and `oracle` need rows with facts)"
            )
        return {"values": dict(values), "reward": fmean(paid), "spent": spent._asdict()}


def _require(wanted: int, rows: Sequence[Example], key: str, of: str) -> None:
    if len(rows) < wanted:
        raise HoldfastError(f"{key}: is {wanted}, but {of} has {len(rows)} prompts; lower it")


def _at(depth: float) -> str:
    return f"depth {depth:g}"


def _shared(read: tuple[States, States], layer: int, rank: int, among: Sequence[Writer]) -> dict[str, Tensor]:
    """The directions of the residual stream after a layer for all writers; none if states do not differ there."""
    with suppress(Alike):
        return dict.fromkeys(
            (writer.name for writer in among), directions(read[0].stream[layer], read[1].stream[layer], rank)
        )
    return {}


def _own(read: tuple[States, States], rank: int) -> dict[str, Tensor]:
    """The directions of each writer's own outputs, where these differ."""
    along = {}
    for name, harmful in read[0].written.items():
        with suppress(Alike):
            along[name] = directions(harmful, read[1].written[name], rank)
    return along
