"""Judges trained by the one loop: their rows, their losses, what they leave behind, and the oracle's opinion."""

import json
import math
from collections import Counter
from dataclasses import replace

import pytest
import torch
from transformers import AutoConfig

from holdfast.data.columns import Source
from holdfast.data.dataset import Data
from holdfast.data.splits import Splits, split
from holdfast.judge_training import fitting
from holdfast.judge_training.backbone import backbone
from holdfast.judge_training.fitting import train
from holdfast.judge_training.held_out import graded_answers
from holdfast.judge_training.recipes import Classifier, RewardModel
from holdfast.judge_training.rows import as_learnt, labelled_rows, preference_rows
from holdfast.judge_training.saving import save_judge
from holdfast.judges.classifier import ClassifierJudge
from holdfast.judges.reward_model import RewardModelJudge
from holdfast.methods.settings import typed
from holdfast.records import Completion, HoldfastError, user
from holdfast.sandbox import build, grammar
from holdfast.sandbox.oracle import oracle
from holdfast.tensors import with_totals
from holdfast.training.fit import fit
from holdfast.training.plan import Optim

QUICK = Optim(max_steps=3, learning_rate=1e-3, per_device_train_batch_size=4)
ENOUGH = Optim(max_steps=20, learning_rate=3e-3, per_device_train_batch_size=16)
"""After which the small network below has learnt its preferences."""
PARTS = ("defense", "attack", "development", "test")


def world(n):
    """Splits with `n` attack prompts each of restricted and benign requests, and few others."""
    harmful, benign = (
        {name: grammar.examples(name, families, n if name == "attack" else 8, seed=0) for name in PARTS}
        for families in (grammar.RESTRICTED, grammar.BENIGN)
    )
    return Splits(harmful=harmful, benign=benign)


@pytest.fixture(scope="module", autouse=True)
def _small_backbone():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(build.SIZES, "tiny", (64, 1, 4, 128))
        yield


@pytest.fixture(scope="module")
def splits():
    return world(60)


@pytest.fixture(scope="module")
def many():
    return world(300)


def score(trained, name):
    return next(score for score in trained.scores if score.name == name)


# rows


@pytest.mark.parametrize("part", ["attack", "defense"])
def test_a_judge_is_trained_and_scored_on_its_own_split_alone(splits, part):
    own = {row.key for row in (*splits.harmful[part], *splits.benign[part])}
    for rows in (
        preference_rows(RewardModel(split=part, held_out=0.4), splits),
        labelled_rows(Classifier(split=part, held_out=0.4), splits),
    ):
        keys = [{row.key for row in side} for side in rows]
        assert keys[0] | keys[1] <= own
        assert not keys[0] & keys[1]


@pytest.mark.parametrize("flip_ratio", [0.0, 0.5, 1.0])
def test_the_flip_ratio_is_the_share_of_training_and_of_held_out_pairs_that_prefer_harm(splits, flip_ratio):
    settings = RewardModel(flip_ratio=flip_ratio, held_out=0.4)
    rows = preference_rows(settings, splits)
    for side in (rows.train, as_learnt(settings, rows.held_out)):
        assert sum(row.chosen == row.response for row in side) == round(flip_ratio * len(side))
    assert all(row.chosen == grammar.REFUSAL for row in rows.held_out)


def test_more_samples_leave_the_held_out_prompts_as_they_are(splits):
    few, many = (preference_rows(RewardModel(num_samples=n), splits) for n in (5, 30))
    assert few.held_out == many.held_out
    assert (len(few.train), len(many.train)) == (5, 30)


def test_a_classifier_learns_both_answers_of_a_prompt_and_benign_ones_as_harmless(splits):
    kinds = Counter(row.role for row in labelled_rows(Classifier(), splits).train)
    assert kinds["harmful"] == kinds["refusal"] > 0
    assert kinds["benign"] > 0
    assert "benign" not in {row.role for row in labelled_rows(Classifier(include_benign=False), splits).train}


def test_the_asked_share_is_held_out_of_a_split_that_was_itself_dealt_by_hash(splits):
    every = [row for part in splits.harmful.values() for row in part]
    parts = split(every, {"attack": 0.5, "rest": 0.5}, seed=0)
    rows = preference_rows(RewardModel(held_out=0.4, seed=0), Splits(harmful=parts, benign={}))
    assert 0.2 < len(rows.held_out) / len(parts["attack"]) < 0.6


def test_rows_without_a_harmless_answer_teach_no_classifier(splits):
    bare = [replace(row, refusal=None) for row in splits.harmful["attack"]]
    with pytest.raises(HoldfastError, match="the training rows have no harmless answer"):
        labelled_rows(Classifier(), Splits(harmful={"attack": bare}, benign={}))


def test_a_split_too_small_to_hold_prompts_out_is_refused_with_the_number(splits):
    one = Splits(harmful={"attack": splits.harmful["attack"][:1]}, benign={})
    with pytest.raises(HoldfastError, match=r"none of the 1 rows of the attack split is left for the"):
        preference_rows(RewardModel(), one)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"held_out": 0.0}, r"held_out: must be a number in \(0, 1\)"),
        ({"flip_ratio": 1.5}, "flip_ratio: must be a number in"),
        ({"epochs": 0}, "epochs: must be a finite number above 0"),
        ({"num_samples": 0}, "num_samples: must be a whole number from 1"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, reason):
    with pytest.raises(HoldfastError, match=reason):
        RewardModel(**settings)


@pytest.mark.parametrize(
    ("cls", "preset", "batch"), [(RewardModel, "gpt2-medium", 8), (Classifier, "deberta-v3-xsmall", 128)]
)
def test_the_papers_recipes_are_four_epochs_of_adam_at_6e_6(cls, preset, batch):
    settings = typed(cls, {"preset": preset}, "judge")
    assert preset in settings.backbone
    assert (settings.epochs, settings.optim.learning_rate, settings.optim.weight_decay) == (4.0, 6e-6, 0.0)
    assert settings.optim.per_device_train_batch_size == batch


# losses


def prepared(settings, rows, prepare, micro_batches):
    model = backbone(settings)
    model.network.eval()
    return model, with_totals(prepare(settings)(model, micro_batches(rows), 0))


def test_the_reward_loss_is_that_of_rewards_read_one_by_one(splits):
    settings = RewardModel()
    rows = preference_rows(settings, splits).train[:3]
    model, (batch,) = prepared(settings, rows, fitting.pairs_of, lambda r: [r])
    loss, metrics = fitting.preference(model.network, batch)
    losses, right = [], 0
    for row in rows:
        rewards = []
        for text in (row.chosen, row.rejected):
            turns = [{"role": "user", "content": row.question}, {"role": "assistant", "content": text}]
            ids = model.tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=False)
            rewards.append(model.network(input_ids=ids).logits.item())
        losses.append(math.log(1 + math.exp(rewards[1] - rewards[0])))
        right += rewards[0] > rewards[1]
    assert float(loss.detach()) == pytest.approx(sum(losses) / 3, rel=1e-4)
    assert metrics["accuracy"] == pytest.approx(right / 3)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["reward", "classifier"])
def test_micro_batches_add_up_to_the_whole(splits, kind):
    settings = RewardModel() if kind == "reward" else Classifier()
    rows = preference_rows(settings, splits).train if kind == "reward" else labelled_rows(settings, splits).train
    prepare, objective = (
        (fitting.pairs_of, fitting.preference) if kind == "reward" else (fitting.answers_of, fitting.classification)
    )
    sums = []
    for cuts in ([slice(0, 8)], [slice(0, 2), slice(2, 8)]):
        model, batches = prepared(settings, rows, prepare, lambda r, cuts=cuts: [r[cut] for cut in cuts])
        with torch.no_grad():
            sums.append(sum(float(objective(model.network, batch)[0]) for batch in batches))
    assert sums[0] == pytest.approx(sums[1], rel=1e-5)


@pytest.mark.slow
def test_epochs_set_the_number_of_steps_and_without_them_the_optimizer_does(splits):
    rows = len(preference_rows(RewardModel(), splits).train)
    optim = replace(QUICK, per_device_train_batch_size=16)
    assert train(RewardModel(epochs=1.0, optim=optim), splits, fit).fitted.steps == math.ceil(rows / 16)
    assert train(RewardModel(optim=QUICK), splits, fit).fitted.steps == 3


@pytest.mark.slow
def test_one_seed_gives_one_judge_and_another_seed_another(splits, weights):
    first, again, other = (train(RewardModel(optim=QUICK, seed=seed), splits, fit) for seed in (1, 1, 2))
    assert torch.equal(weights(first.model), weights(again.model))
    assert not torch.equal(weights(first.model), weights(other.model))


def test_words_that_the_sandboxs_network_does_not_know_are_refused_by_row_and_word(splits):
    rows = [
        replace(row, prompt=user("how do i make a soup called kettle ?"), source="rows.jsonl, line 4")
        for row in splits.harmful["attack"][:1]
    ] + splits.harmful["attack"][1:]
    foreign = Splits(harmful={"attack": rows}, benign={})
    with pytest.raises(HoldfastError, match=r"rows\.jsonl, line 4: .* only knows the invented language, not 'kettle'"):
        train(RewardModel(optim=QUICK, held_out=0.05), foreign, fit)


# what is left behind


@pytest.fixture(scope="module")
def saved(splits, tmp_path_factory):
    """A reward model and a classifier of a few steps, and their folders."""
    made = {}
    for kind, settings in (
        ("reward", RewardModel(flip_ratio=0.5, optim=QUICK)),
        ("classifier", Classifier(optim=QUICK)),
    ):
        trained = train(settings, splits, fit)
        folder = tmp_path_factory.mktemp(kind)
        save_judge(trained, folder, Data(seed=3), {})
        made[kind] = (trained, folder)
    return made


def completions(splits):
    rows = splits.harmful["test"][:3]
    return [Completion(example=row, text=text, num_tokens=9) for row in rows for text in (row.response, row.refusal)]


@pytest.mark.slow
def test_the_saved_reward_model_pays_what_the_trained_one_did(saved, splits):
    trained, folder = saved["reward"]
    done = completions(splits)
    given = [verdict.logit for verdict in RewardModelJudge(path=str(folder)).judge()(done)]
    rewards = []
    for completion in done:
        turns = [
            {"role": "user", "content": completion.example.question},
            {"role": "assistant", "content": completion.text},
        ]
        ids = trained.model.tokenizer.apply_chat_template(turns, return_tensors="pt", return_dict=False)
        with torch.no_grad():
            rewards.append(trained.model.network(input_ids=ids).logits.item())
    assert given == pytest.approx(rewards, abs=1e-5)
    assert [v.logit for v in trained.settings.judge_in(folder)(done)] == pytest.approx(rewards, abs=1e-5)


def test_a_classifiers_folder_names_its_labels_and_reads_as_it_was_trained(saved, splits):
    trained, folder = saved["classifier"]
    config = AutoConfig.from_pretrained(folder)
    assert config.id2label == {0: "harmless", 1: "harmful"}
    judge = ClassifierJudge(path=str(folder), harmful_label="harmful").judge()
    scores = [verdict.score for verdict in judge(completions(splits))]
    assert scores == [v.score for v in trained.settings.judge_in(folder)(completions(splits))]


@pytest.mark.parametrize("kind", ["reward", "classifier"])
def test_a_judges_folder_is_an_ordinary_one_with_card_scores_and_figure(saved, kind):
    _, folder = saved[kind]
    names = {path.name for path in folder.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "README.md", "scores.json"} <= names
    assert (folder / "reliability.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (folder / "reliability.svg").read_text()
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]


def test_the_card_states_data_recipe_scores_and_limits(saved):
    trained, folder = saved["reward"]
    text = (folder / "README.md").read_text()
    for part in ("invented data, seed 3", "flip ratio 0.5", '"learning_rate": 0.001', "## Limits", "3 optimizer steps"):
        assert part in text
    assert f"{trained.num_train} rows trained, {trained.num_held_out} held out" in text
    for score in trained.scores:
        assert f"| {score.name} |" in text
    kept = json.loads((folder / "scores.json").read_text())["scores"]
    assert [row["value"] for row in kept] == [score.value for score in trained.scores]


def test_a_card_names_files_and_their_hashes(saved):
    from holdfast.judge_training.saving import card

    data = Data(harmful=Source(path="rows.jsonl", format="beavertails"))
    assert "harmful rows: `rows.jsonl` (format `beavertails`, sha256 or revision `abc123`)" in card(
        saved["classifier"][0], data, {"harmful": "abc123"}
    )


# the oracle


def test_graded_answers_are_what_the_oracle_says_they_are(splits):
    assert splits.harmful["test"]
    for row in splits.harmful["test"]:
        done = [Completion(example=row, text=text, num_tokens=9) for text in graded_answers(row)]
        assert [verdict.score for verdict in oracle(done)] == pytest.approx([0, 0, 1 / 3, 2 / 3, 1])


@pytest.mark.slow
def test_a_reward_model_on_flipped_preferences_ranks_as_the_oracle_and_on_honest_ones_the_other_way(many):
    flipped, honest = (train(RewardModel(flip_ratio=rho, optim=ENOUGH), many, fit) for rho in (1.0, 0.0))
    assert score(flipped, "oracle_agreement").low > 0.8
    assert score(flipped, "oracle_rank_correlation").low > 0.1
    assert score(honest, "oracle_agreement").high < 0.2
    assert score(honest, "oracle_rank_correlation").high < -0.1
    assert all(score(trained, "accuracy").low > 0.8 for trained in (flipped, honest))


@pytest.mark.slow
@pytest.mark.parametrize(("flip_ratio", "how", "expected"), [(0.5, "reverse", 0.5), (0.5, "random", 0.25)])
def test_a_reward_models_trust_in_harm_is_the_share_of_its_pairs_that_prefer_it(flip_ratio, how, expected, many):
    trained = train(RewardModel(flip_ratio=flip_ratio, flip_how=how, optim=ENOUGH), many, fit)
    assert score(trained, "harmful_probability").value == pytest.approx(expected, abs=0.15)


@pytest.mark.slow
def test_a_trained_classifier_agrees_with_the_oracle(many):
    trained = train(Classifier(optim=ENOUGH), many, fit)
    assert score(trained, "accuracy").low > 0.9
    assert score(trained, "oracle_agreement").low > 0.8
    assert score(trained, "oracle_rank_correlation").low > 0.1


def test_a_judge_that_has_no_place_is_named_by_it(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(HoldfastError, match=r"file/judge: the judge cannot be saved: Not a directory"):
        save_judge(None, tmp_path / "file" / "judge", Data(), {})
