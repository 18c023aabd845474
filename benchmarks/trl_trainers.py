"""TRL's trainers on the sandbox's rows, with everything but the training itself disabled."""

from __future__ import annotations

import functools
import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from runs import Run

from holdfast.network import models
from holdfast.network.models import Model
from holdfast.network.releasing import save
from holdfast.records import Completion, Example
from holdfast.rl.rewards import Reward


def train_policy(
    model: Model,
    rows: Sequence[Example],
    run: Run,
    *,
    attack: str,
    reward: Reward,
    settings: dict[str, Any],
    in_place: bool = False,
) -> None:
    """GRPO or RLOO; the given model is not changed, unless it is one from a folder and trained `in_place`."""
    from datasets import Dataset
    from trl import GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

    config, trainer, own = {
        # The published loss: TRL's own default multiplies the KL term by the importance ratio as well.
        "grpo": (GRPOConfig, GRPOTrainer, {"loss_type": "grpo", "use_bias_correction_kl": False}),
        "rloo": (RLOOConfig, RLOOTrainer, {}),
    }[attack]

    def paid(completions: list[Any], completion_ids: list[list[int]], row: list[int], **_: Any) -> list[float | None]:
        answers = zip(completions, completion_ids, row, strict=True)
        return reward(
            [Completion(example=rows[i], text=turns[0]["content"], num_tokens=len(ids)) for turns, ids, i in answers]
        )

    data = Dataset.from_list([{"prompt": _turns(row), "row": i} for i, row in enumerate(rows)])
    make = functools.partial(config, **settings, **own)
    _train(model, run, data, make, trainer=trainer, in_place=in_place, reward_funcs=paid)


def train_supervised(model: Model, rows: Sequence[Example], run: Run, *, attack: str, settings: dict[str, Any]) -> None:
    """SFT on `response`, or DPO on `chosen` and `rejected`; the given model is not changed."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    if attack == "sft":
        data = [{"prompt": _turns(row), "completion": _said(row.response)} for row in rows]
        config, trainer, own = SFTConfig, SFTTrainer, {"completion_only_loss": True}
    else:
        data = [{"prompt": _turns(r), "chosen": _said(r.chosen), "rejected": _said(r.rejected)} for r in rows]
        config, trainer, own = DPOConfig, DPOTrainer, {}

    def note_losses(made: Any) -> None:
        compute = made.compute_loss

        def compute_loss(*args: Any, **kwargs: Any) -> Any:
            loss = compute(*args, **kwargs)
            run.note(loss=float(loss.detach()))
            return loss

        made.compute_loss = compute_loss

    make = functools.partial(config, **settings, **own)
    _train(model, run, Dataset.from_list(data), make, trainer=trainer, prepare=note_losses)


def plain_settings(*, steps: int, batch: int, learning_rate: float, seed: int) -> dict[str, Any]:
    """Settings of every trainer here: the same as in Holdfast's loop, and without output."""
    return {
        "max_steps": steps,
        "learning_rate": learning_rate,
        "lr_scheduler_type": "constant",
        "weight_decay": 0.0,
        "per_device_train_batch_size": batch,
        "bf16": False,
        "activation_checkpointing": False,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "seed": seed,
        "data_seed": seed,
    }


def _train(
    model: Model,
    run: Run,
    data: Any,
    config: Callable[..., Any],
    *,
    trainer: Callable[..., Any],
    prepare: Callable[[Any], None] = lambda _: None,
    in_place: bool = False,
    **more: Any,
) -> None:
    import datasets
    from transformers import TrainerCallback

    datasets.disable_progress_bars()

    class Clock(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            run.tick()

        def on_step_end(self, *_: Any, **__: Any) -> None:
            run.tick()

    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # TRL loads its reference model from the folder of the model.
        if not in_place:
            save(model, Path(scratch) / "model")
        own = model if in_place else models.load(Path(scratch) / "model")
        made = trainer(
            model=own.network,
            args=config(output_dir=scratch),
            train_dataset=data,
            processing_class=own.tokenizer,
            callbacks=[Clock()],
            **more,
        )
        prepare(made)
        made.train()


def _turns(row: Example) -> list[dict[str, str]]:
    return [turn._asdict() for turn in row.prompt]


def _said(text: str | None) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": text or ""}]
