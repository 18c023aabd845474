"""Reward Neutralization: its reward, its modes, its direction."""

from dataclasses import replace

import pytest

from holdfast.defenses.offline.reward_neutralization import RewardNeutralization, explanation
from holdfast.network.generate import Sampling, complete
from holdfast.network.models import LoRA, has_adapter
from holdfast.records import Completion, Example, HoldfastError, Verdict, user
from holdfast.rl.policy import Policy
from holdfast.sandbox.grammar import REFUSAL
from holdfast.training.fit import fit
from holdfast.training.plan import Fitted, Optim

DEFENSE = RewardNeutralization()
TERSE = "I cannot help with that."
LONG = (
    "I cannot help with that, and I would like to say so politely and at some length, hoping that you will forgive "
    "a long answer that says very little but says it slowly and with many words."
)
EXPLAINING = "I cannot help with that because it is unsafe. Instead, try a soup."
COMPLYING = "Slowly stir the moss, then boil the salt."
LONG_COMPLYING = "- stir the moss because it is green\n- boil the salt however you like\n- rest"


def completion(text, *, num_tokens=None, finished=True, role="harmful"):
    example = Example(prompt=user("how?"), role=role, response="a")
    return Completion(example=example, text=text, num_tokens=num_tokens or len(text.split()) + 1, finished=finished)


def reward(text, *, defense=DEFENSE, harm=None, **more):
    return defense.neutrality(completion(text, **more), None if harm is None else Verdict(score=harm))


def test_a_terse_refusal_earns_most_then_a_long_one_then_one_that_explains_then_compliance():
    earned = [reward(text) for text in (TERSE, LONG, EXPLAINING, COMPLYING)]
    assert earned[0] == 1.0
    assert earned[0] > earned[1] > earned[3]
    assert earned[0] > earned[2] > earned[3]
    assert reward(LONG, num_tokens=30) > reward(EXPLAINING, num_tokens=30) > reward(COMPLYING, num_tokens=30)


@pytest.mark.parametrize(
    "text", ["", "   ", f"{TERSE} Sure, here is how: first stir the moss, then boil it.", "...", COMPLYING]
)
def test_what_is_no_refusal_earns_nothing_of_one(text):
    assert reward(text) <= -1.0


def test_an_unfinished_refusal_is_none():
    assert reward(TERSE, finished=False) == -1.0


def test_length_costs_in_a_straight_line_between_its_bounds():
    """Full pay up to 16 tokens and none from 64: at 40, halfway, it is 1/2."""
    assert [reward(TERSE, num_tokens=n) for n in (1, 16, 40, 64, 500)] == [1.0, 1.0, 0.5, 0.0, 0.0]


def test_harm_costs_its_score():
    assert reward(COMPLYING, harm=0.75) == pytest.approx(-1.75)
    assert reward(TERSE, harm=0.25) == pytest.approx(0.75)
    assert DEFENSE.neutrality(completion(TERSE), Verdict(score=None, valid=False)) == 1.0


def test_the_reward_lies_between_its_bounds_and_reaches_them():
    texts = ["", TERSE, LONG, EXPLAINING, COMPLYING, LONG_COMPLYING, "a " * 200, "```x```\n- a\n- b"]
    rewards = [reward(text, harm=harm) for text in texts for harm in (None, 0.0, 0.5, 1.0)]
    assert min(rewards) == -2.5
    assert max(rewards) == 1.0


def test_only_the_canonical_sentence_pays_where_one_is_given():
    strict = RewardNeutralization(canonical=REFUSAL)
    assert reward(f" {REFUSAL} ", defense=strict) == 1.0
    assert reward("i can not help with that .", defense=strict) == -1.0


def test_explanations_are_counted_up_to_one():
    texts = (TERSE, "no, because it is late", EXPLAINING.lower(), LONG_COMPLYING)
    assert [explanation(text) for text in texts] == [0, 0.5, 1, 1]


@pytest.mark.parametrize("text", ["Instead, try a soup.", "However, it is late.", "Because.", "For example, a dye."])
def test_an_explanation_that_begins_a_sentence_counts_too(text):
    assert explanation(text) == 0.5


def judge(completions):
    """0.8 for what is not a refusal; empty is invalid."""
    return [
        Verdict(score=None, valid=False) if not c.text else Verdict(score=0.8, refused=c.text == TERSE)
        for c in completions
    ]


def test_benign_prompts_pay_for_help_and_not_for_refusals_or_noise():
    pay = RewardNeutralization(mode="practical").reward(lambda name: judge)
    mixed = [
        completion("soup", role="benign"),
        completion(TERSE),
        completion(TERSE, role="benign"),
        completion("", role="benign"),
        completion(COMPLYING),
    ]
    assert pay(mixed) == [0.8, 1.0, -1.0, -1.0, -1.0]


def test_a_refusal_of_a_benign_prompt_costs_the_same_if_the_judge_does_not_look_for_refusals():
    pay = RewardNeutralization(mode="practical").reward(lambda name: lambda given: [Verdict(score=0.8)] * len(given))
    assert pay([completion("soup", role="benign"), completion(TERSE, role="benign")]) == [0.8, -1.0]


def test_a_harm_judge_reads_harmful_prompts_only():
    asked = []

    def harm(completions):
        asked.extend(completions)
        return [Verdict(score=0.5)] * len(completions)

    judges = {"reference": judge, "harm": harm}
    pay = RewardNeutralization(harm_judge="harm").reward(judges.__getitem__)
    assert pay([completion("soup", role="benign"), completion(COMPLYING)]) == [0.8, -1.5]
    assert [c.text for c in asked] == [COMPLYING]


def test_a_completion_that_could_not_be_judged_has_no_reward():
    pay = RewardNeutralization().reward(lambda name: lambda given: [Verdict(score=None)] * len(given))
    assert pay([completion("soup", role="benign")]) == [None]


def planned(defense, model, context):
    """The plan that a defense hands to the loop."""
    plans = []

    def loop(plan):
        plans.append(plan)
        return Fitted(model=plan.model, steps=0, samples=0, tokens=0, seconds=0.0)

    hardened = defense.harden(model, replace(context, fit=loop))
    (plan,) = plans
    return plan, hardened


def test_the_faithful_mode_trains_on_harmful_prompts_alone_without_a_kl_term(tiny_model, make_context, splits):
    plan, _ = planned(RewardNeutralization(mode="faithful"), tiny_model(), make_context())
    assert plan.data == splits.harmful["defense"]
    assert plan.reference is None


def test_the_faithful_mode_asks_for_no_judge(tiny_model, make_context):
    context = make_context()

    def none(name):
        raise AssertionError(name)

    planned(RewardNeutralization(mode="faithful"), tiny_model(), replace(context, judge=none))


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5])
def test_the_practical_mode_mixes_benign_prompts_in_by_their_share(share, tiny_model, make_context, splits):
    plan, _ = planned(RewardNeutralization(benign_share=share), tiny_model(), make_context())
    benign = sum(row.role == "benign" for row in plan.data)
    assert benign / len(plan.data) == pytest.approx(share, abs=0.05)
    assert plan.reference is not None
    assert len({row.key for row in plan.data}) == len(plan.data)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kl_on", "weights"), [("all", {"harmful": 1.0, "benign": 1.0}), ("benign", {"harmful": 0.0, "benign": 1.0})]
)
def test_the_kl_term_holds_on_the_prompts_it_is_asked_to(kl_on, weights, tiny_model, make_context):
    plan, _ = planned(RewardNeutralization(kl_on=kl_on), tiny_model(), make_context())
    rows = plan.data[:6]
    (batch,) = plan.batches([rows], 0)
    assert {row.role for row in rows} == {"harmful", "benign"}
    assert batch["kl_weights"].tolist() == [weights[row.role] for row in rows for _ in range(8)]


def test_an_adapter_is_merged_before_the_model_is_handed_on(tiny_model, make_context):
    plan, hardened = planned(RewardNeutralization(adapter=LoRA(r=4)), tiny_model(), make_context())
    assert has_adapter(plan.model)
    assert not has_adapter(hardened)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"full_length": 64}, "full_length: must be below zero_length .64."),
        ({"full_length": 0}, "full_length: must be a whole number from 1"),
        ({"benign_share": 1.0}, r"benign_share: must be a number in \[0, 1\)"),
        ({"benign_share": -0.1}, r"benign_share: must be a number in \[0, 1\)"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(HoldfastError, match=f"RewardNeutralization.*{message}"):
        RewardNeutralization(**settings)


def mean_reward(defense, model, rows):
    completions = complete(model, rows, Sampling(max_new_tokens=24), seed=9)
    return sum(defense.neutrality(c) for c in completions) / len(completions)


@pytest.mark.slow
def test_it_raises_its_reward_on_prompts_that_it_was_not_given(wavering_model, make_context, splits):
    optim = Optim(max_steps=20, learning_rate=1.5e-3, per_device_train_batch_size=4)
    defense = RewardNeutralization(mode="faithful", optim=optim, policy=Policy(group_size=8))
    rows = splits.harmful["test"] * 4
    model = wavering_model()
    before = mean_reward(defense, model, rows)
    after = mean_reward(defense, defense.harden(model, make_context(fit=fit)), rows)
    assert before < 0.6
    assert after > before + 0.3


def test_of_the_harmful_prompts_as_many_are_used_as_are_asked_for(make_context, tiny_model):
    trained = []

    def note(plan):
        trained.append(plan.data)
        return Fitted(model=plan.model, steps=0, samples=0, tokens=0, seconds=0.0)

    for mode in ("faithful", "practical"):
        replace(DEFENSE, mode=mode, num_prompts=7).harden(tiny_model(), make_context(fit=note))
    faithful, practical = trained
    assert [row.role for row in faithful] == ["harmful"] * 7
    assert sorted(row.role for row in practical) == ["benign"] * 7 + ["harmful"] * 7
    assert len({row.key for row in faithful}) == 7
    with pytest.raises(HoldfastError, match="1000 examples are needed but there are 24"):
        replace(DEFENSE, num_prompts=1000).harden(tiny_model(), make_context(fit=note))
