"""Golden checks of Refusal Loss on top of an attack's loss."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from golden_case import FOLDER, Case, Check, examples, first_step, of, tiny_llama
from transformers import AutoModelForCausalLM

from holdfast.attacks.dpo import DPO
from holdfast.attacks.dpo import pairs as prepare_pairs
from holdfast.attacks.sft import SFT
from holdfast.defenses.online.refusal_loss import RefusalLoss
from holdfast.plan import Context, Splits
from holdfast.records import Example


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
        reference = AutoModelForCausalLM.from_pretrained(FOLDER / "tiny_llama", dtype=torch.float32).eval()
        plan = replace(plan, prepare=prepare_pairs(lambda model: nullcontext(reference), max_length=width))
    plan = defense.constrain(plan, context)

    total, metrics = first_step(plan)

    expected = {name: case.expected[name] for name in ("task_loss", "total")}
    found = {"task_loss": metrics["loss"], "total": total}
    if defense.alpha:
        expected["refusal_ce"], found["refusal_ce"] = case.expected["refusal_ce"], metrics["refusal/loss"]
    assert found == pytest.approx(expected, rel=case.tolerance("float32"))
    gradients = {name: p.grad for name, p in model.network.named_parameters() if p.grad is not None}
    norm = torch.stack([grad.double().norm() for grad in gradients.values()]).norm()
    assert float(norm) == pytest.approx(case.expected["grad_norm_total"], rel=case.tolerance("grads"))
    for name, gradient in of(case, f"{case.result}.grad.").items():
        allowed = case.tolerance("grads")
        torch.testing.assert_close(gradients[name], gradient, rtol=allowed, atol=allowed * float(gradient.abs().max()))


def beta_of(case: Case) -> float:
    """The number after "beta" in the file's own words on where its DPO loss comes from."""
    found = re.search(r"beta ([0-9.]+)", case.values["source"]["dpo"])
    assert found, case.values["source"]["dpo"]
    return float(found[1])


def pairs(case: Case) -> list[Example]:
    """The case's pairs in their honest order; the attack turns them round."""
    both = zip(examples(case, "chosen"), examples(case, "rejected"), strict=True)
    return [replace(row, chosen=row.response, rejected=other.response) for row, other in both]


CHECKS: dict[str, Check] = {
    "refusal_rpa_mix_derived/sft": refusal_mix,
    "refusal_rpa_mix_derived/dpo": refusal_mix,
}
