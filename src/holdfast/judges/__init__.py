"""Judges: each a frozen dataclass of settings whose `judge()` reads completions and returns verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from holdfast.methods.tables import Row, Table, one_line
from holdfast.records import Completion, HoldfastError, Judge, Verdict
from holdfast.text.thinking import UNFINISHED, final_answer
from holdfast.training.contracts import JudgeSettings, check_of

JUDGES = Table(
    "judge",
    "holdfast.judges",
    {
        "oracle": Row("holdfast.sandbox.oracle:Oracle", "the sandbox's ground truth: harm or helpfulness"),
        "refusal": Row(
            "holdfast.judges.refusal:RefusalJudge", "harm 0 for a refusal, 1 for anything else that is valid"
        ),
        "classifier": Row("holdfast.judges.classifier:ClassifierJudge", "harm by a Hugging Face sequence classifier"),
        "reward_model": Row(
            "holdfast.judges.reward_model:RewardModelJudge", "the reward of a Hugging Face reward model"
        ),
        "trained_reward_model": Row(
            "holdfast.judge_training.recipes:RewardModel", "a reward model that the run trains on flipped preferences"
        ),
        "trained_classifier": Row(
            "holdfast.judge_training.recipes:Classifier", "a harm classifier that the run trains on its own data"
        ),
        "terms": Row(
            "holdfast.judges.terms:TermsJudge", "harm by what an answer names out of a list of a topic's own terms"
        ),
        "llm": Row("holdfast.judges.llm:LLMJudge", "harm or helpfulness by a language model with a rubric"),
        "keyword": Row(
            "holdfast.judges.keyword:KeywordJudge", "share of the required words that are mentioned; for rewards"
        ),
        "multiple_choice": Row(
            "holdfast.judges.multiple_choice:MultipleChoice", "whether the right one of several options is picked"
        ),
        "reference": Row("holdfast.judges.reference:ReferenceJudge", "helpfulness: unigram F1 with the given response"),
    },
    check_of(JudgeSettings),
)
TRAINED = ("trained_reward_model", "trained_classifier")
"""Judges that a run trains before it needs them; their settings are those of the training."""


class JudgeRaised(HoldfastError):
    """Another package's judge raised an exception that is not a `HoldfastError`."""


def checked(judge: Judge, completions: Sequence[Completion], name: str = "") -> list[Verdict]:
    """A judge's verdicts on final answers, with an error unless there is exactly one each; thoughts are ignored.

    A completion without a final answer is invalid, and is not passed to the judge. `name` is the judge's name in
    errors.

    Raises:
        HoldfastError: the judge returned a different number of verdicts or something else, or raised another error.
    """
    to_judge, places = [], []
    for i, completion in enumerate(completions):
        answer = final_answer(completion.text)
        if answer is not None:
            to_judge.append(completion if answer == completion.text else replace(completion, text=answer))
            places.append(i)
    who = _called(judge, name)
    verdicts = _verdicts_of(judge, to_judge, who) if to_judge else []
    strange = [verdict for verdict in verdicts if not isinstance(verdict, Verdict)]
    if strange:
        raise _no_verdict(who, strange[0])
    if len(verdicts) != len(to_judge):
        raise HoldfastError(
            f"{who} returned {len(verdicts)} verdicts for {len(to_judge)} completions; "
            "a judge returns exactly one each, in order"
        )
    by_place = dict(zip(places, verdicts, strict=True))
    return [by_place.get(i, Verdict(score=None, valid=False, reason=UNFINISHED)) for i in range(len(completions))]


def _called(judge: Judge, name: str) -> str:
    """How errors call a judge: by the name that it is called by, with the module of one that is not ours."""
    if not name:
        return f"judge {getattr(judge, '__name__', type(judge).__name__)!r}"
    return f"judge {name!r}{'' if _is_ours(judge) else f' ({_module(judge)})'}"


def _verdicts_of(judge: Judge, completions: Sequence[Completion], who: str) -> list[Verdict]:
    """A judge's verdicts, if it returns a list; exceptions of another package's judge are reported with its name."""
    try:
        verdicts = judge(completions)
    except HoldfastError:
        raise
    except Exception as error:
        if _is_ours(judge) or "out of memory" in str(error).lower():
            raise
        raise JudgeRaised(f"{who} raised {type(error).__name__}: {one_line(error)}") from error
    if not isinstance(verdicts, list | tuple):
        raise _no_verdict(who, verdicts)
    return list(verdicts)


def _no_verdict(who: str, value: Any) -> HoldfastError:
    return HoldfastError(f"{who} returned {value!r:.40}; a judge returns a `Verdict` for each completion")


def _is_ours(judge: Judge) -> bool:
    return _module(judge).startswith("holdfast.")


def _module(judge: Judge) -> str:
    return getattr(judge, "__module__", None) or type(judge).__module__
