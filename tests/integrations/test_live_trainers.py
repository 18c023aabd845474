"""Defenses on a live `transformers.Trainer` and what users make of it: put on, saved, resumed, refused, off again."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Trainer, TrainingArguments

from holdfast.defenses.online.kl_anchor import KLAnchor
from holdfast.defenses.online.lisa import Lisa
from holdfast.defenses.online.refusal_loss import RefusalLoss
from holdfast.defenses.online.security_vectors import SecurityVectors
from holdfast.defenses.online.weight_anchors import L2Anchor
from holdfast.integrations import constrain, defense_context
from holdfast.network.models import Model, clone
from holdfast.records import Example, HoldfastError, user
from holdfast.tensors import Batch
from holdfast.training.contracts import OnlineDefense
from holdfast.training.fit import fit
from holdfast.training.plan import Context, Examples, Metrics, Optim, Plan, Progress

ROWS, SIZE, ACCUMULATE, STEPS = 12, 2, 4, 6
"""An epoch ends with a step of two micro-batches."""


class Flattening(Trainer):
    """A user's own: a loss that no model here knows, and a mean over its batch."""

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **_: Any) -> Any:
        loss = flatness(model, inputs.pop("words"))
        return (loss, {}) if return_outputs else loss

    def prediction_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        with torch.no_grad():
            return self.compute_loss(model, self._prepare_inputs(inputs)), None, None


def flatness(network: Any, words: Tensor) -> Tensor:
    """A harmless loss: how far from flat the next word's distribution is."""
    return network(input_ids=words, use_cache=False).logits.float().square().mean()


def rows() -> list[Tensor]:
    return list(torch.randint(0, 40, (ROWS, 6), generator=torch.Generator().manual_seed(1)))


def make(model: Model, folder: Path, kind: type[Trainer] = Flattening, **more: Any) -> Any:
    settings = {
        "output_dir": str(folder),
        "max_steps": STEPS,
        "per_device_train_batch_size": SIZE,
        "gradient_accumulation_steps": ACCUMULATE,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "constant",
        "use_cpu": True,
        "report_to": "none",
        "save_strategy": "no",
        "logging_strategy": "no",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        **more,
    }
    return kind(
        model=clone(model).network,
        args=TrainingArguments(**settings),
        train_dataset=rows(),  # type: ignore[arg-type]
        eval_dataset=rows()[:4],  # type: ignore[arg-type]
        data_collator=lambda parts: {"words": torch.stack(parts)},
        processing_class=model.tokenizer,
    )


@pytest.fixture
def model(tiny_model: Callable[..., Model]) -> Model:
    return tiny_model()


@pytest.fixture
def context(make_context: Callable[..., Context]) -> Context:
    return make_context()


def weights(network: Any) -> dict[str, Tensor]:
    return {name: weight.detach().clone() for name, weight in network.named_parameters()}


def equal(some: dict[str, Tensor], others: dict[str, Tensor]) -> bool:
    return some.keys() == others.keys() and all(torch.equal(value, others[name]) for name, value in some.items())


def trained(trainer: Any, **more: Any) -> dict[str, Tensor]:
    trainer.train(**more)
    return weights(trainer.model)


@dataclass
class Spy(OnlineDefense):
    """A defense that counts its steps, writes down what they measured, and may ask the run to stop."""

    stop_after: int = 10**6
    seen: list[Metrics] = field(default_factory=list)

    def constrain(self, plan: Plan, context: Context) -> Plan:
        plan.state.setdefault("spy", 0.0)

        def note(progress: Progress) -> bool:
            if progress.phase == "step":
                plan.state["spy"] += 1
                self.seen.append(progress.metrics)
            return progress.step >= self.stop_after

        return replace(plan, hooks=(*plan.hooks, note))


@pytest.mark.slow
def test_a_users_own_loss_under_a_defense_trains_as_holdfasts_own_run_does(
    model: Model, context: Context, tmp_path: Path
) -> None:
    given: dict[int, list[Tensor]] = {}
    trainer, spy, own_spy = make(model, tmp_path), Spy(), Spy()
    own = trainer.compute_loss

    def compute_loss(network: Any, inputs: Any, **kwargs: Any) -> Any:
        given.setdefault(trainer.state.global_step, []).append(inputs["words"])
        return own(network, inputs, **kwargs)

    trainer.compute_loss = compute_loss
    stack = (RefusalLoss(alpha=0.5, batch_size=2), Lisa(proximal_weight=5.0))
    constrain(trainer, *stack, spy, context=context)
    theirs = trained(trainer)
    assert {len(batches) for batches in given.values()} == {ACCUMULATE, ROWS // SIZE - ACCUMULATE}

    def prepare(model: Model, micro_batches: Sequence[Examples], step: int) -> list[Batch]:
        return [
            {
                "input_ids": words,
                "loss_mask": torch.ones_like(words),
                "lengths": torch.tensor([6] * SIZE),
                "of": torch.tensor(len(given[step])),
            }
            for words in given[step]
        ]

    def objective(network: Any, batch: Batch) -> tuple[Tensor, Metrics]:
        loss = flatness(network, batch["input_ids"]) / batch["of"]
        return loss, {"loss": float(loss.detach())}

    plan = Plan(
        model=clone(model),
        data=[Example(prompt=user("a"))] * ROWS,
        prepare=prepare,
        objective=objective,
        optim=Optim(
            max_steps=STEPS,
            learning_rate=1e-3,
            per_device_train_batch_size=SIZE,
            gradient_accumulation_steps=ACCUMULATE,
        ),
    )
    for defense in (*stack, own_spy):
        plan = defense.constrain(plan, context)
    ours = weights(fit(plan).model.network)

    assert len(spy.seen) == STEPS
    for step, metrics in enumerate(spy.seen):
        assert metrics == pytest.approx({k: v for k, v in own_spy.seen[step].items() if k != "grad_norm"}, rel=1e-4)
    for name, weight in theirs.items():
        torch.testing.assert_close(weight, ours[name], rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_a_defense_that_does_nothing_changes_no_weight_of_a_users_trainer(model: Model, tmp_path: Path) -> None:
    plain, held = make(model, tmp_path), make(model, tmp_path)
    constrain(held, Spy())

    assert equal(trained(plain), trained(held))


@pytest.mark.slow
def test_the_example_of_the_documentation_runs(model: Model, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "constrain.md").read_text()
    example = page.partition("```py\n")[2].partition("```")[0]
    scope = {"trainer": make(model, tmp_path)}
    before = weights(scope["trainer"].model)

    exec(compile(example.replace(", ...]", "]"), "constrain.md", "exec"), scope)

    assert scope["trainer"].state.global_step == STEPS
    assert not equal(before, weights(scope["trainer"].model))


@pytest.mark.slow
def test_the_wrapped_loss_is_the_one_that_the_trainer_logs(model: Model, context: Context, tmp_path: Path) -> None:
    trainer = make(model, tmp_path, logging_strategy="steps", logging_steps=2)
    spy = Spy()
    constrain(trainer, RefusalLoss(alpha=0.5, batch_size=2), spy, context=context)
    trainer.train()

    lines = trainer.state.log_history[: STEPS // 2]
    assert (len(lines), len(spy.seen)) == (STEPS // 2, STEPS)
    for i, line in enumerate(lines):
        steps = spy.seen[2 * i : 2 * i + 2]
        own, refusal = (sum(m[name] for m in steps) / 2 for name in ("loss", "refusal/loss"))
        assert line["holdfast/loss"] == pytest.approx(own)
        assert line["holdfast/refusal/loss"] == pytest.approx(refusal)
        assert line["loss"] == pytest.approx(own + 0.5 * refusal, rel=1e-5)


@pytest.mark.slow
def test_taking_a_defense_off_restores_the_trainer(model: Model, context: Context, tmp_path: Path) -> None:
    plain, held = make(model, tmp_path), make(model, tmp_path)
    kept = held.compute_loss = held.compute_loss
    before, callbacks = dict(vars(held)), list(held.callback_handler.callbacks)
    vectors = SecurityVectors(optim=Optim(max_steps=1, per_device_train_batch_size=2))
    constrained = constrain(held, vectors, Lisa(), context=context)
    assert any(part._forward_hooks for part in held.model.modules())

    constrained.remove()
    constrained.remove()

    assert vars(held).keys() == before.keys()
    assert held.compute_loss is kept
    assert held.callback_handler.callbacks == callbacks
    assert not any(part._forward_hooks for part in held.model.modules())
    assert equal(trained(plain), trained(held))


def test_what_was_put_over_a_defense_has_to_come_off_first(model: Model, context: Context, tmp_path: Path) -> None:
    trainer = make(model, tmp_path)
    held = constrain(trainer, Lisa(), context=context)
    trainer.compute_loss = trainer.compute_loss.__wrapped__
    with pytest.raises(HoldfastError, match="`compute_loss` was replaced"):
        held.remove()


@pytest.mark.slow
def test_a_run_that_goes_on_from_a_checkpoint_ends_as_an_uninterrupted_one(
    model: Model, context: Context, tmp_path: Path
) -> None:
    def held(folder: Path) -> tuple[Any, Any]:
        trainer = make(model, folder, save_strategy="steps", save_steps=3)
        stack = (RefusalLoss(alpha=0.5, batch_size=2), Lisa(proximal_weight=5.0), L2Anchor(coef=0.1), Spy())
        return trainer, constrain(trainer, *stack, context=context)

    whole, first = held(tmp_path)
    through = trained(whole)
    again, second = held(tmp_path)
    resumed = trained(again, resume_from_checkpoint=str(tmp_path / "checkpoint-3"))

    assert equal(through, resumed)
    assert first.plan.state["spy"] == second.plan.state["spy"] == STEPS
    assert equal(first.plan.tensors, second.plan.tensors)


@pytest.mark.slow
def test_a_checkpoint_without_a_defenses_state_is_refused(model: Model, context: Context, tmp_path: Path) -> None:
    make(model, tmp_path, save_strategy="steps", save_steps=3).train()
    trainer = make(model, tmp_path)
    constrain(trainer, Lisa(), context=context)
    with pytest.raises(HoldfastError, match="saved without these defenses"):
        trainer.train(resume_from_checkpoint=True)


@pytest.mark.slow
def test_a_checkpoint_whose_state_is_damaged_is_refused_with_the_way_out(
    model: Model, context: Context, tmp_path: Path
) -> None:
    before = make(model, tmp_path, save_strategy="steps", save_steps=3)
    constrain(before, Lisa(), context=context)
    before.train()
    file = tmp_path / "checkpoint-6" / "holdfast_state.json"
    for damage in ("{", file.read_text().replace('"samples": ', '"samples": 1')):
        file.write_text(damage)
        trainer = make(model, tmp_path)
        constrain(trainer, Lisa(), context=context)
        with pytest.raises(HoldfastError, match=r"state\.json: is damaged .* go on from an earlier checkpoint"):
            trainer.train(resume_from_checkpoint=True)


@dataclass
class Swap(OnlineDefense):
    """A defense whose model leaves the service as another one."""

    other: Model

    def constrain(self, plan: Plan, context: Context) -> Plan:
        @contextmanager
        def released(model: Model) -> Iterator[Model]:
            yield self.other

        return replace(plan, released=released)


def test_the_model_is_saved_as_it_is_released(tiny_model: Callable[..., Model], tmp_path: Path) -> None:
    model, other = tiny_model(), tiny_model(seed=1)
    trainer = make(model, tmp_path)
    own = trainer.model
    constrain(trainer, Swap(other))

    trainer.save_model(str(tmp_path / "out"))

    saved = load_file(tmp_path / "out" / "model.safetensors")
    assert all(torch.equal(saved[n], w) for n, w in weights(other.network).items() if n in saved)
    assert trainer.model is own


@pytest.mark.slow
def test_the_model_is_evaluated_as_it_is_released(model: Model, context: Context, tmp_path: Path) -> None:
    plain, trainer = make(model, tmp_path), make(model, tmp_path)
    optim = Optim(max_steps=3, learning_rate=1e-2, per_device_train_batch_size=2)
    constrain(trainer, SecurityVectors(optim=optim), context=context)

    words = rows()[0][None]
    assert not torch.equal(plain.model(words).logits, trainer.model(words).logits)
    assert trainer.evaluate()["eval_loss"] == plain.evaluate()["eval_loss"]
    predicted = [one.predict(one.eval_dataset).metrics["test_loss"] for one in (trainer, plain)]
    assert predicted[0] == predicted[1]


def test_a_hook_can_end_the_trainers_run(model: Model, tmp_path: Path) -> None:
    trainer = make(model, tmp_path)
    held = constrain(trainer, Spy(stop_after=2))
    trainer.train()
    assert trainer.state.global_step == 2
    assert held.stopped


class Doubling(Flattening):
    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        loss = 2 * self.compute_loss(model.train(), self._prepare_inputs(inputs))
        self.accelerator.backward(loss)
        return loss.detach()


class Twice(Flattening):
    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        loss = sum(self.compute_loss(model.train(), self._prepare_inputs(dict(inputs))) for _ in range(2))
        self.accelerator.backward(loss)
        return loss.detach()  # type: ignore[union-attr]


class Forgetful(Flattening):
    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Tensor:
        return self.compute_loss(model.train(), self._prepare_inputs(inputs)).detach()


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(Doubling, "scales its loss"), (Twice, "computes the loss twice"), (Forgetful, "does not propagate")],
)
def test_a_training_step_that_treats_its_loss_otherwise_is_refused(
    model: Model, context: Context, tmp_path: Path, kind: type[Trainer], reason: str
) -> None:
    trainer = make(model, tmp_path, kind)
    constrain(trainer, L2Anchor(), context=context)
    with pytest.raises(HoldfastError, match=reason):
        trainer.train()


def test_a_defense_that_reads_answers_is_refused_where_there_are_none(
    model: Model, context: Context, tmp_path: Path
) -> None:
    trainer = make(model, tmp_path)
    constrain(trainer, KLAnchor(), context=context)
    with pytest.raises(HoldfastError, match="of the trainer's own batches"):
        trainer.train()


def test_a_trainer_is_constrained_once(model: Model, context: Context, tmp_path: Path) -> None:
    trainer = make(model, tmp_path)
    constrain(trainer, Lisa(), context=context)
    with pytest.raises(HoldfastError, match="already has defenses"):
        constrain(trainer, L2Anchor(), context=context)


def test_a_trainer_that_makes_its_model_later_is_refused(model: Model, tmp_path: Path) -> None:
    trainer = make(model, tmp_path)
    trainer.model_init = lambda: clone(model).network
    with pytest.raises(HoldfastError, match="model_init"):
        constrain(trainer, L2Anchor())


def test_what_is_no_online_defense_is_refused_by_name(model: Model, tmp_path: Path) -> None:
    class Constraint:
        def constrain(self, plan: Plan, context: Context) -> Plan:
            return plan

    with pytest.raises(
        HoldfastError, match=r"Constraint does not derive from `holdfast\.training\.contracts\.OnlineDefense`"
    ):
        constrain(make(model, tmp_path), Constraint())


def test_a_defense_that_settles_what_the_trainer_settles_is_refused(model: Model, tmp_path: Path) -> None:
    class Slow(OnlineDefense):
        def constrain(self, plan: Plan, context: Context) -> Plan:
            return replace(plan, learning_rates={"lm_head": 0.0})

    with pytest.raises(HoldfastError, match="`learning_rates`"):
        constrain(make(model, tmp_path), Slow())


def test_a_stack_that_is_refused_leaves_nothing_of_its_first_defense(
    model: Model, context: Context, tmp_path: Path
) -> None:
    trainer = make(model, tmp_path)
    vectors = SecurityVectors(optim=Optim(max_steps=1, per_device_train_batch_size=2))
    with pytest.raises(HoldfastError, match="is in the stack twice"):
        constrain(trainer, vectors, vectors, context=context)
    assert not any(part._forward_hooks for part in trainer.model.modules())
    assert not hasattr(trainer, "_holdfast")


def test_rows_for_a_defense_are_read_from_mappings_and_refused_without_a_prompt() -> None:
    chat = [{"role": "user", "content": "Bake"}]
    context = defense_context([{"prompt": chat, "refusal": "No."}], benign=[{"prompt": "Stir", "response": "Yes."}])
    assert [row.question for row in context.splits.harmful["defense"]] == ["Bake"]
    assert context.splits.harmful["defense"][0].refusal == "No."
    assert context.splits.benign["defense"][0].response == "Yes."
    for row, says in (
        ({"refusal": "No."}, "harmful row 0: has no `prompt`"),
        ({"prompt": [{"role": "user"}]}, "harmful row 0, column 'prompt': expected turns"),
        (
            {"prompt": [*chat, {"role": "assistant", "content": "x"}]},
            "harmful row 0, column 'prompt': .* must end with",
        ),
        ({"prompt": "Bake", "refusal": 5}, "harmful row 0, column 'refusal': expected"),
    ):
        with pytest.raises(HoldfastError, match=says):
            defense_context([row])


@pytest.mark.slow
def test_a_trainer_without_a_tokenizer_takes_defenses_that_read_no_text(
    model: Model, context: Context, tmp_path: Path
) -> None:
    trainer = make(model, tmp_path)
    trainer.processing_class = None
    with pytest.raises(HoldfastError, match="no tokenizer"):
        constrain(trainer, RefusalLoss(), context=context)
    constrain(trainer, L2Anchor(coef=0.1))
    trainer.train()
    assert trainer.state.global_step == STEPS


def test_a_loop_that_asks_for_no_batches_is_refused(model: Model, context: Context, tmp_path: Path) -> None:
    trainer = make(model, tmp_path)
    constrain(trainer, L2Anchor(), context=context)
    with pytest.raises(HoldfastError, match="the trainer has its own loop, which does not call `get_batch_samples`"):
        trainer.training_step(trainer.model, {"words": torch.stack(rows()[:2])})


def test_an_epoch_that_is_over_gives_no_batches(model: Model, context: Context, tmp_path: Path) -> None:
    trainer = make(model, tmp_path)
    constrain(trainer, L2Anchor(), context=context)
    batches, items = trainer.get_batch_samples(iter([]), 2, torch.device("cpu"))
    assert (batches, items) == ([], None)


@dataclass(frozen=True, kw_only=True)
class Mute(OnlineDefense):
    """A loss on which no weight depends."""

    def constrain(self, plan: Plan, context: Context) -> Plan:
        return replace(plan, objective=lambda network, batch: (torch.zeros(()), {}))


def test_a_step_without_a_gradient_is_a_step_with_a_gradient_of_zero(model: Model, tmp_path: Path) -> None:
    trainer = make(model, tmp_path, max_steps=1, gradient_accumulation_steps=1, weight_decay=0.5)
    before = weights(trainer.model)
    constrain(trainer, Mute())
    trainer.train()
    after = weights(trainer.model)["model.embed_tokens.weight"]
    torch.testing.assert_close(after, before["model.embed_tokens.weight"] * (1 - 1e-3 * 0.5))  # decay acts, as with any


def test_what_is_no_trainer_of_transformers_is_refused_by_name(model: Model) -> None:
    with pytest.raises(HoldfastError, match=r"Model is not a transformers\.Trainer, whose loop the defenses need"):
        constrain(model, L2Anchor())


def test_rows_that_are_examples_already_are_taken_as_they_are() -> None:
    row = Example(prompt=user("Bake"), refusal="No.", domain="oven")
    assert defense_context([row]).splits.harmful["defense"] == [row]
