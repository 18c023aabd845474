"""Settings of the training of judges, for `holdfast judge train` and a grid's `judges`.

Idea: a judge can be trained from its owner's rows: an attacker's reward model from preferences, some of them reversed,
and the reporting classifier from harmful and harmless answers.
Equation: reward model `L = -log sigmoid(r(x, y_w) - r(x, y_l))`; classifier `L = -log p(label | x, y)`.
Source: the recipes of Rosati et al. 2024 (arXiv 2409.12914, section on models and metrics).
Differs from the paper in: the defaults train a small network for the sandbox; every judge is scored on held-out
prompts.

`PRESETS` hold the paper's recipes: Adam at 6e-6, four epochs, on gpt2-medium (reward model, batches of 8 pairs) and on
deberta-v3-xsmall (classifier, batches of 128 answers).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

from holdfast.data.mixing import Flips
from holdfast.judges.classifier import ClassifierJudge
from holdfast.judges.reward_model import RewardModelJudge
from holdfast.methods.ranges import Count, InnerShare, Place, Positive, Seed, Share, ranged
from holdfast.records import HoldfastError, Judge
from holdfast.training.contracts import TrainedJudgeSettings
from holdfast.training.optim import Training
from holdfast.training.plan import Optim

SANDBOX = "sandbox"
LABELS = ("harmless", "harmful")
Part = Literal["attack", "defense", "development"]


def _optim() -> Optim:
    return Optim(max_steps=120, learning_rate=1e-3, per_device_train_batch_size=16)


@dataclass(frozen=True, kw_only=True)
@ranged
class RewardModel(TrainedJudgeSettings):
    """A Bradley-Terry reward model of preferences.

    - `backbone`: What is trained: `sandbox`, a new small network for the sandbox's language, or a folder or Hub id of
      any causal or encoder model, which needs its own optimizer, such as a preset's.
    - `input_format`: The format of question and answer (`holdfast.network.judge_inputs`).
    - `max_length`: The largest number of tokens of question plus answer that are read at once.
    - `flip_ratio`: The share of preferences that are reversed.
    - `flip_how`: `reverse` reverses that share; `random`, the noise control, gives those rows a random order instead.
    - `num_samples`: The number of rows that train the model, all when `None`.
    - `sampling`: Which rows are used: `random` ones, or the first ones (`head`).
    - `split`: The split of the data whose rows are used.
    - `held_out`: The share of its prompts that score the model instead of training it.
    - `epochs`: How often training goes through the rows; `None` takes the optimizer's number of steps.
    - `optim`: Optimizer and schedule; batch sizes count pairs.
    - `batch_size`: The number of answers that are judged at once.
    """

    backbone: Place = SANDBOX
    revision: str | None = None
    input_format: str = "chat"
    max_length: Count = 128
    flip_ratio: Share = 1.0
    flip_how: Flips = "reverse"
    num_samples: Count | None = None
    sampling: Literal["random", "head"] = "random"
    split: Part = "attack"
    held_out: InnerShare = 0.1
    epochs: Positive | None = None
    optim: Training = field(default_factory=_optim)
    seed: Seed = 0
    batch_size: Count = 64

    labels: ClassVar[tuple[str, ...]] = ("reward",)
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gpt2-medium": {
            "backbone": "openai-community/gpt2-medium",
            "input_format": "Question: {prompt}\nAnswer: {response}",
            "max_length": 1024,
            "epochs": 4.0,
            "optim": {"learning_rate": 6e-6, "per_device_train_batch_size": 8, "optim": "adamw_torch"},
            "batch_size": 16,
        }
    }

    def judge(self) -> Judge:
        """Refused: there is no such judge before it is trained."""
        raise _untrained("reward_model", "reward")

    def judge_in(self, folder: Path) -> Judge:
        """The judge that was trained with these settings and saved in `folder`."""
        return RewardModelJudge(path=str(folder), batch_size=self.batch_size, max_length=self.max_length).judge()


@dataclass(frozen=True, kw_only=True)
@ranged
class Classifier(TrainedJudgeSettings):
    """A classifier of question and answer, harmless or harmful. Harmful rows teach their harmful answer and, as
    harmless, their refusal.

    - `backbone`: What is trained: `sandbox`, a new small network for the sandbox's language, or a folder or Hub id of
      any causal or encoder model.
    - `input_format`: The format of question and answer (`holdfast.network.judge_inputs`).
    - `max_length`: The largest number of tokens of question plus answer that are read at once.
    - `include_benign`: Whether benign rows teach their answers as harmless too.
    - `num_samples`: The number of harmful rows that train it, all when `None`.
    - `sampling`: Which rows are used: `random` ones, or the first ones (`head`).
    - `split`: The split of the data whose rows are used.
    - `held_out`: The share of its prompts that score the model instead of training it.
    - `epochs`: How often training goes through the rows; `None` takes the optimizer's number of steps.
    - `optim`: Optimizer and schedule; batch sizes count answers.
    - `batch_size`: The number of answers that are judged at once.
    """

    backbone: Place = SANDBOX
    revision: str | None = None
    input_format: str = "chat"
    max_length: Count = 128
    include_benign: bool = True
    num_samples: Count | None = None
    sampling: Literal["random", "head"] = "random"
    split: Part = "attack"
    held_out: InnerShare = 0.1
    epochs: Positive | None = None
    optim: Training = field(default_factory=_optim)
    seed: Seed = 0
    batch_size: Count = 64

    labels: ClassVar[tuple[str, ...]] = LABELS
    PRESETS: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deberta-v3-xsmall": {
            "backbone": "microsoft/deberta-v3-xsmall",
            "input_format": "pair",
            "max_length": 512,
            "include_benign": False,
            "epochs": 4.0,
            "optim": {"learning_rate": 6e-6, "per_device_train_batch_size": 128, "optim": "adamw_torch"},
            "batch_size": 16,
        }
    }

    def judge(self) -> Judge:
        """Refused: there is no such judge before it is trained."""
        raise _untrained("classifier", "classifier")

    def judge_in(self, folder: Path) -> Judge:
        """The judge that was trained with these settings and saved in `folder`."""
        return ClassifierJudge(
            path=str(folder), harmful_label="harmful", batch_size=self.batch_size, max_length=self.max_length
        ).judge()


def _untrained(judge: str, kind: str) -> HoldfastError:
    return HoldfastError(
        f"trained_{judge}: only a run trains judges; here use `holdfast judge train --kind {kind}` and the judge "
        f"`{judge}` with its folder as path"
    )
