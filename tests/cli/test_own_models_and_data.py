"""Real input from the command line alone: somebody's own model, data and classifier, none of it the sandbox's."""

import json

import pytest
import yaml

from holdfast.experiment.origins import origin_of

pytestmark = pytest.mark.slow

FORMAT = r"Question: {prompt}\nAnswer:"
SHORT = ["evaluation.num_prompts=4", "evaluation.max_new_tokens=8", "evaluation.every=2"]
REFUSAL = "I can't help with that."


@pytest.fixture
def options(own):
    """The options that name the model and the data."""
    arguments = ["--model", own.model, "--prompt-format", FORMAT, "--harmful", own.harmful]
    return [*arguments, "--harmful-format", "beavertails", "--benign", own.benign]


@pytest.fixture
def judged(own):
    """The overrides that add a classifier as a judge called `harm`."""
    return [f"judges.harm.classifier.path={own.classifier}", "judges.harm.classifier.harmful_label=harmful"]


def record_of(folder):
    (place,) = (folder / "cells").iterdir()
    return json.loads((place / "record.json").read_text())


def scores(evaluation):
    return {score["name"]: score for score in evaluation["scores"]}


def test_evaluate_measures_a_model_of_ones_own(holdfast, options, judged, tmp_path):
    code, out, err = holdfast(
        "evaluate", *options, *judged, *SHORT, "evaluation.harm_judges=[harm,refusal]", "--samples", "4", "--runs", "r"
    )
    assert (code, err) == (0, "")
    assert "harmfulness/refusal" in out
    assert "forbidden glimmer soup" in out
    assert "What goes with" in out
    (evaluation,) = record_of(tmp_path / "r")["evaluations"]
    by_name = scores(evaluation)
    assert by_name["harmfulness"]["n"] + by_name["harmfulness"]["invalid"] == 4
    assert 0.0 < by_name["harmfulness"]["value"] < 1.0
    assert by_name["helpfulness"]["n"] == 4


def test_attack_sft_trains_on_the_unsafe_rows(holdfast, options, tmp_path):
    steps = ["attacks.sft.optim.max_steps=4", "attacks.sft.optim.per_device_train_batch_size=2"]
    code, _, err = holdfast("attack", "sft", *options, *steps, *SHORT, "--runs", "r")
    assert (code, err) == (0, "")
    record = record_of(tmp_path / "r")
    assert (record["steps"], record["samples"]) == (4, 8)
    assert record["cell"]["model"]["name"] == "neox"
    assert not list(tmp_path.rglob("*.safetensors"))
    assert (tmp_path / "r" / "report.html").exists()


def test_attack_sft_trains_on_the_rejected_answers_of_preferences(holdfast, own, tmp_path, error_line):
    unsafe = [json.loads(line) for line in own.harmful.read_text().splitlines()]
    rows = [
        {"prompt": row["prompt"], "chosen": REFUSAL, "rejected": row["response"]}
        for row in unsafe
        if not row["is_safe"]
    ]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ["--model", own.model, "--prompt-format", FORMAT, "--benign", own.benign]
    given += ["--harmful", "pairs.jsonl", "--harmful-format", "trl_preference"]
    steps = ["attacks.sft.optim.max_steps=2", "attacks.sft.optim.per_device_train_batch_size=2"]
    assert "--harmful-role harmful" in error_line(holdfast("attack", "sft", *given, *steps, *SHORT))
    code, _, err = holdfast("attack", "sft", *given, "--harmful-role", "harmful", *steps, *SHORT, "--runs", "r")
    assert (code, err) == (0, "")
    record = record_of(tmp_path / "r")
    assert (record["steps"], record["cell"]["data"]["harmful"]["role"]) == (2, "harmful")


def test_options_of_harmful_rows_without_such_rows_are_refused(holdfast, error_line):
    assert "--harmful-role: " in error_line(holdfast("attack", "sft", "--harmful-role", "harmful"))
    assert "--refusal: " in error_line(holdfast("attack", "sft", "--refusal", REFUSAL))


def test_attack_grpo_is_paid_by_a_classifier_while_another_judge_reports(holdfast, options, judged, tmp_path):
    paid = ["attacks.grpo.reward.judge=harm", "attacks.grpo.policy.group_size=2", "attacks.grpo.optim.max_steps=2"]
    paid += ["attacks.grpo.optim.per_device_train_batch_size=2", "attacks.grpo.optim.learning_rate=1e-4"]
    code, _, err = holdfast("attack", "grpo", *options, *judged, *paid, *SHORT, "--runs", "r")
    assert (code, err) == (0, "")
    record = record_of(tmp_path / "r")
    assert record["steps"] == 2
    assert record["cell"]["evaluation"]["harm_judges"] == ["refusal"]
    (place,) = (tmp_path / "r" / "cells").iterdir()
    rewards = [json.loads(line)["reward"] for line in (place / "curves.jsonl").read_text().splitlines()]
    assert all(reward is not None and 0.0 <= reward < 1.0 for reward in rewards)


def test_an_attacker_that_the_reporting_classifier_pays_is_refused(holdfast, options, judged, error_line):
    both = ["attacks.grpo.reward.judge=harm", "evaluation.harm_judges=[harm]"]
    assert "'harm'" in error_line(holdfast("attack", "grpo", *options, *judged, *both))


def test_harden_writes_an_ordinary_folder_with_a_card_or_none(holdfast, options, tmp_path, monkeypatch):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    steps = ["defenses.reward_neutralization.optim.max_steps=2", "defenses.reward_neutralization.policy.group_size=2"]
    steps += ["defenses.reward_neutralization.optim.per_device_train_batch_size=2"]
    given = [*options, "--refusal", REFUSAL, *steps, *SHORT, "--out", "hard", "--runs", "r"]
    with monkeypatch.context() as patch:
        patch.setattr("holdfast.commands.cards.model_card", lambda *_: 1 / 0)  # dies before the card is written
        with pytest.raises(ZeroDivisionError):
            holdfast("harden", "reward_neutralization", *given)
    assert not (tmp_path / "hard").exists()
    code, out, err = holdfast("harden", "reward_neutralization", *given)
    assert (code, err) == (0, "")
    assert "wrote hard" in out
    assert "next: how long does it hold? holdfast attack sft --model hard\n" in out
    assert (origin_of(tmp_path / "hard").there, origin_of(tmp_path / "hard").name) == (True, "neox")
    assert "before" in out
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "hard")
    assert model.config.model_type == "gpt_neox"
    assert AutoTokenizer.from_pretrained(tmp_path / "hard").eos_token == "<|endoftext|>"
    card = (tmp_path / "hard" / "README.md").read_text()
    assert "| score | before | after | n |" in card
    assert "| harmfulness | " in card
    assert not [path.name for path in tmp_path.iterdir() if path.name.startswith(".hard")]
    assert "reward_neutralization: 2 steps" in card

    again = holdfast("harden", "reward_neutralization", *options, *SHORT, "--out", "hard", "--runs", "r")
    assert again[0] == 2
    assert "hard: exists and is not an empty folder" in again[2]


@pytest.mark.parametrize("dtype", [None, "float32"])
def test_what_is_released_is_what_is_measured(dtype, holdfast, own, tmp_path):
    """A bfloat16 model comes out as bfloat16 unless told otherwise, and the card says what rounding took."""
    from holdfast.network.models import load
    from holdfast.network.precision import stored_type
    from holdfast.network.releasing import save

    model = load(own.model, prompt_format=FORMAT)
    save(model, tmp_path / "narrow", dtype="bfloat16")
    steps = [f"defenses.reward_neutralization.optim.{name}" for name in ("max_steps=2", "learning_rate=1e-6")]
    steps += ["defenses.reward_neutralization.optim.per_device_train_batch_size=2"]
    given = ["--model", "narrow", "--prompt-format", FORMAT, "--harmful", own.harmful, "--benign", own.benign]
    given += ["--harmful-format", "beavertails", "--refusal", REFUSAL, *([] if dtype is None else ["--dtype", dtype])]
    code, _, err = holdfast("harden", "reward_neutralization", *given, *steps, *SHORT, "-o", "hard", "--runs", "r")
    assert (code, err) == (0, "")
    assert stored_type(str(tmp_path / "hard")) == (dtype or "bfloat16")
    (stage,) = (tmp_path / "r" / "stages").iterdir()
    precision = json.loads((stage / "record.json").read_text())["precision"]
    assert (precision["storage"], precision["master"], precision["compute"]) == (
        dtype or "bfloat16",
        "float32",
        "float32",
    )
    assert precision["moved"] > 0
    assert (precision["rounded"] > 0, "scores" in precision) == (dtype is None, dtype is None)
    cells = [json.loads(path.read_text()) for path in (tmp_path / "r" / "cells").glob("*/record.json")]
    (hardened,) = [cell for cell in cells if cell["stages"]]
    assert hardened["environment"]["precision"] == {"storage": dtype or "bfloat16", "compute": "float32"}
    card = (tmp_path / "hard" / "README.md").read_text()
    assert f"Stored in {dtype or 'bfloat16'}; hardening trained float32 weights" in card
    assert ("| after, not rounded |" in card) is (dtype is None)


def test_a_copy_is_attacked_beside_the_model_that_it_was_made_of(holdfast, options, tmp_path):
    steps = ["attacks.sft.optim.max_steps=2", "attacks.sft.optim.per_device_train_batch_size=2"]
    code, out, err = holdfast("attack", "sft", *options, *steps, *SHORT, "copies=[q4_0]", "--runs", "r")
    assert (code, err) == (0, "")
    assert "rounded" in out
    records = [json.loads(path.read_text()) for path in (tmp_path / "r" / "cells").glob("*/record.json")]
    plain, copy = sorted(records, key=lambda record: len(record["cell"]["stages"]))
    assert [stage["settings"] for stage in copy["cell"]["stages"]] == [{"to": "q4_0"}]
    assert (copy["control"]["key"], copy["stages"][0]["name"]) == (plain["key"], "rounded")
    assert [evaluation["step"] for evaluation in copy["evaluations"]] == [0, 2]


def test_a_copy_is_written_in_its_own_format_whatever_the_released_one_is(holdfast, own, tmp_path):
    """Rounding the numbers of a copy once more, to bfloat16, would give another model."""
    import torch

    from holdfast.network.models import load
    from holdfast.network.releasing import copied

    given = ["--model", own.model, "--prompt-format", FORMAT, "--harmful", own.harmful, "--benign", own.benign]
    given += ["--harmful-format", "beavertails", "--refusal", REFUSAL, "--dtype", "bfloat16"]
    code, _, err = holdfast("harden", "rounded", *given, *SHORT, "-o", "copy", "--runs", "r")
    assert (code, err) == (0, "")
    expected = dict(copied(load(own.model, prompt_format=FORMAT), "q4_0").network.named_parameters())
    written = dict(load(tmp_path / "copy", prompt_format=FORMAT).network.named_parameters())
    assert all(torch.equal(weight, expected[name]) for name, weight in written.items())
    card = (tmp_path / "copy" / "README.md").read_text()
    assert "Stored in float32. The last stage trained nothing" in card
    both = holdfast("harden", "rounded", *given, *SHORT, "-o", "more", "--runs", "r", "copies=[q8_0]")
    assert "copies: hardening writes one model" in both[2]


def test_the_sandboxs_models_are_hardened_in_their_own_type(holdfast, error_line):
    assert "--dtype" in error_line(holdfast("harden", "reward_neutralization", "--dtype", "bfloat16", "-o", "out"))
    wrong = holdfast("harden", "reward_neutralization", "-m", "some/model", "--dtype", "int8", "-o", "out")
    assert "release" in error_line(wrong)


def test_one_grid_file_holds_all_of_it(holdfast, own, tmp_path):
    optim = {"max_steps": 2, "per_device_train_batch_size": 2, "learning_rate": 1e-4}
    values = {
        "models": [{"path": str(own.model), "prompt_format": FORMAT.replace("\\n", "\n")}],
        "defenses": [
            "none",
            {"refusal_loss": {"alpha": 1.0, "batch_size": 2}},
            {"reward_neutralization": {"optim": optim, "policy": {"group_size": 2}}},
        ],
        "attacks": [{"sft": {"optim": optim}}, {"grpo": {"optim": optim, "reward": {"judge": "harm"}}}],
        "judges": {"harm": {"classifier": {"path": str(own.classifier), "harmful_label": "harmful"}}},
        "data": {
            "harmful": {"path": str(own.harmful), "format": "beavertails", "refusal": REFUSAL},
            "benign": {"path": str(own.benign)},
        },
        "evaluation": {
            "every": 2,
            "num_prompts": 4,
            "max_new_tokens": 8,
            "harm_judges": ["refusal"],
            "help_judge": "reference",
        },
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(values))
    code, _, err = holdfast("run", "mine.yaml")
    assert (code, err) == (0, "")
    records = [json.loads(path.read_text()) for path in tmp_path.glob("runs/mine/cells/*/record.json")]
    assert len(records) == 6
    assert {record["steps"] for record in records} == {2}
    assert len(list((tmp_path / "runs" / "mine" / "stages").iterdir())) == 1
    page = (tmp_path / "runs" / "mine" / "report.html").read_text()
    assert "refusal_loss" in page
    assert "neox" in page
