"""Golden checks of TAR, against its authors' code: its losses, its objectives, whole outer steps."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import cycle
from typing import Any

import pytest
import tar_code
import torch
from golden_case import Case, Check, eager_llama, of
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from holdfast.attacks.dpo import preference
from holdfast.defenses.offline.tar import TAR
from holdfast.defenses.tampering.objectives import entropy, mapped, retention
from holdfast.defenses.tampering.runs import Run, TamperResult, restoring_weights, tamper
from holdfast.losses import tamper as losses
from holdfast.losses.preference import dpo
from holdfast.network.models import Model
from holdfast.tensors import (
    Batch,
    masked_mean_per_sequence,
    masked_sum_per_sequence,
    target_mask,
    token_logprobs,
    with_totals,
)
from holdfast.training.objectives import language
from holdfast.training.plan import Objective, Optim, frozen_copy


def tensor_loss(case: Case) -> None:
    """A loss of logits and its gradient, in float64."""
    logits = case.tensors["logits"].requires_grad_()
    ids, mask, logprobs = targets(case, logits)
    threshold = re.search(r"threshold_(\S+)$", case.result)
    computed = {
        "log_p": lambda: tar_code.log_p(logprobs, mask),
        "max_entropy": lambda: losses.max_entropy(logits),
        "log_1_minus_p": lambda: tar_code.log_1_minus_p(
            logits[:, :-1], ids[:, 1:], mask, **({"threshold": float(threshold[1])} if threshold else {})
        ),
    }[case.result.partition("_loss")[0]]()
    computed.backward()
    allowed, gradient = case.tolerance("float64"), case.tensors[f"grad.{case.result}"]
    assert computed.item() == pytest.approx(case.expected["loss"], rel=allowed)
    assert float(logits.grad.norm()) == pytest.approx(case.expected["grad_norm"], rel=allowed)
    torch.testing.assert_close(logits.grad, gradient, rtol=allowed, atol=allowed * float(gradient.abs().max()))


def targets(case: Case, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, the mask over targets, and log-probabilities in the file's precision, which ours agree with in theirs."""
    labels = case.tensors["labels"]
    ids = labels.clamp(min=0)
    mask = target_mask((labels != -100).long()).to(logits.dtype)
    logprobs = logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    torch.testing.assert_close(token_logprobs(logits, ids), logprobs, rtol=1e-5, atol=1e-5)
    return ids, mask, logprobs


def preference_losses(case: Case) -> None:
    """Each form of the preference loss, each pair, in float64; and the sums and means that it is made of."""
    t, form = of(case, "dpo."), case.result.removeprefix("dpo_")
    allowed: dict[str, Any] = {"rtol": case.tolerance("float64"), "atol": 1e-12}
    # The file names no beta: it is what its rewards are of their log-ratios.
    beta = round(float(t["chosen_rewards"][0] / (t["policy_chosen"] - t["ref_chosen"])[0]), 9)
    torch.testing.assert_close(beta * (t["policy_rejected"] - t["ref_rejected"]), t["rejected_rewards"], **allowed)
    ours, theirs = (t["policy_chosen"], t["policy_rejected"]), (t["ref_chosen"], t["ref_rejected"])
    loss = tar_code.preference(ours, theirs, beta=beta, form=form)
    torch.testing.assert_close(loss, t[f"losses.{form}"], **allowed)
    assert float(loss.mean()) == pytest.approx(case.expected["mean"], rel=allowed["rtol"])
    if form == "sigmoid":
        torch.testing.assert_close(dpo(*ours, *theirs, beta=beta), t[f"losses.{form}"], **allowed)
    _, mask, logprobs = targets(case, case.tensors["logits"])
    torch.testing.assert_close(masked_sum_per_sequence(logprobs, mask), t["batch_logps_sum"], **allowed)
    torch.testing.assert_close(masked_mean_per_sequence(logprobs, mask), t["batch_logps_avg"], **allowed)


def schedule(case: Case) -> None:
    """The weight of each inner step, to float32's precision."""
    for expected in case.values["results"][case.result]:
        step_weights = losses.step_weights(expected["K"], expected["lambda"])
        assert step_weights == pytest.approx(expected["values"], rel=torch.finfo(torch.float32).eps * 8)


def objective(case: Case) -> None:
    """Representation retain, random mapping and next-token entropy: losses, and the gradient's norm and parts."""
    model, reference = moved(case)
    forget, retain = (whole(*(case.tensors[f"x_{x}.{key}"] for key in ("input_ids", "labels"))) for x in "fr")
    forget["attention_mask"], retain["attention_mask"] = (case.tensors[f"x_{x}.attention_mask"] for x in "fr")
    expected, network = case.expected, model.network
    allowed = float(re.search(r"rtol ([0-9.e-]+)", case.values["suggested_tolerance"])[1])
    if case.result == "retain_representations":
        loss, metrics = retention(model, frozen_copy(reference), "reference")(network, retain)
        parts = {"loss": expected["loss"], "moved": expected["rep_part"]}
        assert metrics == pytest.approx(parts, rel=allowed)
        assert metrics["loss"] - metrics["moved"] == pytest.approx(expected["lm_part"], rel=allowed)
    elif case.result == "random_mapping":
        learnt, _ = language(network, retain)
        turned, _ = mapped(case.tensors["random_mapping.hash_table"], "reference")(network, forget)
        assert float(learnt.detach()) == pytest.approx(expected["lm_loss"], rel=allowed)
        assert float(turned.detach()) == pytest.approx(expected["cos_loss"], rel=allowed)
        loss = learnt + turned
    else:
        loss, metrics = entropy("reference")(network, forget)
        assert metrics["loss"] == pytest.approx(expected["loss"], rel=allowed)
        assert language(network, forget)[1]["loss"] == pytest.approx(expected["diagnostic_lm_loss"], rel=allowed)
    loss.backward()
    assert norm(p.grad for p in network.parameters()) == pytest.approx(expected["grad_norm_total"], rel=1e-4)
    if case.result == "retain_representations":
        for name, gradient in of(case, "retain.grad.").items():
            same(case, network.get_parameter(name).grad, gradient)


@dataclass
class Loaders:
    """The case's batches, each loader read in order and from the start again when it is at its end."""

    case: Case
    read: dict[str, Iterator[Any]] = field(default_factory=dict)

    def __call__(self, name: str, *parts: str) -> tuple[Tensor, ...]:
        stored = of(self.case, f"data.{name}.")
        if name not in self.read:
            self.read[name] = cycle(range(len(next(iter(stored.values())))))
        number = next(self.read[name])
        return tuple(stored[part][number] for part in parts)


def outer_step(case: Case) -> None:
    """Outer steps of the case: inner losses, weighed losses, gradients of both parts, the weights afterwards."""
    config = case.expected["config"]
    exact = "not_parity_targets" not in case.expected
    model, reference = (
        moved(case) if config["start_params"] == "perturbed" else (as_model(eager_llama()), eager_llama())
    )
    settings = settings_of(config)
    kept = retention(model, frozen_copy(reference), "reference") if config["retain_representations"] else language
    looked, stepped = Loaders(case), Loaders(case)
    looked("retain", "input_ids")  # the code's loop burns one before it starts
    optimizer = torch.optim.SGD(model.network.parameters(), lr=number_in(config["outer_optimizer"], "lr"))
    seen: list[TamperResult] = []
    retained, norms, metrics = [], [], {}
    for _ in range(config["outer_steps"]):
        seen.append(tampered(model, settings, runs_of(looked, config)))
        batch = whole(*looked("retain", "input_ids"))
        retained.append(float(kept(model.network, batch)[0].detach()))
        if exact:
            compare_parts(case, model, seen[-1], partial(kept, model.network, batch))
        optimizer.zero_grad()
        rule = settings.backward(lambda step: runs_of(stepped, config))
        _, metrics = rule(kept, model.network, {**batch, "tar/step": torch.tensor(0)}, Tensor.backward)
        norms.append(norm(p.grad for p in model.network.parameters()))
        optimizer.step()
    check_losses(case, seen, retained)
    assert bool(metrics["resisted"]) is case.expected["tr_gradient_added"]
    if exact:
        check_weights(case, model, norms, seen)


def settings_of(config: dict[str, Any]) -> TAR:
    rate, decay = (number_in(config["inner_optimizer"], name) for name in ("lr", "weight_decay"))
    return TAR(
        inner=Optim(max_steps=config["inner_steps"], learning_rate=rate, weight_decay=decay, max_grad_norm=0),
        tasks=config["tasks"],
        tamper_weight=config["grad_scale"],
        retain_weight=config["retain_scale"],
        decay=config["schedule_lambda"] if config["use_weighting_schedule"] else None,
        evaluate_every=config["subsample"],
        lower_bound=None if config["unbounded"] else config["lower_bound"],
        mode="reference",
    )


def runs_of(loaders: Loaders, config: dict[str, Any]) -> list[Callable[[], Run]]:
    return [partial(run, loaders, config)] * config["tasks"]


def run(loaders: Loaders, config: dict[str, Any]) -> Run:
    """One of the case's attackers, and what it is held against."""
    paired = config["adversary"].startswith("harmful_completions")

    def step(i: int) -> tuple[Objective, Batch]:
        if paired:
            sides = loaders("dpo_harmful_completions", "rejected_input_ids", "rejected_labels")
            return language, whole(*sides)
        name = "forget_train" if config["switch_at"] is None or i >= config["switch_at"] else "adv_retain"
        return language, whole(*loaders(name, "input_ids"))

    probe = (
        (preference(0.1), pairs(loaders)) if paired else (entropy("reference"), whole(*loaders("meta", "input_ids")))
    )
    return Run(step=step, learning_rate=number_in(config["inner_optimizer"], "lr"), probes=[probe])


def pairs(loaders: Loaders) -> Batch:
    """A held-out batch of pairs with the reference's log-probabilities."""
    parts = ("input_ids", "labels")
    stored = [f"{side}_{part}" for side in ("chosen", "rejected") for part in parts]
    references = [f"reference_{side}_logps" for side in ("chosen", "rejected")]
    batch = dict(zip([*stored, *references], loaders("dpo_meta", *stored, *references), strict=True))
    ids, labels = (torch.cat([batch[f"chosen_{part}"], batch[f"rejected_{part}"]]) for part in parts)
    return {**whole(ids, labels), "ref_scores": torch.cat([batch[name] for name in references])}


def tampered(model: Model, settings: TAR, runs: list[Callable[[], Run]]) -> TamperResult:
    """What the attackers did; parameters are bit for bit as before."""
    before = [p.detach().clone() for p in model.network.parameters()]
    weights = settings.weights(len(runs))
    tampering = tamper(model.network, runs, optim=settings.inner, weights=weights, propagate=Tensor.backward)
    assert all(torch.equal(a, b) for a, b in zip(before, model.network.parameters(), strict=True))
    return tampering


def compare_parts(case: Case, model: Model, tampering: TamperResult, kept: Callable[[], tuple[Tensor, Any]]) -> None:
    """The gradients of both parts apart, where the file holds them: those of the last outer step."""
    if case.expected["config"]["outer_steps"] > 1:
        return
    names = [name for name, _ in model.network.named_parameters()]
    for name, gradient in of(case, f"{case.result}.tr_grad.").items():
        same(case, tampering.gradients.get(names.index(name)), gradient)
    with restoring_weights(model.network):
        kept()[0].backward()
        gradients = {name: p.grad for name, p in model.network.named_parameters()}
    for name, gradient in of(case, f"{case.result}.retain_grad.").items():
        same(case, gradients[name], gradient)
    if "last_retain_grad_norm" in case.expected:
        expected = pytest.approx(case.expected["last_retain_grad_norm"], rel=case.tolerance("norms"))
        assert norm(gradients.values()) == expected


def check_losses(case: Case, seen: list[TamperResult], retained: list[float]) -> None:
    allowed, calls = case.tolerance("losses"), case.expected["tamper_resistance_calls"]
    assert [x for tampering in seen for x in tampering.losses] == pytest.approx(
        case.expected["inner_ce_losses"], rel=allowed
    )
    weighed = [x for tampering in seen for x in tampering.weighed]
    assert weighed == pytest.approx([call["scaled_loss"] for call in calls], rel=allowed)
    scales = [w / p for tampering in seen for w, p in zip(tampering.weighed, tampering.probed, strict=True)]
    assert scales == pytest.approx([call["scale"] for call in calls], rel=allowed)
    wanted = case.expected["retain_losses_unscaled"]
    assert retained[: len(wanted)] == pytest.approx(wanted, rel=allowed)


def check_weights(case: Case, model: Model, norms: list[float], seen: list[TamperResult]) -> None:
    """The norms of the outer gradients and the weights after the last step."""
    allowed = case.tolerance("norms")
    assert norms == pytest.approx(case.expected["outer_grad_norms"], rel=allowed)
    if "last_tr_grad_norm" in case.expected:
        assert norm(seen[-1].gradients.held.values()) == pytest.approx(case.expected["last_tr_grad_norm"], rel=allowed)
    for name, value in of(case, f"{case.result}.final.").items():
        same(case, model.network.get_parameter(name).detach(), value)
    for name, sums in case.expected["params_after"].items():
        value = model.network.get_parameter(name).detach().double()
        assert float(value.norm()) == pytest.approx(sums["l2"], rel=allowed)
        assert float(value.abs().max()) == pytest.approx(sums["absmax"], rel=allowed)
        assert float(value.sum()) == pytest.approx(sums["sum"], abs=absolute(case) * value.numel())


def whole(ids: Tensor, labels: Tensor | None = None) -> Batch:
    """Tokens as a batch whose every token is to be learnt, or those that have a label."""
    mask = torch.ones_like(ids) if labels is None else (labels != -100).long()
    lengths = torch.full((len(ids),), ids.shape[1])
    return with_totals([{"input_ids": ids, "loss_mask": mask, "lengths": lengths}])[0]


def moved(case: Case) -> tuple[Model, torch.nn.Module]:
    """The case's model, and the shared one that it is held against."""
    network = eager_llama()
    network.load_state_dict(of(case, "perturbed_params."))
    return as_model(network), eager_llama()


def as_model(network: torch.nn.Module) -> Model:
    return Model(
        network=network, tokenizer=PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel()), eos_token="<end>")
    )


def number_in(text: str, name: str) -> float:
    """The number after `name` in the file's own words."""
    match = re.search(rf"{name} ([0-9.e-]+)", text)
    assert match, text
    return float(match[1])


def absolute(case: Case) -> float:
    return number_in(case.values["suggested_tolerance"], "grads atol")


def norm(gradients: Iterable[Tensor | None]) -> float:
    return float(torch.stack([g.double().norm() for g in gradients if g is not None]).norm())


def same(case: Case, actual: Tensor | None, expected: Tensor) -> None:
    """Equal by the file's `atol`, and its `rtol` on top.

    The gradients of DPO are so large that the file's own, in float32, are further from those of float64 than `atol`.
    """
    allowed = number_in(case.values["suggested_tolerance"], "rtol")
    torch.testing.assert_close(actual, expected, rtol=allowed, atol=absolute(case))


CHECKS: dict[str, Check] = {
    "tar_losses/log": tensor_loss,
    "tar_losses/max": tensor_loss,
    "tar_losses/dpo": preference_losses,
    "tar_losses/schedule": schedule,
    "tar_objectives/*": objective,
    "tar_outer_step/*": outer_step,
}
