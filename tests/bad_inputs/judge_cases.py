"""Judges: folders, labels, sizes, who pays and who reports, and the training of judges."""

from __future__ import annotations

from typing import Any

from building import Case, of_own, of_small, of_words
from model_cases import config, cut, drop, filled, model, pickled, put, remote, weights, without
from shelf import CLASSIFIER, SFT, changed, folder

HARM = {"evaluation": {"harm_judges": ["harm"]}}

# Name, changes of the classifier's settings, what has to be said.
CLASSIFIERS: list[tuple[str, dict[str, Any], str]] = [
    ("no-such-folder", {"path": "./no/such"}, "no/such"),
    ("empty-path", {"path": ""}, "path: must name"),
    ("number-path", {"path": 3}, "path"),
    ("hub-id-offline", {"path": "nobody/nothing"}, "nobody/nothing"),
    ("causal-folder", {"path": "@model"}, "score|classifier"),
    ("rows-for-a-folder", {"path": "@rows/harmful.jsonl"}, r"harmful\.jsonl"),
    ("unknown-label", {"harmful_label": "evil"}, "harmful_label.*evil.*fine"),
    ("label-true", {"harmful_label": True}, "harmful_label"),
    ("label-false", {"harmful_label": False}, "harmful_label"),
    ("label-9", {"harmful_label": 9}, "harmful_label"),
    ("label-negative", {"harmful_label": -1}, "harmful_label"),
    ("label-of-a-fraction", {"harmful_label": 0.5}, "harmful_label"),
    ("label-null", {"harmful_label": None}, "harmful_label"),
    ("label-list-unknown", {"harmful_label": ["harmful", "evil"]}, "harmful_label.*evil"),
    ("label-list-empty", {"harmful_label": []}, "harmful_label"),
    ("label-list-twice", {"harmful_label": ["harmful", "harmful"]}, "harmful_label"),
    ("label-every-of-exclusive-ones", {"harmful_label": "*"}, "harmful_label"),
    ("threshold-1", {"threshold": 1}, "threshold"),
    ("threshold-of-text", {"threshold": "high"}, "threshold"),
    ("sigmoid-of-text", {"sigmoid": "yes"}, "sigmoid"),
    ("label-empty", {"harmful_label": ""}, "harmful_label"),
    ("safe-is-harmful", {"safe_label": "harmful"}, "safe_label"),
    ("safe-is-harmful-by-index", {"safe_label": 1}, "safe_label"),
    ("unknown-safe-label", {"safe_label": "nice"}, "safe_label"),
    ("safe-label-true", {"safe_label": True}, "safe_label"),
    ("batch-0", {"batch_size": 0}, "batch_size"),
    ("batch-negative", {"batch_size": -1}, "batch_size"),
    ("batch-true", {"batch_size": True}, "batch_size"),
    ("batch-of-a-fraction", {"batch_size": 1.5}, "batch_size"),
    ("batch-of-text", {"batch_size": "x"}, "batch_size"),
    ("length-0", {"max_length": 0}, "max_length"),
    ("length-negative", {"max_length": -1}, "max_length"),
    ("length-true", {"max_length": True}, "max_length"),
    ("length-of-text", {"max_length": "x"}, "max_length"),
    ("question-maybe", {"include_question": "perhaps"}, "include_question"),
    ("question-a-number", {"include_question": 3}, "include_question"),
    ("unknown-device", {"device": "toaster"}, "device|toaster"),
    ("unknown-key", {"harmfull_label": "x"}, "harmfull_label"),
    ("unknown-input-format", {"input_format": "wizard"}, "input_format"),
    ("chat-without-template", {"input_format": "chat"}, "chat template"),
]


def labelled(*labels: str) -> Any:
    """A classifier whose labels are called so."""
    names = {str(i): label for i, label in enumerate(labels)}
    return config(id2label=names, label2id={label: i for i, label in names.items()})


# Name, how a good classifier's folder is spoilt, what has to be said beside its name.
FOLDERS: list[tuple[str, Any, str]] = [
    ("two-labels-of-one-name", labelled("harmful", "harmful"), "harmful"),
    ("no-tokenizer", drop("tokenizer.json", "tokenizer_config.json"), "tokenizer"),
    ("broken-tokenizer", put("tokenizer.json", "{"), "bad"),
    ("broken-config", put("config.json", "{"), "bad"),
    ("no-config", drop("config.json"), "bad"),
    ("weights-cut", cut, "bad"),
    ("weights-missing", drop("model.safetensors"), "bad"),
    ("weights-pickled", pickled, "bad"),
    ("no-head", weights(without("classifier")), "classifier"),
    ("no-layers", weights(without("encoder.layer")), "layer|weights"),
    ("nan-weights", weights(filled("classifier", float("nan"))), "nan|finite|number"),
    ("unknown-quantisation", config(quantization_config={"quant_method": "wizard"}), "quanti|wizard"),
    ("code-of-its-own", remote, "bad"),
]

# Name, changes of the grid of one's own rows, what has to be said.
OWN_GRIDS: list[tuple[str, dict[str, Any], str]] = [
    ("unknown", {"evaluation": {"harm_judges": ["wizard"]}}, "wizard"),
    ("near-name", {"evaluation": {"harm_judges": ["refusals"]}}, "did you mean 'refusal'"),
    ("none", {"evaluation": {"harm_judges": []}}, "harm_judges"),
    ("one-as-text", {"evaluation": {"harm_judges": "refusal"}}, "harm_judges"),
    ("null", {"evaluation": {"harm_judges": None}}, "harm_judges"),
    ("number", {"evaluation": {"harm_judges": [1]}}, "harm_judges"),
    ("twice", {"evaluation": {"harm_judges": ["refusal", "refusal"]}}, "harm_judges|refusal"),
    ("unknown-help-judge", {"evaluation": {"help_judge": "wizard"}}, "wizard"),
    ("null-help-judge", {"evaluation": {"help_judge": None}}, "help_judge"),
    ("list-help-judge", {"evaluation": {"help_judge": ["reference"]}}, "help_judge"),
    ("oracle-of-own-rows", {"evaluation": {"harm_judges": ["oracle"]}}, "oracle"),
    ("keyword-of-own-rows", {"evaluation": {"harm_judges": ["keyword"]}}, "keyword"),
    ("oracle-helps-own-rows", {"evaluation": {"help_judge": "oracle"}}, "oracle"),
    (
        "oracle-by-another-name",
        {"judges": {"mine": {"oracle": {}}}, "evaluation": {"harm_judges": ["mine"]}},
        "mine|oracle",
    ),
    ("classifier-without-path", {"evaluation": {"harm_judges": ["classifier"]}}, "classifier.*path|path"),
    ("reward-model-without-path", {"evaluation": {"harm_judges": ["reward_model"]}}, "reward_model.*path|path"),
    ("list-of-judges", {"judges": [CLASSIFIER]}, "judges"),
    ("judge-of-two-kinds", {"judges": {"harm": {**CLASSIFIER, "refusal": {}}}, **HARM}, r"judges\.harm"),
    ("judge-of-unknown-kind", {"judges": {"harm": {"clasifier": {}}}, **HARM}, "clasifier"),
    ("judge-is-a-number", {"judges": {"harm": 3}, **HARM}, r"judges\.harm"),
    ("judge-is-null", {"judges": {"harm": None}, **HARM}, "harm"),
    (
        "refusal-negative-sentences",
        {"judges": {"harm": {"refusal": {"further_sentences": -1}}}, **HARM},
        "further_sentences",
    ),
    (
        "refusal-true-sentences",
        {"judges": {"harm": {"refusal": {"further_sentences": True}}}, **HARM},
        "further_sentences",
    ),
    ("refusal-of-a-path", {"judges": {"harm": {"refusal": {"path": "x"}}}, **HARM}, "path"),
    ("llm-unknown-rubric", {"judges": {"harm": {"llm": {"rubric": "evil"}}}, **HARM}, "rubric"),
    ("llm-no-time", {"judges": {"harm": {"llm": {"timeout": 0}}}, **HARM}, "timeout"),
    ("llm-local-draws", {"judges": {"harm": {"llm": {"path": "@model", "temperature": 1}}}, **HARM}, "temperature"),
    ("llm-key-in-the-grid", {"judges": {"harm": {"llm": {"api_key": "x"}}}, **HARM}, "api_key"),
    ("llm-without-variables", {"judges": {"harm": {"llm": {"variables": "NONE_SUCH"}}}, **HARM}, "NONE_SUCH_URL"),
    ("llm-no-such-folder", {"judges": {"harm": {"llm": {"path": "./no/such"}}}, **HARM}, "no/such"),
    (
        "unused-judge-is-wrong",
        {"judges": {"other": {"classifier": {"path": "@classifier", "harmful_label": "harmful", "batch_sze": 3}}}},
        "batch_sze",
    ),
    (
        "reward-of-two-labels",
        {"judges": {"harm": {"reward_model": {"path": "@classifier", "input_format": "answer"}}}, **HARM},
        "label",
    ),
    (
        "reward-batch-0",
        {"judges": {"harm": {"reward_model": {"path": "@reward", "batch_size": 0}}}, **HARM},
        "batch_size",
    ),
    (
        "reward-length-0",
        {"judges": {"harm": {"reward_model": {"path": "@reward", "max_length": 0}}}, **HARM},
        "max_length",
    ),
    (
        "reward-format-without-answer",
        {"judges": {"harm": {"reward_model": {"path": "@reward", "input_format": "Q: {prompt}"}}}, **HARM},
        "input_format",
    ),
    (
        "reward-chat-without-template",
        {"judges": {"harm": {"reward_model": {"path": "@reward", "input_format": "chat"}}}, **HARM},
        "chat template",
    ),
]

OPTIM = {"max_steps": 1, "per_device_train_batch_size": 2}


def paid(judge: Any, **more: Any) -> dict[str, Any]:
    """A small attack by reinforcement learning that is paid by a judge."""
    return {"grpo": {"optim": OPTIM, "policy": {"group_size": 2}, "reward": {"judge": judge}, **more}}


# Name, changes of the sandbox's grid, what has to be said.
PAYMENTS: list[tuple[str, dict[str, Any], str]] = [
    ("by-the-reporting-judge", {"attacks": [paid("oracle")]}, "oracle.*reports"),
    (
        "by-the-reporting-judge-renamed",
        {"attacks": [paid("mine")], "judges": {"mine": {"oracle": {}}}},
        "mine.*reports",
    ),
    ("by-nobody", {"attacks": [paid("wizard")]}, "wizard"),
    ("by-null", {"attacks": [paid(None)]}, "judge"),
    ("by-a-number", {"attacks": [paid(3)]}, "judge"),
    ("by-a-classifier-without-path", {"attacks": [paid("classifier")]}, "classifier.*path|path"),
    (
        "best-of-n-by-the-reporting-judge",
        {"attacks": [{"best_of_n": {"numbers": [1, 2], "reward": {"judge": "oracle"}}}]},
        "oracle",
    ),
    (
        "defense-by-the-reporting-judge",
        {"attacks": [paid("keyword")], "defenses": [{"safe_rlhf": {"judge": "oracle", "threshold": 0.1}}]},
        "oracle",
    ),
    (
        "defense-by-an-unknown-judge",
        {"attacks": [paid("keyword")], "defenses": [{"safe_rlhf": {"judge": "wizard", "threshold": 0.1}}]},
        "wizard",
    ),
    (
        "early-stop-by-the-reporting-judge",
        {"attacks": [[SFT, {"early_stop": {"at": "harm", "judge": "oracle"}}]]},
        "oracle",
    ),
    ("early-stop-by-nobody", {"attacks": [[SFT, {"early_stop": {"at": "harm"}}]]}, "judge"),
]

TRAINED: list[tuple[str, str, dict[str, Any], str]] = [
    ("flip-ratio-2", "trained_reward_model", {"flip_ratio": 2}, "flip_ratio"),
    ("flip-ratio-negative", "trained_reward_model", {"flip_ratio": -0.5}, "flip_ratio"),
    ("flip-ratio-true", "trained_reward_model", {"flip_ratio": True}, "flip_ratio"),
    ("flip-how", "trained_reward_model", {"flip_how": "sideways"}, "flip_how"),
    ("held-out-0", "trained_reward_model", {"held_out": 0}, "held_out"),
    ("held-out-1", "trained_reward_model", {"held_out": 1}, "held_out"),
    ("epochs-0", "trained_reward_model", {"epochs": 0}, "epochs"),
    ("epochs-nan", "trained_reward_model", {"epochs": float("nan")}, "epochs"),
    ("samples-0", "trained_reward_model", {"num_samples": 0}, "num_samples"),
    ("samples-negative", "trained_classifier", {"num_samples": -3}, "num_samples"),
    ("samples-true", "trained_classifier", {"num_samples": True}, "num_samples"),
    ("test-split", "trained_reward_model", {"split": "test"}, "split"),
    ("defense-split", "trained_reward_model", {"split": "defense"}, "split"),
    ("unknown-sampling", "trained_reward_model", {"sampling": "tail"}, "sampling"),
    ("unknown-preset", "trained_reward_model", {"preset": "gpt3"}, "preset"),
    ("batch-0", "trained_reward_model", {"batch_size": 0}, "batch_size"),
    ("length-0", "trained_reward_model", {"max_length": 0}, "max_length"),
    ("steps-0", "trained_reward_model", {"optim": {"max_steps": 0}}, "max_steps"),
    ("seed-negative", "trained_reward_model", {"seed": -1}, "seed"),
    ("input-format", "trained_reward_model", {"input_format": "wizard"}, "input_format"),
    ("unknown-backbone", "trained_reward_model", {"backbone": "./no/such"}, "no/such"),
    ("unknown-key", "trained_classifier", {"flip_ratio": 0.5}, "flip_ratio"),
]

QUICK = "optim.max_steps=1 data.train=24 data.held_out=6"

# Name, command line, what has to be said.
COMMANDS: list[tuple[str, str, str]] = [
    ("unknown-kind", "judge train -o out --kind wizard", "--kind"),
    ("unknown-preset", "judge train -o out --preset wizard", "--preset"),
    ("preset-of-the-other-kind", "judge train -o out --kind classifier --preset gpt2-medium", "--preset"),
    ("flip-ratio-of-a-classifier", "judge train -o out --kind classifier --flip-ratio 0.5", "--flip-ratio"),
    ("flip-ratio-2", f"judge train -o out --flip-ratio 2 {QUICK}", "flip_ratio"),
    ("flip-ratio-nan", f"judge train -o out --flip-ratio nan {QUICK}", "flip_ratio"),
    ("override-without-mark", "judge train -o out num_samples", "num_samples"),
    ("unknown-key", "judge train -o out num_smples=3", "num_smples"),
    ("steps-0", "judge train -o out optim.max_steps=0 data.train=24", "max_steps"),
    ("steps-negative", "judge train -o out optim.max_steps=-1 data.train=24", "max_steps"),
    ("rate-nan", "judge train -o out optim.learning_rate=.nan data.train=24", "learning_rate"),
    ("held-out-0", f"judge train -o out held_out=0 {QUICK}", "held_out"),
    ("batch-0", f"judge train -o out batch_size=0 {QUICK}", "batch_size"),
    ("samples-0", f"judge train -o out num_samples=0 {QUICK}", "num_samples"),
    ("seed-negative", f"judge train -o out seed=-1 {QUICK}", "seed"),
    ("unknown-backbone", f"judge train -o out backbone=./no/such {QUICK}", "no/such"),
    ("missing-rows", "judge train -o out --preset gpt2-medium --harmful no.jsonl", r"no\.jsonl"),
    (
        "unknown-format",
        "judge train -o out --preset gpt2-medium --harmful @rows/harmful.jsonl --harmful-format x",
        "'x'",
    ),
    (
        "sandbox-of-plain-english",
        "judge train -o out --preset sandbox --harmful @rows/english.jsonl",
        "backbone|sandbox|word",
    ),
    ("out-is-not-empty", f"judge train -o @rows {QUICK}", "rows"),
    ("out-is-a-file", f"judge train -o @rows/harmful.jsonl {QUICK}", r"harmful\.jsonl"),
]


def cases() -> list[Case]:
    """All of them."""
    all_cases = []
    for name, settings, says in CLASSIFIERS:
        judge = changed(CLASSIFIER, {"classifier": settings})
        all_cases.append(of_own("judges", f"classifier-{name}", {"judges": {"harm": judge}, **HARM}, says))
    spoilt = {"judges": {"harm": changed(CLASSIFIER, {"classifier": {"path": "./bad"}})}, **HARM}
    for name, spoil, says in FOLDERS:
        files = {"bad": model(spoil, "classifier")}
        all_cases.append(
            of_own("judges", f"folder-{name}", spoilt, (r"bad|judges\.harm", says), files=files, stdin="y\ny\ny\n")
        )
    all_cases.append(of_own("judges", "folder-empty", spoilt, "bad", files={"bad": folder}))
    all_cases += [of_own("judges", f"grid-{name}", changes, says) for name, changes, says in OWN_GRIDS]
    all_cases += [of_small("judges", f"paid-{name}", changes, says) for name, changes, says in PAYMENTS]
    for name, kind, settings, says in TRAINED:
        changes = {"attacks": [paid("rm")], "judges": {"rm": {kind: {"optim": OPTIM, **settings}}}}
        all_cases.append(of_small("judges", f"trained-{name}", changes, says))
    all_cases += [of_words("judges", f"train-{name}", command, says) for name, command, says in COMMANDS]
    all_cases.append(of_words("judges", "train-nowhere", "judge train", "--out|-o", usage=True))
    return all_cases
