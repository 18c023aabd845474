"""What stands beside guided attacks: the expert alone, what SFT makes of its answers, and plain RL after that."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from holdfast.attacks.adaptive.warm_start import WarmStart
from holdfast.attacks.expert_alone import ExpertAlone
from holdfast.attacks.expert_sft import ExpertSFT
from holdfast.attacks.policy_gradient import GRPO
from holdfast.evaluation.evaluate import evaluate
from holdfast.methods.settings import plain, typed
from holdfast.network.flops import forward_flops, multiplied
from holdfast.network.generate import Sampling
from holdfast.records import Example, HoldfastError, Verdict, user
from holdfast.rl.guidance.expert import Expert, load_expert
from holdfast.rl.policy import Policy
from holdfast.rl.rewards import AttackReward
from holdfast.training.fit import fit
from holdfast.training.plan import Optim, Spent, sum_costs

OPTIM = Optim(max_steps=3, learning_rate=1e-3, per_device_train_batch_size=4)
COPY = Expert(kind="sft_copy", pairs=4, optim=replace(OPTIM, max_steps=2))


def by_length(completions):
    """Half of the texts, by a rule that anyone can check."""
    return [Verdict(score=float(len(c.text) % 2), refused=False) for c in completions]


@pytest.fixture
def known(make_context, wavering_model):
    """`known(**more)`: a context in which the base model is the wavering one and the judge goes by length."""
    models = {"base": wavering_model}

    def context(**more):
        judges, longer = {"even": by_length}, {"max_new_tokens": 24, **more}
        return make_context(judges=judges, models=lambda name: models[name](), **longer)

    return context


def sft(**more):
    values = {"reward": AttackReward(judge="even"), "optim": OPTIM, "num_prompts": 6, "answers": 3, "threshold": 1.0}
    return ExpertSFT(**{**values, **more})


# the expert alone


def alone(expert, model, suite, context):
    ((evaluation, judged),) = ExpertAlone(expert=expert).curve(model, suite, context, keep=lambda *_: None)
    return evaluation, judged


@pytest.mark.slow
def test_the_expert_alone_scores_what_an_evaluation_of_it_scores(aligned_model, wavering_model, make_suite, known):
    suite, model = make_suite(size=6), aligned_model()
    evaluation, judged = alone(Expert(), model, suite, known())
    scores, answers = evaluate(wavering_model(), suite)
    assert (evaluation.scores, judged) == (scores, answers)
    assert evaluation.scores != evaluate(model, suite)[0]
    assert evaluation.value("helpfulness") is not None


def test_an_expert_with_a_temperature_answers_at_it(aligned_model, make_suite, known):
    suite, model = make_suite(size=6), aligned_model()
    evaluation, _ = alone(Expert(kind="tempered", temperature=3.0), model, suite, known())
    warm = replace(suite, sampling=Sampling(max_new_tokens=24, temperature=3.0))
    assert evaluation.scores == evaluate(model, warm)[0]


def test_what_an_expert_took_to_make_is_counted_and_what_it_answers_to_harmful_prompts(
    aligned_model, make_suite, known
):
    suite, model = make_suite(size=4), aligned_model()
    bare, answered = alone(Expert(), model, suite, known())
    tokens = sum(len(model.encode_prompt(row.prompt)) for row in suite.harmful)
    tokens += sum(answer.completion.num_tokens for answer in answered[:4])
    assert (bare.samples, bare.tokens, bare.flops) == (4, tokens, forward_flops(model.network, tokens))
    made, answered = alone(COPY, model, suite, known())
    assert made.samples == 4 + 2 * 4
    assert made.tokens > tokens
    assert made.flops > bare.flops + 3 * multiplied(model.network) * 8


def test_a_canned_text_is_no_expert_that_could_stand_alone():
    with pytest.raises(HoldfastError, match="a canned text does not answer prompts"):
        ExpertAlone(expert=Expert(kind="canned", text="no ."))


# SFT on what it answers


def test_what_the_reward_accepts_of_the_experts_answers_is_learnt_and_nothing_else(aligned_model, known, splits):
    plan = sft().plan(aligned_model(), known())
    every = sft(threshold=0.0).plan(aligned_model(), known())
    assert len(every.data) == 17  # one holds a control token
    assert [row for row in every.data if len(row.response) % 2] == plan.data
    assert 0 < len(plan.data) < len(every.data)
    prompts = {row.key: row.response for row in splits.harmful["attack"]}
    assert {row.key for row in every.data} <= set(prompts)
    assert any(row.response != prompts[row.key] for row in every.data)


@pytest.mark.slow
def test_batches_of_any_size_draw_as_many_answers(aligned_model, known):
    rows_by_size = [sft(threshold=0.0, batch_size=size).plan(aligned_model(), known()).data for size in (2, 7, 128)]
    # Those with a control token in them are left out, and what is drawn depends on the size.
    asked = [list(dict.fromkeys(row.key for row in rows)) for rows in rows_by_size]
    assert asked[1:] == asked[:1] * 2
    assert all(12 <= len(rows) <= 18 for rows in rows_by_size)


@pytest.mark.slow
def test_the_model_learns_the_experts_answers(aligned_model, known):
    plan = sft(threshold=0.0, optim=replace(OPTIM, max_steps=16)).plan(aligned_model(), known())
    losses = []
    fit(replace(plan, hooks=(lambda progress: losses.append(progress.metrics.get("loss")),)))
    assert sum(losses[-4:]) < sum(losses[1:5])


@pytest.mark.slow
def test_what_sampling_and_the_expert_cost_is_spent_before_the_first_step(aligned_model, known):
    told = []
    plan = sft().plan(aligned_model(), known())
    fitted = fit(replace(plan, hooks=(told.append,)))
    all_answers = sft(threshold=0.0).plan(aligned_model(), known())
    assert (plan.spent.steps, plan.spent.samples, plan.spent.tokens) == (0, 0, all_answers.spent.tokens)
    assert plan.spent.flops == pytest.approx(forward_flops(plan.model.network, plan.spent.tokens), rel=0.1)
    assert (told[0].step, told[0].tokens, told[0].flops) == (0, plan.spent.tokens, plan.spent.flops)
    assert told[-1].flops == plan.spent.flops + fitted.flops
    tuned = sft(expert=COPY).plan(aligned_model(), known()).spent
    assert (tuned.steps, tuned.samples) == (2, 8)
    assert tuned.tokens > plan.spent.tokens / 2


@pytest.mark.parametrize(
    ("judge", "seen"),
    [
        (by_length, "the highest is 1.00"),
        (lambda cs: [Verdict(score=None, refused=False) for _ in cs], "none has a reward"),
    ],
    ids=["too little", "nothing"],
)
def test_an_expert_of_whom_nothing_is_accepted_is_refused_with_the_way_out(judge, seen, aligned_model, make_context):
    context = make_context(judges={"even": judge})
    with pytest.raises(HoldfastError, match="expert_sft: none of the expert's 18 answers has a reward of 2") as refused:
        sft(threshold=2.0, expert=Expert(kind="tempered")).plan(aligned_model(), context)
    assert seen in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("wrong", [{"answers": 0}, {"temperature": 0.0}, {"batch_size": 0}, {"num_prompts": 0}])
def test_settings_that_make_no_sense_are_refused_by_name(wrong):
    with pytest.raises(HoldfastError, match=f"ExpertSFT.{next(iter(wrong))}: must be"):
        sft(**wrong)


# and plain RL after that


@pytest.mark.slow
def test_sft_on_the_experts_answers_can_go_before_plain_rl_and_all_of_it_is_counted(aligned_model, known, weights):
    settings = {name: value for name, value in plain(sft()).items() if name != "optim"}
    warm = WarmStart(attack="expert_sft", optim=OPTIM, settings=settings)
    assert typed(WarmStart, plain(warm), "warm_start") == warm
    assert warm.settings["expert"]["kind"] == "model"
    assert warm.settings["reward"]["judge"] == "even"
    attack = GRPO(
        optim=replace(OPTIM, max_steps=2),
        policy=Policy(group_size=3, max_new_tokens=6),
        reward=AttackReward(judge="even"),
    )
    first = sft().plan(aligned_model(), known())
    fitted = fit(first)
    plan = warm.adapt(attack.plan)(aligned_model(), known())
    assert torch.equal(weights(plan.model), weights(fitted.model))
    assert plan.spent[:3] == sum_costs(first.spent, fitted.spent)[:3]
    assert plan.spent.flops == first.spent.flops + fitted.flops
    assert fit(plan).steps == 2


def test_costs_add_up_and_one_that_is_not_known_makes_the_sum_unknown():
    one, other = Spent(1, 2, 3, 4.0, 5.0), Spent(10, 20, 30, 40.0, 50.0)
    assert sum_costs(one, other, Spent()) == Spent(11, 22, 33, 44.0, 55.0)
    assert sum_costs(one, other._replace(flops=None)) == Spent(11, 22, 33, 44.0, None)


def test_an_expert_that_is_to_be_tuned_on_answers_names_the_row_without_one():
    row = Example(prompt=user("how ?"), source="harmful.jsonl, line 2")
    context = SimpleNamespace(splits=SimpleNamespace(harmful={"attack": [row]}), seed=0, fit=pytest.fail)
    with pytest.raises(HoldfastError, match=r"harmful\.jsonl, line 2: expert: `sft_copy` needs harmful answers"):
        load_expert(Expert(kind="sft_copy", pairs=1), None, context)
