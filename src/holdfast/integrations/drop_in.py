"""Attach online defenses to an existing trainer of transformers or TRL.

    from holdfast.integrations import constrain, defense_context

    trainer = SFTTrainer(...)
    held = constrain(trainer, RefusalLoss(alpha=1.0), context=defense_context(refusals))
    trainer.train()
    held.remove()

The trainer keeps the customer's data, loss, loop, optimizer, checkpoints and logs. A defense sees it as a plan whose
objective is the trainer's own `compute_loss`. A term that a defense adds to the loss counts once per optimizer step, as
in Holdfast's own loop, for any gradient accumulation. The class is not changed: methods of the one instance are
replaced.

A rule that computes the loss twice per batch (`vaccine`) makes TRL count the batch's own metrics twice. In steps that a
defense uses instead of the customer (`lisa` in its `bistate` mode), trainers that sample still do so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import fields
from typing import Any, cast

import torch

from holdfast.api import context as make_context
from holdfast.data.splits import Splits
from holdfast.integrations.answers import model_of
from holdfast.integrations.live import Constrained
from holdfast.integrations.rollouts import (
    check,
    experience_of,
    priced,
    samples,
    steps_per_rollout,
    with_prepare_replaced,
)
from holdfast.integrations.traps import same, warn_of_another_reference, warn_of_vanishing_steps
from holdfast.network.templates import check_prompt_format
from holdfast.records import HoldfastError
from holdfast.rl.experience import Experience
from holdfast.training.contracts import OnlineDefense
from holdfast.training.plan import Context, Optim, Plan, Reference

CHANGED = ("model", "data", "optim", "seed", "learning_rates", "max_grad_norm", "steps_per_rollout", "spent")
"""Parts of a plan that the trainer itself determines."""


def constrain(
    trainer: Any, *defenses: OnlineDefense, context: Context | None = None, prompt_format: str | None = None
) -> Constrained:
    """Attach online defenses to a trainer, in order, before its `train`.

    Args:
        trainer: a `transformers.Trainer` or a subclass: TRL's SFT, DPO, KTO, GRPO and RLOO trainers, or a user's own
            with its own `compute_loss`.
        defenses: settings of online defenses; one whose coefficient is 0 does not change the training, bit for bit.
        context: the rows, seed and judges that defenses use (`defense_context`, `holdfast.api.context`).
        prompt_format: the format of the defense's prompts if the model's tokenizer has no chat template.

    Returns:
        A handle whose `remove` detaches the defenses.

    Raises:
        HoldfastError: the trainer, or a defense's requirement, is not supported; says why.

    Warns if the trainer's steps are smaller than the spacing of its weights' dtype, and if its reference model is not
    the model that it trains (see `traps`).
    """
    _check_trainer(trainer)
    warn_of_vanishing_steps(trainer)
    warn_of_another_reference(trainer)
    if context is not None and any(context.splits.harmful.values()):
        tokenizer = model_of(trainer, prompt_format).tokenizer
        check_prompt_format("the trainer's model", tokenizer, prompt_format)
    live = Constrained(trainer)
    given = context or make_context(Splits(harmful=_nothing(), benign=_nothing()), seed=trainer.args.seed)
    try:
        _attach_defenses(trainer, live, defenses, _plan(trainer, live, prompt_format), context=given)
    except BaseException:
        live.unhook()
        raise
    return live


def _attach_defenses(
    trainer: Any, live: Constrained, defenses: Sequence[OnlineDefense], base: Plan, *, context: Context
) -> None:
    """Constrain the trainer's plan and attach the result if it differs."""
    plan = base
    with _copyable(base.model.network):
        for defense in defenses:
            _check_needs(trainer, defense)
            plan = defense.constrain(plan, context)
    if plan is base:
        return
    for name in CHANGED:
        if getattr(plan, name) != getattr(base, name):
            raise HoldfastError(f"a defense sets `{name}` of the run, which the trainer determines; remove the defense")
    if samples(trainer):
        plan, after = with_prepare_replaced(plan, live.prepare)
        before = cast(Experience, base.prepare)
        check(trainer, before, after)
        if after.advantage is not before.advantage:
            live.also(priced(trainer, after, live.add))
    live.attach(plan)


@contextmanager
def _copyable(network: torch.nn.Module) -> Iterator[None]:
    """Within this context, copies of the network run their own forward pass.

    TRL replaces a network's `forward` by one bound to that network: that of a copy would run the original, whose
    weights change, so that a reference made from it would never differ from the policy.
    """
    taken = {part: vars(part).pop("forward") for part in network.modules() if _is_bound_to_itself(part)}
    try:
        yield
    finally:
        for part, forward in taken.items():
            part.forward = forward


def _is_bound_to_itself(part: torch.nn.Module) -> bool:
    own = vars(part).get("forward")
    cells = getattr(getattr(own, "__func__", own), "__closure__", None) or ()
    return any(getattr(cell.cell_contents, "__self__", None) is part for cell in cells)


def _nothing() -> dict[str, list[Any]]:
    return {name: [] for name in ("defense", "attack", "development", "test")}


def _plan(trainer: Any, live: Constrained, prompt_format: str | None) -> Plan:
    """The trainer's run as a plan, without any defense."""
    args, model = trainer.args, model_of(trainer, prompt_format)
    named = {part.name: getattr(args, part.name) for part in fields(Optim) if hasattr(args, part.name)}
    named["max_steps"] = _max_steps(trainer)
    named["optim"] = str(getattr(args.optim, "value", args.optim))
    reference = _reference(trainer)
    return Plan(
        model=model,
        data=(),
        prepare=experience_of(trainer, seed=args.seed) if samples(trainer) else live.prepare,
        objective=live.objective,
        optim=Optim(**named),
        reference=reference,
        seed=args.seed,
        steps_per_rollout=steps_per_rollout(trainer) if samples(trainer) else 1,
    )


def _max_steps(trainer: Any) -> int:
    """The number of optimizer steps of the trainer."""
    if trainer.args.max_steps > 0:
        return int(trainer.args.max_steps)
    with torch.random.fork_rng():
        counts = trainer.set_initial_training_values(trainer.args, trainer.get_train_dataloader())
    return int(counts[-1])


def _reference(trainer: Any) -> Reference | None:
    """The trainer's reference model if it equals the current model, so that defenses need no copy."""
    own = getattr(trainer, "ref_model", None)
    if not isinstance(own, torch.nn.Module) or getattr(trainer.args, "sync_ref_model", False):
        return None
    reference: torch.nn.Module = trainer.accelerator.unwrap_model(own)
    theirs = dict(reference.named_parameters())
    ours = dict(trainer.accelerator.unwrap_model(trainer.model).named_parameters())
    if theirs.keys() != ours.keys() or not all(same(p, theirs[name]) for name, p in ours.items()):
        return None
    return lambda _: nullcontext(reference)


def _check_trainer(trainer: Any) -> None:
    """Refuse trainers whose loop does not support defenses."""
    from transformers import Trainer

    if not isinstance(trainer, Trainer):
        raise HoldfastError(
            f"{type(trainer).__name__} is not a transformers.Trainer, whose loop the defenses need; give one"
        )
    if hasattr(trainer, "_holdfast"):
        raise HoldfastError("the trainer already has defenses: name all defenses in one call, or call `remove()` first")
    args, accelerator = trainer.args, trainer.accelerator
    reasons = {
        "model_init creates a new model when training begins; give the trainer a model": trainer.model_init is not None,
        "DataParallel splits the loss over GPUs in one process; start the script with torchrun": args.n_gpu > 1,
        "DeepSpeed runs the backward pass in its own engine; use DDP or FSDP": trainer.is_deepspeed_enabled,
        "fp16 scales gradients, but not those of a defense; use bf16": accelerator.scaler is not None,
        f"{args.optim} steps within the backward pass; use another optimizer": "lomo" in str(args.optim).lower(),
    }
    for reason, applies in reasons.items():
        if applies:
            raise HoldfastError(f"{type(trainer).__name__} cannot be constrained: {reason}")


def _check_needs(trainer: Any, defense: OnlineDefense) -> None:
    """Refuse objects that are not online defenses, and defenses that act on what this trainer does not learn from."""
    name, own = type(defense).__name__, type(trainer).__name__
    if OnlineDefense not in type(defense).__mro__:
        raise HoldfastError(
            f"{name} does not derive from `holdfast.training.contracts.OnlineDefense`; let its class do so"
        )
    needs = defense.needs
    if needs == "rewards" and not samples(trainer):
        raise HoldfastError(f"{name} acts on sampled answers, and {own} learns from given ones; use GRPO or RLOO")
    if needs == "answers":
        raise HoldfastError(
            f"{name} replaces the trainer's loss, which would be dropped silently; "
            "use refusal_loss or kl_anchor, which add to it, or Holdfast's own SFT"
        )
