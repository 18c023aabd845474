"""Golden cases: what published code computed on a tiny model, against what Holdfast computes.

Inputs, coefficients, expectations and tolerances are read from the case files of one folder, `HOLDFAST_GOLDEN` or
`tests/golden`; here is only how a case is put to Holdfast. Every result of every case is collected, and one that no
method here answers to is skipped by name.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from holdfast.attacks.dpo import DPO
from holdfast.attacks.dpo import pairs as prepare_pairs
from holdfast.attacks.sft import SFT
from holdfast.defenses.online.refusal_loss import RefusalLoss
from holdfast.losses.preference import dpo
from holdfast.models import Model
from holdfast.plan import Context, Plan, Splits
from holdfast.records import Example, user
from holdfast.tensors import with_totals

FOLDER = Path(os.environ.get("HOLDFAST_GOLDEN") or Path(__file__).parents[1] / "golden")


class Case(NamedTuple):
    """A case file with its tensors, and the name of one of its results."""

    values: dict[str, Any]
    tensors: dict[str, Tensor]
    result: str

    @property
    def expected(self) -> dict[str, float]:
        return self.values["results"][self.result]

    def tolerance(self, kind: str) -> float:
        """The number after `kind rtol` in the file's own words, "float32: rtol 1e-5, grads rtol 1e-4"."""
        found = re.search(rf"{kind}:? rtol ([0-9.e-]+)", self.values["suggested_tolerance"])
        assert found, self.values["suggested_tolerance"]
        return float(found[1])


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


def dpo_losses(case: Case) -> None:
    """The sigmoid loss of each pair and its mean, in float64, honest and flipped."""
    beta = float(case.result.removeprefix("dpo_beta"))
    chosen, rejected = case.tensors["dpo.policy_chosen"], case.tensors["dpo.policy_rejected"]
    references = case.tensors["dpo.ref_chosen"], case.tensors["dpo.ref_rejected"]
    honest = dpo(chosen, rejected, *references, beta=beta)
    flipped = dpo(rejected, chosen, *reversed(references), beta=beta)
    allowed = {"rtol": case.tolerance("float64"), "atol": 0.0}
    torch.testing.assert_close(honest, case.tensors[f"dpo.losses.beta{beta}"], **allowed)
    torch.testing.assert_close(flipped, case.tensors[f"dpo.losses_flipped.beta{beta}"], **allowed)
    assert float(honest.mean()) == pytest.approx(case.expected["mean"], rel=allowed["rtol"])
    assert float(flipped.mean()) == pytest.approx(case.expected["mean_flipped"], rel=allowed["rtol"])


def beta_of(case: Case) -> float:
    """The number after "beta" in the file's own words on where its DPO loss comes from."""
    found = re.search(r"beta ([0-9.]+)", case.values["source"]["dpo"])
    assert found, case.values["source"]["dpo"]
    return float(found[1])


def pairs(case: Case) -> list[Example]:
    """The case's pairs in their honest order; the attack turns them round."""
    both = zip(examples(case, "chosen"), examples(case, "rejected"), strict=True)
    return [replace(row, chosen=row.response, rejected=other.response) for row, other in both]


def tiny_llama(case: Case) -> Model:
    """The case's model, and a tokenizer whose words are the numbers of its tokens in brackets."""
    config = AutoConfig.from_pretrained(FOLDER / "tiny_llama")
    network = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    network.load_state_dict(of(case, "policy."))
    words = Tokenizer(WordLevel({word(i): i for i in range(config.vocab_size)}, unk_token=word(0)))
    words.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=words, pad_token=word(0), eos_token=word(config.eos_token_id))
    return Model(network=network, tokenizer=fast, prompt_format="{prompt}")


def word(token: int) -> str:
    """A token as text; brackets, since a special token is found inside longer words too."""
    return f"<{token}>"


def examples(case: Case, side: str) -> list[Example]:
    """The rows of `SIDE_ids` as examples: what `SIDE_labels` leaves out is the prompt, the rest the answer."""
    rows = []
    for ids, labels in zip(case.tensors[f"{side}_ids"], case.tensors[f"{side}_labels"], strict=True):
        prompt, answer = (" ".join(map(word, ids[kept].tolist())) for kept in (labels == -100, labels != -100))
        rows.append(Example(prompt=user(prompt), response=answer, refusal=answer, role="harmful"))
    return rows


def of(case: Case, prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with `prefix`, without it."""
    return {name.removeprefix(prefix): value for name, value in case.tensors.items() if name.startswith(prefix)}


def first_step(plan: Plan) -> tuple[float, dict[str, float]]:
    """The whole loss and the metrics of a plan's first step over all of its rows; leaves gradients."""
    batch = with_totals(plan.prepare(plan.model, [plan.data], 0))[0]
    total, metrics = plan.backward(plan.objective, plan.model.network, batch, Tensor.backward)
    return float(total), metrics


Check = Callable[[Case], None]
CHECKS: dict[str, Check] = {
    "refusal_rpa_mix_derived/sft": refusal_mix,
    "refusal_rpa_mix_derived/dpo": refusal_mix,
    "trl_v096_attack_losses/dpo": dpo_losses,
}
"""By case and the first word of the result's name."""


def collected() -> list[Any]:
    """Every result of every case in the folder; one without a check is marked as skipped, and why."""
    found = []
    for path in sorted(FOLDER.glob("*.json")):
        values = json.loads(path.read_text())
        results = values.get("results")
        for result in results if isinstance(results, dict) else []:
            check = CHECKS.get(f"{path.stem}/{result.split('_')[0]}")
            reason = f"{path.stem}: nothing here computes {result} yet"
            marks = [pytest.mark.skip(reason=reason)] if check is None else []
            found.append(pytest.param(path, result, check, id=f"{path.stem}/{result}", marks=marks))
    return found


def test_the_folder_holds_a_case_that_is_checked() -> None:
    assert any(not parameters.marks for parameters in collected()), f"{FOLDER}: no golden case to check"


@pytest.mark.parametrize(("path", "result", "check"), collected())
def test_a_golden_result_is_reproduced(path: Path, result: str, check: Check) -> None:
    check(Case(json.loads(path.read_text()), load_file(path.with_suffix(".safetensors")), result))
