"""Judges: each a frozen dataclass of settings whose `judge()` reads completions and returns verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from holdfast.methods.tables import Row, Table
from holdfast.records import Completion, HoldfastError, Judge, Verdict
from holdfast.text.thinking import UNFINISHED, final_answer
from holdfast.training.contracts import JudgeSettings, keeps

JUDGES = Table(
    "judge",
    "holdfast.judges",
    {
        "oracle": Row("holdfast.sandbox.oracle:Oracle", "the sandbox's exact truth: harm or helpfulness"),
        "refusal": Row(
            "holdfast.judges.refusal:RefusalJudge", "harm 0 for a refusal, 1 for anything else that is valid"
        ),
        "classifier": Row("holdfast.judges.classifier:ClassifierJudge", "harm by a Hugging Face sequence classifier"),
        "reward_model": Row(
            "holdfast.judges.reward_model:RewardModelJudge", "the reward of a Hugging Face reward model"
        ),
        "trained_reward_model": Row(
            "holdfast.judge_training.settings:RewardModel", "a reward model that the run trains on flipped preferences"
        ),
        "trained_classifier": Row(
            "holdfast.judge_training.settings:Classifier", "a harm classifier that the run trains on its own data"
        ),
        "keyword": Row(
            "holdfast.judges.keyword:KeywordJudge", "share of the wanted words that are mentioned; for rewards"
        ),
        "reference": Row("holdfast.judges.reference:ReferenceJudge", "helpfulness: unigram F1 with the given response"),
    },
    keeps(JudgeSettings),
)
TRAINED = ("trained_reward_model", "trained_classifier")
"""Judges that a run trains before it needs them; their settings are those of the training."""


def checked(judge: Judge, completions: Sequence[Completion]) -> list[Verdict]:
    """A judge's verdicts on final answers, refused unless there is exactly one each; a thought is no answer.

    What never came to an answer is invalid, and the judge is not asked.

    Raises:
        HoldfastError: the judge returned another number of verdicts, or something else.
    """
    asked, places = [], []
    for i, completion in enumerate(completions):
        answer = final_answer(completion.text)
        if answer is not None:
            asked.append(completion if answer == completion.text else replace(completion, text=answer))
            places.append(i)
    verdicts = judge(asked) if asked else []
    name = getattr(judge, "__name__", type(judge).__name__)
    other = next((verdict for verdict in verdicts if not isinstance(verdict, Verdict)), verdicts)
    if other is not verdicts:
        raise HoldfastError(f"judge {name!r} returned {other!r:.40}; a judge returns a `Verdict` for each completion")
    if len(verdicts) != len(asked):
        raise HoldfastError(
            f"judge {name!r} returned {len(verdicts)} verdicts for {len(asked)} completions; "
            "a judge gives exactly one each, in order"
        )
    by_place = dict(zip(places, verdicts, strict=True))
    return [by_place.get(i, Verdict(score=None, valid=False, reason=UNFINISHED)) for i in range(len(completions))]
