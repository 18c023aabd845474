"""Golden checks of Vaccine: both passes over one batch, against its authors' trainer."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from golden_case import Case, Check, of, shared_llama
from torch import Tensor
from torch.nn import functional

from holdfast.network.anatomy import anatomy
from holdfast.tensors import Batch, with_totals
from holdfast.training.objectives import language
from holdfast.training.perturbation import perturbations, slopes_of, two_pass
from parts_of_layers import attentions


def two_passes(case: Case) -> None:
    """Slopes, perturbations, both losses, and the gradient that training sees."""
    expected, divisor = case.expected, case.expected["gradient_accumulation_steps"]
    network = shared_llama().train()
    batch = one_of(case, divisor)
    clean, slopes = slopes_of(language, network, batch)
    assert not any(p.grad is not None for p in network.parameters())
    # The code divides the loss by the number of micro-batches, and the slopes it finds once more.
    slopes = [tuple(slope / divisor for slope in call) for call in slopes]
    (changes,) = perturbations(slopes, expected["rho"])
    losses = case.tolerance("losses")
    atol = number(case, "grads atol")
    assert float(clean) * divisor == pytest.approx(expected["clean_loss"], rel=losses)
    names = attention_names(network)
    assert names == expected["hooked_modules"]
    check_norms(dict(zip(names, slopes[0], strict=True)), expected["raw_grad_norm_per_module"], atol)
    check_norms(
        dict(zip(names, changes, strict=True)), expected["perturbation_norm_per_module"], atol * expected["rho"]
    )
    assert length(slopes[0]) == pytest.approx(expected["global_grad_norm"], abs=atol)
    assert length(changes) == pytest.approx(expected["total_perturbation_norm"], rel=losses)
    for kind, tensors, scale in (("hidden_grad", slopes[0], 1.0), ("perturbation", changes, expected["rho"])):
        stored = of(case, f"{case.result}.{kind}.")
        for name, value in zip(names, tensors, strict=True):
            if stored:
                # The last token predicts nothing and is not read here; in the file its slope is 0.
                whole = functional.pad(value, (0, 0, 0, stored[name].shape[1] - value.shape[1]))
                torch.testing.assert_close(whole, stored[name], rtol=0, atol=atol * scale)

    loss, metrics = two_pass(expected["rho"])(language, network, batch, Tensor.backward)

    assert float(loss) == pytest.approx(expected["returned"], rel=losses)
    assert float(loss) * divisor == pytest.approx(expected["perturbed_loss"], rel=losses)
    assert metrics["clean_loss"] * divisor == pytest.approx(expected["clean_loss"], rel=losses)
    check_gradients(case, network, atol)


def check_gradients(case: Case, network: torch.nn.Module, atol: float) -> None:
    gradients = {name: p.grad for name, p in network.named_parameters()}
    check_norms(gradients, case.expected["grad_norms"], atol)
    assert length(gradients.values()) == pytest.approx(case.expected["final_param_grad_norm"], abs=atol)
    for name, gradient in of(case, f"{case.result}.grad.").items():
        torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=atol)
    network.zero_grad()
    loss, _ = language(network, one_of(case, case.expected["gradient_accumulation_steps"]))
    loss.backward()
    plain = length(p.grad for p in network.parameters())
    assert plain == pytest.approx(case.expected["first_pass_param_grad_norm"], abs=atol)


def check_norms(metrics: dict[str, Any], expected: dict[str, float], atol: float) -> None:
    assert {name: length([value]) for name, value in metrics.items()} == pytest.approx(expected, abs=atol)


def one_of(case: Case, divisor: int) -> Batch:
    """The case's batch as one of `divisor` equal micro-batches of a step."""
    labels, mask = case.tensors["labels"], case.tensors["attention_mask"]
    batch = {
        "input_ids": case.tensors["input_ids"],
        "loss_mask": (labels != -100).long(),
        "lengths": mask.sum(-1),
    }
    return with_totals([batch] * divisor)[0]


def attention_names(network: torch.nn.Module) -> list[str]:
    names = {id(module): name for name, module in network.named_modules()}
    return [names[id(module)] for module in attentions(anatomy(network))]


def length(parts: Any) -> float:
    return float(torch.stack([part.double().norm() for part in parts]).norm())


def number(case: Case, name: str) -> float:
    """The number after `name` in the file's own words on what may differ."""
    match = re.search(rf"{name} ([0-9.e-]+)", case.values["suggested_tolerance"])
    assert match, case.values["suggested_tolerance"]
    return float(match[1])


CHECKS: dict[str, Check] = {"vaccine/*": two_passes}
