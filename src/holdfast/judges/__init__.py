"""Judges: each a frozen dataclass of settings whose `judge()` reads completions and returns verdicts."""

from holdfast.tables import Row

GROUP = "holdfast.judges"
JUDGES = {
    "oracle": Row("holdfast.sandbox.oracle:Oracle", "the sandbox's exact truth: harm or helpfulness"),
    "refusal": Row("holdfast.judges.refusal:RefusalJudge", "harm 0 for a refusal, 1 for anything else that is valid"),
    "classifier": Row("holdfast.judges.classifier:ClassifierJudge", "harm by a Hugging Face sequence classifier"),
    "reward_model": Row("holdfast.judges.reward_model:RewardModelJudge", "the reward of a Hugging Face reward model"),
    "trained_reward_model": Row(
        "holdfast.judge_training.settings:RewardModel", "a reward model that the run trains on flipped preferences"
    ),
    "trained_classifier": Row(
        "holdfast.judge_training.settings:Classifier", "a harm classifier that the run trains on its own data"
    ),
    "keyword": Row("holdfast.judges.keyword:KeywordJudge", "share of the wanted words that are mentioned; for rewards"),
    "reference": Row("holdfast.judges.reference:ReferenceJudge", "helpfulness: unigram F1 with the given response"),
}
TRAINED = ("trained_reward_model", "trained_classifier")
"""Judges that a run trains before it needs them; their settings are those of the training."""
