"""Defenses on a live TRL trainer give, step by step, the losses and weights of Holdfast's own run under them.

The trainer tokenises, collates, samples and pays by itself; what its loss was given is then replayed to Holdfast's own
objective in Holdfast's own loop, under the same defenses.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from trl_parity import END, plain_settings, small_model, text

from holdfast.attacks.dpo import preference
from holdfast.defenses.online.constrained_sft import ConstrainedSFT
from holdfast.defenses.online.kl_anchor import KLAnchor
from holdfast.defenses.online.lisa import Lisa
from holdfast.defenses.online.refusal_loss import RefusalLoss
from holdfast.defenses.online.safe_rlhf import SafeRLHF
from holdfast.defenses.online.security_vectors import SecurityVectors
from holdfast.defenses.online.vaccine import Vaccine
from holdfast.defenses.online.weight_anchors import EWC, L2Anchor
from holdfast.integrations import constrain, defense_context
from holdfast.integrations.answers import answers_in
from holdfast.network.forward import sequence_logprobs
from holdfast.network.generate import evaluating
from holdfast.network.models import LoRA, Model, clone
from holdfast.records import Completion, Example, HoldfastError, Verdict, user
from holdfast.tensors import Batch
from holdfast.training.contracts import OnlineDefense
from holdfast.training.fit import fit
from holdfast.training.objectives import language, policy_gradient
from holdfast.training.plan import Context, Examples, Metrics, Optim, Plan, Progress, frozen_copy
from repeated import repeated

pytest.importorskip("trl")
STEPS, SIZE, ACCUMULATE, LONGEST = 4, 4, 2, 5
"""At most; see `enough`."""
ROWS = STEPS * SIZE * ACCUMULATE
RATE = 1e-3


def length_judge(completions: Sequence[Completion]) -> list[Verdict]:
    """A harmless stand-in for harm: the share of answers' tokens that are odd."""
    return [Verdict(score=sum(map(odd, c.text.split())) / max(len(c.text.split()), 1)) for c in completions]


def odd(word: str) -> bool:
    return int(word.strip("<>")) % 2 == 1


CONTEXT = defense_context(
    [
        {"prompt": text([5, 6, i]), "refusal": text([30, i, 31, 32][: 2 + i % 3]), "response": text([40, i, 41])}
        for i in range(7, 13)
    ],
    judges={"odd": length_judge},
)
BRIEF = Optim(max_steps=3, learning_rate=1e-2, per_device_train_batch_size=2)
DEFENSES: dict[str, Any] = {
    "refusal_loss": RefusalLoss(alpha=0.5, batch_size=2),
    "refusal_loss by tokens": RefusalLoss(alpha=0.5, batch_size=2, form="tokens"),
    "lisa": Lisa(proximal_weight=5.0, warmup_fraction=0.0),
    "lisa in two states": Lisa(
        mode="bistate", proximal_weight=5.0, warmup_fraction=0.0, alignment_steps=1, finetune_steps=1, batch_size=2
    ),
    "kl_anchor": KLAnchor(coef=0.5),
    "l2_anchor": L2Anchor(coef=0.5),
    "ewc": EWC(coef=0.5, num_samples=3),
    "vaccine": Vaccine(perturbation_radius=0.5),
    "security_vectors": SecurityVectors(optim=BRIEF, vector=LoRA(r=2)),
}


@dataclass
class Recorder(OnlineDefense):
    """A defense that defends nothing and writes down what each step measured."""

    seen: list[Metrics] = field(default_factory=list)

    def constrain(self, plan: Plan, context: Context) -> Plan:
        return replace(plan, hooks=(*plan.hooks, self.note))

    def note(self, progress: Progress) -> None:
        if progress.phase == "step":
            self.seen.append({k: v for k, v in progress.metrics.items() if k != "grad_norm"})


def settings(folder: Path) -> dict[str, Any]:
    return plain_settings(folder) | {
        "max_steps": STEPS,
        "per_device_train_batch_size": SIZE,
        "gradient_accumulation_steps": ACCUMULATE,
        "learning_rate": RATE,
        "lr_scheduler_type": "constant",
        "save_strategy": "no",
        "logging_strategy": "no",
    }


def rows(name: str) -> list[dict[str, str]]:
    generator = torch.Generator().manual_seed(3)

    def words(count: int) -> str:
        return text(torch.randint(5, 50, (count,), generator=generator).tolist())

    if name == "grpo":
        return [{"prompt": words(2 + i % 2)} for i in range(ROWS)]
    if name == "kto":
        return [
            {"prompt": words(2) + " ", "completion": f"{words(2 + i % 2)} <{END}>", "label": i % 3 > 0}
            for i in range(ROWS)
        ]
    if name == "dpo":
        return [
            {"prompt": words(2 + i % 2) + " ", "chosen": f"{words(3)} <{END}>", "rejected": f"{words(2)} <{END}>"}
            for i in range(ROWS)
        ]
    return [{"prompt": words(2 + i % 2) + " ", "completion": f"{words(2 + i % 3)} <{END}>"} for i in range(ROWS)]


def make(name: str, model: Model, folder: Path, **more: Any) -> Any:
    """TRL's trainer called `name` on a copy of the model."""
    import trl
    from datasets import Dataset

    config, trainer = {
        "sft": (trl.SFTConfig, trl.SFTTrainer),
        "dpo": (trl.DPOConfig, trl.DPOTrainer),
        "kto": (trl.KTOConfig, trl.KTOTrainer),
        "grpo": (trl.GRPOConfig, trl.GRPOTrainer),
        "rloo": (trl.RLOOConfig, trl.RLOOTrainer),
    }[name]
    sampling = {"num_generations": 4, "max_completion_length": LONGEST, "beta": 0.0}
    own: dict[str, dict[str, Any]] = {
        "sft": {"completion_only_loss": True},
        "dpo": {"beta": 0.3},
        "kto": {},
        "grpo": {**sampling, "loss_type": "grpo", "num_iterations": 2},
        "rloo": sampling,
    }
    extra: dict[str, Any] = {}
    if name in ("grpo", "rloo"):
        extra["reward_funcs"] = lambda completions, **_: [float(len(set(c.split()))) for c in completions]
    if name in ("dpo", "kto"):
        extra["ref_model"] = copy.deepcopy(model.network)
    return trainer(
        model=copy.deepcopy(model.network),
        args=config(**{**settings(folder), **own[name], **more}),
        train_dataset=Dataset.from_list(rows("grpo" if name == "rloo" else name)),
        processing_class=model.tokenizer,
        **extra,
    )


def enough(name: str, defense: str = "") -> int:
    """Steps: the second rollout of GRPO and the second turn of each state of Lisa are at the fourth."""
    return STEPS if name == "grpo" or defense == "lisa in two states" else 2


def record(trainer: Any) -> dict[int, list[Batch]]:
    """What the trainer's loss is given, by step, as Holdfast's batches; filled while the trainer trains."""
    given: dict[int, list[Batch]] = {}
    own = trainer.compute_loss

    def compute_loss(model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        batches = given.setdefault(trainer.state.global_step, [])
        batch = answers_in(inputs)
        assert batch is not None
        if "advantages" in inputs:
            batch |= {"advantages": inputs["advantages"], "old_logprobs": old_logprobs(inputs)}
        # Some rules ask for the loss twice.
        if len(batches) <= trainer._holdfast._place:
            batches.append(batch)
        return own(model, inputs, *args, **kwargs)

    trainer.compute_loss = compute_loss
    return given


def old_logprobs(inputs: dict[str, Tensor]) -> Tensor:
    """TRL's log-probabilities of completions beside left-padded prompts as Holdfast's of right-padded rows."""
    real = torch.cat([inputs["prompt_mask"], inputs["completion_mask"]], dim=1)
    values = torch.cat([torch.zeros(inputs["prompt_ids"].shape), inputs["old_per_token_logps"]], dim=1)
    order = real.argsort(dim=1, descending=True, stable=True)
    return values.gather(1, order)[:, 1 : int(real.sum(1).max())]


def own_run(name: str, model: Model, given: dict[int, list[Batch]], stack: Sequence[Any], steps: int) -> Model:
    """Holdfast's run on what a trainer's loss was given."""
    policy = clone(model)
    reference = frozen_copy(model.network)

    def prepare(model: Model, micro_batches: Sequence[Examples], step: int) -> list[Batch]:
        assert len(given[step]) == len(micro_batches)
        if name != "dpo":
            return [dict(batch) for batch in given[step]]
        with reference(model) as network, evaluating(network):
            return [{**batch, "ref_scores": sequence_logprobs(network, batch)} for batch in given[step]]

    policy_loss = policy_gradient(clip_low=0.2, clip_high=0.2, reduction="sequence", max_tokens=LONGEST)
    plan = Plan(
        model=policy,
        data=[Example(prompt=user("<5>"), response="<6>")] * ROWS,
        prepare=prepare,
        objective={"sft": language, "dpo": preference(0.3), "grpo": policy_loss}[name],
        optim=Optim(
            max_steps=steps,
            learning_rate=RATE,
            per_device_train_batch_size=SIZE,
            gradient_accumulation_steps=ACCUMULATE,
        ),
        steps_per_rollout=2 if name == "grpo" else 1,
    )
    for defense in stack:
        plan = defense.constrain(plan, CONTEXT)
    return fit(plan).model


# Each defense under one trainer, and under the others those that act within the loss: a second one, a disturbed pass.
# Every further way to act (weights put back, a distance, an adapter beside the weights) under all: `make exhaustive`.
CASES = [
    *(("sft", "full", defense) for defense in DEFENSES if defense != "refusal_loss"),
    *(("dpo", "full", defense) for defense in ("refusal_loss", "vaccine")),
    *(("grpo", "full", defense) for defense in ("refusal_loss by tokens", "vaccine")),
    ("sft", "LoRA", "kl_anchor"),
    *repeated(
        *(("dpo", "full", defense) for defense in ("lisa", "kl_anchor", "security_vectors")),
        *(("grpo", "full", defense) for defense in ("lisa in two states", "l2_anchor", "security_vectors")),
        *(("sft", "LoRA", defense) for defense in ("refusal_loss", "lisa")),
        ("sft", "full", "refusal_loss"),
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind", "defense"), CASES)
def test_a_trainer_under_a_defense_trains_as_holdfasts_own_run_does(
    name: str, kind: str, defense: str, tmp_path: Path
) -> None:
    model, ours, theirs, steps = small_model(kind), Recorder(), Recorder(), enough(name, defense)
    trainer = make(name, model, tmp_path, max_steps=steps)
    given = record(trainer)
    held = constrain(trainer, DEFENSES[defense], theirs, context=CONTEXT, prompt_format="{prompt}")
    trainer.train()

    own = own_run(name, model, given, (DEFENSES[defense], ours), steps)

    assert len(theirs.seen) == len(ours.seen) == steps
    assert max(abs(metrics.get("loss", 0.0)) for metrics in theirs.seen) > 1e-3
    for step, (their, our) in enumerate(zip(theirs.seen, ours.seen, strict=True)):
        for key, value in their.items():
            assert value == pytest.approx(our[key], rel=1e-4, abs=1e-6), (step, key)
    named = dict(own.network.named_parameters())
    for key, weight in held.plan.model.network.named_parameters():
        # Adam divides by gradients near 0, so that their rounding, which differs from machine to machine, is seen.
        torch.testing.assert_close(weight, named[key], rtol=1e-4, atol=1e-4)


ALL = ("sft", "dpo", "kto", "grpo", "rloo")


def trained(trainer: Any) -> dict[str, Tensor]:
    torch.manual_seed(5)
    trainer.train()
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_defense_that_does_nothing_leaves_every_weight_bit_for_bit(name: str, tmp_path: Path) -> None:
    model, recorder, steps = small_model("full"), Recorder(), enough(name)
    plain = make(name, model, tmp_path, logging_strategy="steps", logging_steps=1, max_steps=steps)
    before = trained(plain)
    held = make(name, model, tmp_path, logging_strategy="steps", logging_steps=1, max_steps=steps)
    constrain(held, recorder)

    after = trained(held)

    assert len(recorder.seen) == steps
    assert before.keys() == after.keys()
    assert all(torch.equal(weight, after[key]) for key, weight in before.items())
    for theirs, ours in zip(plain.state.log_history[:steps], held.state.log_history[:steps], strict=True):
        logged = {k: v for k, v in ours.items() if not k.startswith("holdfast/")}
        assert {k: v for k, v in theirs.items() if "time" not in k} == {
            k: v for k, v in logged.items() if "time" not in k
        }
        assert ours["holdfast/loss"] == pytest.approx(theirs["loss"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ALL)
def test_a_coefficient_of_0_does_not_touch_the_trainer(name: str, tmp_path: Path) -> None:
    trainer = make(name, small_model("full"), tmp_path)
    before, callbacks = dict(vars(trainer)), list(trainer.callback_handler.callbacks)
    stack = (
        RefusalLoss(alpha=0.0),
        Lisa(proximal_weight=0.0),
        KLAnchor(coef=0.0),
        Vaccine(perturbation_radius=0.0),
        SafeRLHF(multiplier=0.0),
        ConstrainedSFT(beta=0.0),
        SecurityVectors(strength=0.0),
    )

    constrain(trainer, *stack, context=CONTEXT, prompt_format="{prompt}")

    after = vars(trainer)
    assert before.keys() == after.keys()
    assert all(after[key] is value for key, value in before.items())
    assert trainer.callback_handler.callbacks == callbacks


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kto", "rloo"])
def test_a_trainer_without_a_counterpart_here_learns_its_own_loss_and_the_defenses(name: str, tmp_path: Path) -> None:
    model, recorder = small_model("full"), Recorder()
    trainer = make(name, model, tmp_path)
    start = {key: weight.detach().clone() for key, weight in trainer.model.named_parameters()}
    stack = (RefusalLoss(alpha=1e4, batch_size=6), L2Anchor(coef=0.01), KLAnchor(coef=0.01), recorder)
    constrain(trainer, *stack, context=CONTEXT, prompt_format="{prompt}")

    trained(trainer)

    assert {"loss", "refusal/loss", "kl_anchor/kl", "l2_anchor/distance"} <= recorder.seen[-1].keys()
    assert recorder.seen[-1]["refusal/loss"] < recorder.seen[0]["refusal/loss"]
    distance = sum(float((w.detach() - start[k]).square().sum()) for k, w in trainer.model.named_parameters())
    assert 0 < recorder.seen[-1]["l2_anchor/distance"] < distance


@pytest.mark.slow
@pytest.mark.parametrize("form", ["advantage", "reward"])
@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_prices_go_into_the_advantages_that_trl_computes(name: str, form: Any, tmp_path: Path) -> None:
    multiplier, paid = 0.5, []
    defense = SafeRLHF(
        judge="odd", threshold=0.2, multiplier=multiplier, multiplier_learning_rate=0.0, window=8, form=form
    )
    trainer = make(name, small_model("full"), tmp_path, max_steps=1)
    generate = trainer._generate_and_score_completions

    def spied(inputs: Any) -> Any:
        paid.append(generate(inputs))
        return paid[-1]

    trainer._generate_and_score_completions = spied
    held = constrain(trainer, defense, context=CONTEXT, prompt_format="{prompt}")
    trained(trainer)
    (output,) = paid
    priced = torch.cat([inputs["advantages"] for inputs in trainer._buffered_inputs])

    texts = trainer.processing_class.batch_decode(output["completion_ids"], skip_special_tokens=True)
    costs = [sum(map(odd, t.split())) / max(len(t.split()), 1) for t in texts]
    rewards = [float(len(set(t.split()))) for t in texts]
    assert held.metrics["cost"] == pytest.approx(sum(costs) / len(costs))

    def by_trl(numbers: list[float]) -> Tensor:
        other = make(name, small_model("full"), tmp_path / "other", max_steps=1)
        other.reward_funcs = [lambda completions, **_: numbers]
        other.model.train()
        other._generate = lambda prompts: kept(output, short=name == "rloo")
        return other._generate_and_score_completions([{"prompt": "<5> <6>"}] * len(numbers))["advantages"]

    if form == "reward":
        expected = by_trl([r - multiplier * c for r, c in zip(rewards, costs, strict=True)])
    else:
        expected = (by_trl(rewards) - multiplier * by_trl(costs)) / (1 + multiplier)
    torch.testing.assert_close(priced.sort().values, expected.sort().values, rtol=1e-4, atol=1e-5)


def kept(output: dict[str, Tensor], *, short: bool) -> tuple[Any, ...]:
    """What `_generate` of a trainer (`short`: of RLOO's) returns, for the answers of an earlier call."""
    prompts = [row[m > 0].tolist() for row, m in zip(output["prompt_ids"], output["prompt_mask"], strict=True)]
    answers = [row[m > 0].tolist() for row, m in zip(output["completion_ids"], output["completion_mask"], strict=True)]
    said = [""] * len(answers)
    return (prompts, answers, said) if short else (prompts, answers, None, said, None, {}, None, None)


@pytest.mark.slow
def test_a_loss_that_would_be_dropped_is_refused(tmp_path: Path) -> None:
    trainer = make("sft", small_model("full"), tmp_path)
    with pytest.raises(HoldfastError, match="replaces the trainer's loss"):
        constrain(trainer, ConstrainedSFT(), context=CONTEXT, prompt_format="{prompt}")


def test_a_price_on_given_answers_is_refused(tmp_path: Path) -> None:
    trainer = make("dpo", small_model("full"), tmp_path)
    with pytest.raises(HoldfastError, match="learns from given ones"):
        constrain(trainer, SafeRLHF(judge="odd", threshold=0.1), context=CONTEXT, prompt_format="{prompt}")


def test_perturbed_passes_need_the_log_probabilities_of_sampling(tmp_path: Path) -> None:
    trainer = make("grpo", small_model("full"), tmp_path, num_iterations=1)
    with pytest.raises(HoldfastError, match="num_iterations"):
        constrain(trainer, Vaccine(), context=CONTEXT, prompt_format="{prompt}")


def test_rows_and_a_model_without_a_chat_template_need_a_prompt_format(tmp_path: Path) -> None:
    trainer = make("sft", small_model("full"), tmp_path)
    with pytest.raises(HoldfastError, match="prompt_format"):
        constrain(trainer, RefusalLoss(), context=CONTEXT)
