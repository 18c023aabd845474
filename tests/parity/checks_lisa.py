"""Golden checks of Lisa: whole runs of its authors' trainer, through the project's own loop."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
import torch
from golden_case import Case, Check, of, shared_llama
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from holdfast.defenses.online.lisa import Lisa
from holdfast.network.models import Model
from holdfast.records import Example, user
from holdfast.tensors import Batch
from holdfast.training.fit import fit
from holdfast.training.objectives import language
from holdfast.training.plan import Metrics, Optim, Plan, Progress


def run(case: Case) -> None:
    """A run: state, distance to the anchor, penalty, losses and gradient of every step, and the weights at its end."""
    expected = case.expected
    trace = expected["trace"]
    model = tiny()
    rounds = [batch(case, step) for step, seen in enumerate(trace) if seen["status"] == "alignment"]
    plan = Plan(
        model=model,
        data=[Example(prompt=user("a row"))] * expected["n_finetune_samples"],
        prepare=lambda model, micro_batches, step: [batch(case, step)],
        objective=language,
        optim=Optim(
            max_steps=len(trace),
            learning_rate=expected["lr"],
            per_device_train_batch_size=expected["batch_size"],
            optim=expected["optimizer"],
            max_grad_norm=expected["max_grad_norm"],
        ),
    )
    warmup = re.search(r"([0-9.]+) \*", expected["warmup_steps_without_prox"])
    assert warmup
    lisa = Lisa(
        mode="bistate" if expected["guide_data_num"] else "proximal",
        proximal_weight=expected["rho"],
        warmup_fraction=float(warmup[1]),
        alignment_steps=expected["alignment_step"],
        finetune_steps=expected["finetune_step"],
    )
    plan = lisa.around(plan, (lambda number, micro_batches: [rounds[number]]) if lisa.aligns else None)
    seen: list[Metrics] = []
    watch = lambda progress: watched(progress, seen)  # noqa: E731
    fit(replace(plan, hooks=(watch,)))
    check_steps(case, seen)
    check_weights(case, model.network)


def watched(progress: Progress, seen: list[Metrics]) -> None:
    if progress.phase == "step":
        seen.append(progress.metrics)


def check_steps(case: Case, seen: list[Metrics]) -> None:
    trace, allowed = case.expected["trace"], case.tolerance("losses")
    aligning = [step["lisa/aligning"] == 1 for step in seen]
    assert aligning == [step["status"] == "alignment" for step in trace]
    switched = [i > 0 and state != aligning[i - 1] for i, state in enumerate(aligning)]
    assert switched == [step["switched"] for step in trace]
    begins = max_so_far(i if changed else 0 for i, changed in enumerate(switched))
    clock = [i - begin + 1 for i, begin in enumerate(begins)]
    assert clock == [step["clock_after"] for step in trace]
    assert [i for i, step in zip(count(), trace)] == [step["global_step_counter"] for step in trace]
    penalized = [step["lisa/penalty"] > 0 for step in seen]
    # Right after a switch the distance is 0, and with it an active penalty.
    assert penalized == [step["prox_active"] and step["sq_distance_to_anchor"] > 0 for step in trace]
    gaps = [
        {
            "task_loss": step["loss"],
            "total_loss": step["loss"] + step["lisa/penalty"],
            "sq_distance_to_anchor": step["lisa/distance"],
        }
        for step in seen
    ]
    for ours, theirs in zip(gaps, trace, strict=True):
        assert ours == pytest.approx({name: theirs[name] for name in ours}, rel=allowed, abs=1e-12)
    norms = [step["grad_norm"] for step in seen if "grad_norm" in step]
    assert norms == pytest.approx([step["grad_norm_before_clip"] for step in trace][: len(norms)], rel=allowed)
    assert len(norms) == (len(trace) if case.expected["max_grad_norm"] else len(norms))


def max_so_far(values: Any) -> list[int]:
    maxima: list[int] = []
    for value in values:
        maxima.append(max(value, maxima[-1] if maxima else 0))
    return maxima


def check_weights(case: Case, network: torch.nn.Module) -> None:
    """Every weight that the file holds, and of all of them sum, length and largest."""
    match = re.search(
        rf"([0-9.e-]+) \({case.expected['optimizer'].split('_')[0]}\)", case.values["suggested_tolerance"]
    )
    assert match
    allowed = float(match[1])
    for name, value in of(case, f"{case.result}.final.").items():
        torch.testing.assert_close(network.get_parameter(name).detach(), value, rtol=0, atol=allowed)
    for name, sums in case.expected["params_after"].items():
        value = network.get_parameter(name).detach().double()
        assert float(value.norm()) == pytest.approx(sums["l2"], abs=allowed * value.numel() ** 0.5)
        assert float(value.abs().max()) == pytest.approx(sums["absmax"], abs=allowed)
        assert float(value.sum()) == pytest.approx(sums["sum"], abs=allowed * value.numel())


def batch(case: Case, step: int) -> Batch:
    """What the run read at a step, every token to be learnt."""
    ids: Tensor = case.tensors[f"{case.result}.step{step:02d}.input_ids"]
    lengths = torch.full((len(ids),), ids.shape[1])
    return {"input_ids": ids, "loss_mask": torch.ones_like(ids), "lengths": lengths}


def tiny() -> Model:
    network = shared_llama()
    return Model(
        network=network, tokenizer=PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel()), eos_token="<end>")
    )


CHECKS: dict[str, Check] = {"lisa/*": run}
