"""Golden checks of Refusal Loss on top of an attack's loss, and of the constrained SFT of its source."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from random import Random

import pytest
import torch
from golden_case import Case, Check, examples, first_step, of, shared_llama, tiny_llama, word
from torch import Tensor

from holdfast.attacks.dpo import DPO
from holdfast.attacks.dpo import pairs as prepare_pairs
from holdfast.attacks.sft import SFT
from holdfast.data.splits import Splits
from holdfast.defenses.online.constrained_sft import ConstrainedSFT
from holdfast.defenses.online.refusal_loss import RefusalLoss, after, prefix_length
from holdfast.losses.anchor import constrained_cross_entropy, constrained_weights, position_betas
from holdfast.methods.settings import typed
from holdfast.network.models import Model
from holdfast.records import Example, user
from holdfast.tensors import collate
from holdfast.training.objectives import language
from holdfast.training.plan import Context, Optim, Plan


def refusal_mix(case: Case) -> None:
    """total = task + alpha * CE(refusal): losses, gradient norm, and gradients where the file holds them."""
    width, refusal_width = case.tensors["chosen_ids"].shape[1], case.tensors["refusal_ids"].shape[1]
    model = tiny_llama(case)
    refusals = examples(case, "refusal")
    # The files' answers have no end token: the limit on the length cuts off the one that Holdfast appends.
    defense = RefusalLoss(alpha=case.expected["alpha"], batch_size=len(refusals), max_length=refusal_width)
    dpo = case.result.startswith("dpo")
    rows = pairs(case) if dpo else examples(case, "rejected")
    context = Context(
        splits=Splits(harmful={"attack": rows, "defense": refusals}, benign={}),
        seed=0,
        fit=pytest.fail,
        judge=pytest.fail,
    )
    attack = DPO(max_length=width, beta=beta_of(case)) if dpo else SFT(max_length=width)
    plan = attack.plan(model, context)
    if dpo:  # the case's reference is the shared tiny model, not the policy as the attack finds it
        reference = shared_llama().eval()
        plan = replace(plan, prepare=prepare_pairs(lambda model: nullcontext(reference), max_length=width))
    plan = defense.constrain(plan, context)

    total, metrics = first_step(plan)

    expected = {name: case.expected[name] for name in ("task_loss", "total")}
    computed = {"task_loss": metrics["loss"], "total": total}
    if defense.alpha:
        expected["refusal_ce"], computed["refusal_ce"] = case.expected["refusal_ce"], metrics["refusal/loss"]
    assert computed == pytest.approx(expected, rel=case.tolerance("float32"))
    gradients = {name: p.grad for name, p in model.network.named_parameters() if p.grad is not None}
    norm = torch.stack([grad.double().norm() for grad in gradients.values()]).norm()
    assert float(norm) == pytest.approx(case.expected["grad_norm_total"], rel=case.tolerance("grads"))
    for name, gradient in of(case, f"{case.result}.grad.").items():
        allowed = case.tolerance("grads")
        torch.testing.assert_close(gradients[name], gradient, rtol=allowed, atol=allowed * float(gradient.abs().max()))


def beta_of(case: Case) -> float:
    """The number after "beta" in the file's own words on where its DPO loss comes from."""
    match = re.search(r"beta ([0-9.]+)", case.values["source"]["dpo"])
    assert match, case.values["source"]["dpo"]
    return float(match[1])


def pairs(case: Case) -> list[Example]:
    """The case's pairs in their honest order; the attack turns them round."""
    both = zip(examples(case, "chosen"), examples(case, "rejected"), strict=True)
    return [replace(row, chosen=row.response, rejected=other.response) for row, other in both]


def token_mean(case: Case) -> None:
    """One mean over the tokens of the task and of the refusals: loss and gradients."""
    plan = anchored(case)
    total, metrics = first_step(plan)
    allowed = case.tolerance("float32")
    assert total == pytest.approx(case.expected["loss"], rel=allowed)
    counts = {side: case.values["results"][f"plain_sft_{side}"]["n_tokens"] for side in ("task", "anchor")}
    assert metrics["refusal/share"] == pytest.approx(counts["anchor"] / sum(counts.values()), rel=allowed)
    compare_gradients(case, plan.model.network)


def plain_sft(case: Case) -> None:
    """The losses of the two batches alone."""
    _, metrics = first_step(anchored(case))
    name = {"task": "loss", "anchor": "refusal/loss"}[case.result.removeprefix("plain_sft_")]
    assert metrics[name] == pytest.approx(case.expected["loss"], rel=case.tolerance("float32"))


def anchored(case: Case) -> Plan:
    """SFT on the case's task with its refusals mixed in as the authors' code does."""
    network = shared_llama()
    read = tiny_llama(case)
    model = Verbatim(network=network, tokenizer=read.tokenizer, prompt_format=read.prompt_format)
    refusals = given(case, "anchor.")
    context = Context(
        splits=Splits(harmful={"attack": given(case, "task."), "defense": refusals}, benign={}),
        seed=0,
        fit=pytest.fail,
        judge=pytest.fail,
    )
    settings = {"preset": "qi2024", "recovery": 0.0, "batch_size": len(refusals)}
    return typed(RefusalLoss, settings, case.result).constrain(SFT().plan(model, context), context)


class Verbatim(Model):
    """A model whose answers are learnt as they stand: the file's have no end token."""

    def encode_response(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def given(case: Case, side: str) -> list[Example]:
    """The rows of a side without their padding: what has no label is the prompt, the rest the answer."""
    examples = []
    for prompt, answer in parts(case.tensors[f"{side}input_ids"], case.tensors[f"{side}labels"]):
        text, response = (" ".join(map(word, tokens)) for tokens in (prompt, answer))
        examples.append(Example(prompt=user(text), response=response, refusal=response, role="harmful"))
    return examples


def parts(ids: Tensor, labels: Tensor) -> Iterator[tuple[list[int], list[int]]]:
    """Tokens of each row before its first label, and those that have one."""
    for row, wanted in zip(ids, labels != -100, strict=True):
        yield row[: int(wanted.int().argmax())].tolist(), row[wanted].tolist()


def compare_gradients(case: Case, network: torch.nn.Module) -> None:
    """Every gradient that the file holds of the result, and the norm of all."""
    allowed = re.search(r"grads atol ([0-9.e-]+)", case.values["suggested_tolerance"])
    assert allowed, case.values["suggested_tolerance"]
    gradients = {name: p.grad for name, p in network.named_parameters()}
    expected = of(case, f"{case.result}.grad.")
    assert set(expected) == set(gradients)
    for name, gradient in expected.items():
        torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=float(allowed[1]))
    norm = torch.stack([gradient.double().norm() for gradient in gradients.values()]).norm()
    assert float(norm) == pytest.approx(case.expected["grad_norm_total"], rel=1e-5)


def constrained(case: Case) -> None:
    """Token-wise constrained SFT on the case's task: the reference's log-probabilities, loss and gradients."""
    model = tiny_llama(case)
    reference = shared_llama().eval()
    pairs = list(parts(case.tensors["task.input_ids"], case.tensors["task.labels"]))
    plan = Plan(
        model=model,
        data=[Example(prompt=user(word(0)))] * len(pairs),
        prepare=lambda model, micro_batches, step: [collate(pairs, pad_id=0)],
        objective=language,
        optim=Optim(),
        reference=lambda model: nullcontext(reference),
    )
    context = Context(splits=Splits(harmful={}, benign={}), seed=0, fit=pytest.fail, judge=pytest.fail)
    plan = profile(case.expected).constrain(plan, context)
    (batch,) = plan.batches([plan.data], 0)
    known = case.tensors["soft_sft.reference_logps_full"]
    mask, allowed = known <= 0, case.tolerance("float32")
    width = batch["ref_logprobs"].shape[1]
    assert not mask[:, width:].any()
    torch.testing.assert_close(
        batch["ref_logprobs"][mask[:, :width]], known[mask], rtol=allowed, atol=allowed * float(known[mask].abs().max())
    )
    total, _ = first_step(plan)
    assert total == pytest.approx(case.expected["loss"], rel=allowed)
    compare_gradients(case, model.network)


def profile(values: dict[str, float]) -> ConstrainedSFT:
    """The settings that the file gives by the names of the authors' code."""
    return ConstrainedSFT(
        beta=values["beta"],
        first_factor=values["first_token_bias_factor"],
        early_factor=values["bias_factor"],
        early_tokens=int(values["bias_length"]),
    )


def constrained_tensors(case: Case) -> None:
    """Betas by place, each token's loss, their mean and its gradient, from log-probabilities in float64."""
    settings = profile(case.values["results"]["soft_sft"])
    logprobs, ref_logprobs = (case.tensors[f"{case.result}.{x}_logps_full"] for x in ("policy", "reference"))
    mask, logprobs = (ref_logprobs <= 0).double(), logprobs.requires_grad_()
    allowed = case.tolerance("float32")  # the betas of the file are float32
    betas = position_betas(
        mask,
        beta=settings.beta,
        first=settings.first_factor,
        early=settings.early_factor,
        num_early=settings.early_tokens,
    )
    for row, kept in zip(betas, mask > 0, strict=True):
        assert row[kept].tolist() == pytest.approx(case.expected[f"beta_list_len{int(kept.sum())}"], rel=allowed)
    weights = constrained_weights(logprobs, ref_logprobs, betas, floor=settings.floor)
    losses = (-weights * logprobs)[mask > 0]
    torch.testing.assert_close(losses, case.tensors[f"{case.result}.losses"], rtol=allowed, atol=0)
    loss = constrained_cross_entropy(logprobs, weights, mask)
    loss.backward()
    assert loss.item() == pytest.approx(case.expected["mean"], rel=allowed)
    torch.testing.assert_close(logprobs.grad, case.tensors[f"{case.result}.grad"], rtol=allowed, atol=0)


class Replay(Random):
    """The file's draws in their order; the coin is one of its draws too, 0 for a beginning of a harmful answer."""

    def __init__(self, calls: list[list[int]]) -> None:
        super().__init__()
        self.calls = iter(calls)

    def random(self) -> float:
        return float(self.randint(0, 1))

    def randint(self, a: int, b: int) -> int:
        low, high, value = next(self.calls)
        assert (low, high) == (a, b)
        return value


def augmentation(case: Case) -> None:
    """Refusals after the beginnings of harmful answers that the file's draws give."""
    harmful, refusals = (
        list(parts(case.tensors[f"augment.{side}_input_ids"], case.tensors[f"augment.{side}_labels"]))
        for side in ("harmful", "refusal")
    )
    draws = Replay(case.expected["randint_calls_[lo,hi,value]"])
    starts = [answer[: prefix_length(len(answer), draws, probability=0.5)] for _, answer in harmful]
    assert next(draws.calls, None) is None
    augmented = after(collate(refusals, pad_id=0), starts, pad_id=0)
    expected = of(case, "augment.out.")
    assert torch.equal(augmented["input_ids"], expected["input_ids"])
    assert torch.equal(augmented["loss_mask"], (expected["labels"] != -100).long())
    assert torch.equal(augmented["lengths"], expected["attention_mask"].sum(-1))


CHECKS: dict[str, Check] = {
    "refusal_rpa_mix_derived/sft": refusal_mix,
    "refusal_rpa_mix_derived/dpo": refusal_mix,
    "refusal_qi2024/anchored": token_mean,
    "refusal_qi2024/plain": plain_sft,
    "refusal_qi2024/soft_sft": constrained,
    "refusal_qi2024/soft_sft_tensor": constrained_tensors,
    "refusal_qi2024/augment": augmentation,
}
