"""Golden checks of RepNoise, Circuit Breakers and RMU, each against its authors' code."""

from __future__ import annotations

import re
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from golden_case import Case, Check, eager_llama, of
from peft import LoraConfig, get_peft_model
from torch import Tensor

from holdfast.defenses.offline.circuit_breakers import CircuitBreakers
from holdfast.defenses.offline.repnoise import RepNoise
from holdfast.defenses.offline.rmu import RMU
from holdfast.defenses.representation import Loss, Removal
from holdfast.losses import representation as losses
from holdfast.network.anatomy import unwrapped
from holdfast.tensors import with_totals


def mmd(case: Case) -> None:
    """The discrepancy of two samples and its gradient, in float64."""
    source = case.tensors[f"{case.result}.source"].requires_grad_()
    value = losses.mmd(source, case.tensors[f"{case.result}.target"])
    value.backward()
    allowed = case.tolerance("float64")
    assert value.item() == pytest.approx(case.expected["loss"], rel=allowed)
    assert float(source.grad.norm()) == pytest.approx(case.expected["grad_norm"], rel=allowed)
    expected = case.tensors[f"{case.result}.grad_source"]
    torch.testing.assert_close(source.grad, expected, rtol=allowed, atol=allowed * float(expected.abs().max()))


def masked_ce(case: Case) -> None:
    """The paired cross entropy with both quirks, and its gradient, in float64."""
    logits = case.tensors["logits"].requires_grad_()
    value = losses.masked_cross_entropy(
        logits, case.tensors["labels"], case.tensors["mask"], drop_token_zero=True, zero_unmasked_logits=True
    )
    value.backward()
    expected, allowed = case.values["results"], case.tolerance("float64")
    assert value.item() == pytest.approx(expected["loss"], rel=allowed)
    assert float(logits.grad.norm()) == pytest.approx(expected["grad_norm"], rel=allowed)
    torch.testing.assert_close(logits.grad, case.tensors["grad_logits"], rtol=allowed, atol=allowed)
    wanted = losses.targets(case.tensors["labels"], case.tensors["mask"], drop_token_zero=True)
    assert len(wanted.tokens) == expected["n_label_positions"]


def repnoise(case: Case) -> None:
    """Loss, components, gradients and the weights after a step of plain gradient descent, with the file's noise."""
    network, expected = eager_llama(), case.expected
    settings = RepNoise(mode="parity", noise_weight=expected["beta"], ascent_weight=expected["alpha"])
    harmful, refusals = case.tensors["harmful_input_ids"], case.tensors["harmless_input_ids"]
    differ = (harmful != refusals).long().repeat(2, 1)
    batch = {"input_ids": torch.cat([harmful, refusals]), "loss_mask": differ, "read": differ}
    batch["attention_mask"] = torch.cat(
        [case.tensors["harmful_attention_mask"], case.tensors["harmless_attention_mask"]]
    )
    batch |= {"harmful": torch.arange(len(differ)) < len(harmful), "progress": torch.tensor(1.0)}
    noise = list(of(case, f"{case.result}.noise.layer").values())
    objective = WithTargets(removal=settings.removal, noise=noise)

    loss, metrics = objective(network, {**batch, "noise_seed": torch.tensor(0)} | totals(batch))
    loss.backward()

    parts, allowed = expected["components"], case.tolerance("float32: loss")
    terms = {"loss": expected["loss"], "refusal": parts["harmless_masked_ce"]}
    if settings.noise_weight:
        terms["removal"] = parts["noise_mmd_mean"]
    if settings.ascent_weight:
        terms["ascent"] = torch.tensor(parts["harmful_term_before_log"]).log().item()
    assert metrics == pytest.approx(terms, rel=allowed)
    norm = torch.stack([p.grad.norm() for p in network.parameters() if p.grad is not None]).norm()
    assert float(norm) == pytest.approx(expected["grad_norm_total"], rel=1e-5)
    gradients = {name: p.grad for name, p in network.named_parameters()}
    for name, gradient in of(case, f"{case.result}.grad.").items():
        torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=absolute(case, "grads"))
    (after,) = (value for key, value in expected.items() if key.startswith("params_after_sgd_lr"))
    (rate,) = (float(key.rpartition("lr")[2]) for key in expected if key.startswith("params_after_sgd_lr"))
    for name, parameter in network.named_parameters():
        moved = parameter.detach() - rate * (0 if parameter.grad is None else parameter.grad)
        assert sums(moved) == pytest.approx(after[name], abs=absolute(case, "grads") * parameter.numel())


class WithTargets(Loss):
    """The family's objective with the draws of the case in place of its own."""

    def __init__(self, *, removal: Removal, noise: list[Tensor]) -> None:
        super().__init__(removal=removal)
        object.__setattr__(self, "noise", noise)

    def _projected(self, states, batch):
        return self.noise


def circuit_breakers(case: Case) -> None:
    """Coefficients, both losses, the whole and the adapter's gradients."""
    network, expected = lora(case), case.expected
    steps = round(expected["current_training_step_used"] / expected["progress"] / 2)
    depth = unwrapped(network).config.num_hidden_layers
    settings = CircuitBreakers(
        alpha=expected["alpha"], depths=tuple(layer / depth for layer in expected["target_layers"]), jitter=0.0
    )
    harmful, retained = case.tensors["input_ids_circuit_breaker"], case.tensors["input_ids"]
    batch = {"input_ids": harmful, "loss_mask": torch.ones_like(harmful), "harmful": torch.ones(len(harmful)).bool()}
    batch["attention_mask"] = batch["read"] = case.tensors["attention_mask_circuit_breaker"]
    batch |= {"retain/input_ids": retained, "retain/loss_mask": torch.ones_like(retained)}
    batch |= {"retain/attention_mask": case.tensors["attention_mask"], "retain/read": case.tensors["attention_mask"]}
    batch["progress"] = torch.tensor(expected["current_training_step_used"] / steps, dtype=torch.float64)
    objective = Loss(removal=replace(settings.removal, count_padding=True), original=lambda: bare(network))

    loss, metrics = objective(network, {**batch, "noise_seed": torch.tensor(0)} | totals(batch))
    loss.backward()

    allowed = case.tolerance("float32: losses")
    weights = objective._weights(float(batch["progress"]))
    assert weights["retain"] == pytest.approx(expected["retain_coeff"], rel=allowed)
    assert weights["removal"] == pytest.approx(expected["circuit_breaker_coeff"], rel=allowed)
    terms = {"loss": "loss", "removal": "circuit_breaker_loss", "retain": "retain_loss"}
    assert metrics == pytest.approx({name: expected[key] for name, key in terms.items()}, rel=allowed)
    gradients = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    norm = float(torch.stack([gradient.norm() for gradient in gradients.values()]).norm())
    if expected["init_lora_B"] == "zero":
        assert norm < 1e-5  # mathematically zero: the file's own figure is rounding
    else:
        assert norm == pytest.approx(expected["grad_norm_total"], rel=1e-5)
    for name, gradient in of(case, f"{case.result}.grad.").items():
        torch.testing.assert_close(gradients[name], gradient, rtol=0, atol=absolute(case, "grads"))


def lora(case: Case) -> torch.nn.Module:
    """The case's adapter on the shared model, by the file's own words on it."""
    words = case.values["model"]
    rank, alpha = (int(re.search(rf"{name}=(\d+)", words)[1]) for name in ("r", "alpha"))
    network = get_peft_model(
        eager_llama(), LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", task_type="CAUSAL_LM")
    )
    start = of(case, "lora_init.")
    if case.expected["init_lora_B"] == "zero":
        start = {name: value * ("lora_A" in name) for name, value in start.items()}
    missing, unexpected = network.load_state_dict(start, strict=False)
    assert not unexpected
    assert not any("lora" in name for name in missing)
    return network.train()


@contextmanager
def bare(network):
    with network.disable_adapter():
        yield network


def rmu(case: Case) -> None:
    """Every step's losses, the first gradients and the last weights, under the optimizer of the published code."""
    network, original, expected = eager_llama(), eager_llama().eval(), case.expected
    count = len(network.model.layers)
    settings = RMU(
        vector_length=expected["steering_coeff"][0],
        alpha=expected["alpha"][0],
        depth=(expected["layer_id"] + 1) / count,
        trained_layers=len(expected["layer_ids"]),
    )
    draws = torch.cat(list(of(case, f"{case.result}.rand_uniform").values())).squeeze(1)
    vectors = losses.control_vector(draws, settings.vector_length)
    stored = torch.cat(list(of(case, f"{case.result}.control_vec").values())).squeeze(1)
    torch.testing.assert_close(vectors, stored, rtol=1e-6, atol=0)
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in expected["trainable"])
    objective = Loss(removal=settings.removal, original=lambda: opened(original), vectors=vectors)
    trained = {name: p for name, p in network.named_parameters() if p.requires_grad}
    step = old_adamw(case, trained)
    for at in expected["steps"]:
        loss, metrics = objective(network, rmu_batch(case, at["topic"], at["batch"]))
        loss.backward()
        if at["idx"] == 0:
            check_first_gradients(case, trained)
        terms = {"loss": at["loss"], "removal": at["unlearn_mse"], "retain": at["retain_mse_unscaled"]}
        assert metrics == pytest.approx(terms, rel=case.tolerance("step losses"), abs=1e-9), at
        step()
    for name, value in of(case, f"{case.result}.final.").items():
        torch.testing.assert_close(trained[name].detach(), value, rtol=0, atol=absolute(case, "final weights"))


def rmu_batch(case: Case, topic: int, number: int) -> dict[str, Tensor]:
    """The published code reads every position, padding too."""
    batch = {}
    for prefix, side in (("", "forget"), ("retain/", "retain")):
        tensors = of(case, f"batch.{side}{topic}{number}.")
        every = torch.ones_like(tensors["input_ids"])
        batch |= {f"{prefix}{key}": value for key, value in tensors.items()}
        batch |= {f"{prefix}read": every, f"{prefix}loss_mask": every}
    rows = len(batch["input_ids"])
    batch |= {"harmful": torch.ones(rows).bool(), "topic": torch.full((rows,), topic)}
    return {**batch, "progress": torch.tensor(0.0), "noise_seed": torch.tensor(0)} | totals(batch)


def check_first_gradients(case: Case, trained: dict[str, Tensor]) -> None:
    for name, expected in case.expected["grad_norms_step0"].items():
        assert float(trained[name].grad.norm()) == pytest.approx(expected, rel=1e-5)
    for name, gradient in of(case, f"{case.result}.step0_grad.").items():
        torch.testing.assert_close(trained[name].grad, gradient, rtol=1e-5, atol=absolute(case, "final weights"))


def old_adamw(case: Case, trained: dict[str, Tensor]):
    """The rule that the file spells out: epsilon is added before the bias correction."""
    words, rate = case.expected["optimizer"], case.expected["lr"]
    one, two = map(float, re.search(r"betas \(([0-9.]+),([0-9.]+)\)", words).groups())
    epsilon = float(re.search(r"eps ([0-9.e-]+)", words)[1])
    first, second = ({name: torch.zeros_like(p) for name, p in trained.items()} for _ in range(2))
    taken = []

    @torch.no_grad()
    def step() -> None:
        taken.append(None)
        size = rate * (1 - two ** len(taken)) ** 0.5 / (1 - one ** len(taken))
        for name, parameter in trained.items():
            first[name].mul_(one).add_(parameter.grad, alpha=1 - one)
            second[name].mul_(two).addcmul_(parameter.grad, parameter.grad, value=1 - two)
            parameter.addcdiv_(first[name], second[name].sqrt().add_(epsilon), value=-size)
            parameter.grad = None

    return step


@contextmanager
def opened(network):
    yield network


def totals(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return with_totals([batch])[0]


def sums(values: Tensor) -> dict[str, float]:
    exact = values.double()
    return {"sum": float(exact.sum()), "l2": float(exact.norm()), "absmax": float(exact.abs().max())}


def absolute(case: Case, kind: str) -> float:
    """The number after `kind atol` in the file's own words."""
    match = re.search(rf"{kind} atol ([0-9.e-]+)", case.values["suggested_tolerance"])
    assert match, case.values["suggested_tolerance"]
    return float(match[1])


CHECKS: dict[str, Check] = {
    "repnoise_mmd/*": mmd,
    "repnoise_masked_ce/*": masked_ce,
    "repnoise_full/*": repnoise,
    "circuit_breakers/*": circuit_breakers,
    "rmu/*": rmu,
}
