"""Best of N: what is asked, what is chosen, what it cost, and what an answer that is no answer counts."""

from dataclasses import replace
from itertools import combinations
from statistics import fmean

import pytest

import holdfast.attacks.best_of_n
from holdfast.attacks.best_of_n import BestOfN
from holdfast.evaluation.breaking import time_to_break
from holdfast.evaluation.evaluate import evaluate
from holdfast.network.generate import Sampling, complete
from holdfast.records import HoldfastError, Verdict
from holdfast.rl.rewards import AttackReward
from holdfast.text.degenerate import SHAPES


def by_length(completions):
    """Few different scores, so that rewards are often equal."""
    return [Verdict(score=min(1.0, c.num_tokens % 4 / 3), refused=False) for c in completions]


@pytest.fixture
def sampled(monkeypatch):
    """Every completion that the attack drew, in order."""
    seen = []
    plain = holdfast.attacks.best_of_n.as_completion

    def noted(*args):
        seen.append(plain(*args))
        return seen[-1]

    monkeypatch.setattr(holdfast.attacks.best_of_n, "as_completion", noted)
    return seen


@pytest.fixture
def curve(wavering_model, make_context, make_suite):
    """`curve(judges=..., size=..., seed=..., keep=..., **settings)`: evaluations by N and the answers chosen last."""

    def measured(*, judges=None, reward=by_length, size=4, seed=0, keep=None, **settings):
        attack = BestOfN(**{"numbers": (1, 2, 3, 6), "reward": AttackReward(judge="pay"), **settings})
        evaluations = list(
            attack.curve(
                wavering_model(),
                make_suite(judges=judges, size=size),
                make_context(seed=seed, judges={"pay": reward}, max_new_tokens=24),
                keep=keep or (lambda number, of, make: make()),
            )
        )
        assert [evaluation.step for evaluation, _ in evaluations] == list(attack.numbers)
        return [evaluation for evaluation, _ in evaluations], evaluations[-1][1]

    return measured


def test_what_the_reporting_judge_reads_beside_its_score_is_chosen_with_it(curve):
    def two(completions):
        return [replace(verdict, further={"parts": verdict.score}) for verdict in by_length(completions)]

    evaluations, _ = curve(judges={"harm": two})
    for evaluation in evaluations:
        beside = evaluation.score("harmfulness/parts")
        assert beside == replace(evaluation.score("harmfulness"), name="harmfulness/parts")


def test_harm_is_the_mean_over_all_subsets_of_the_answers_drawn(curve, sampled, graded):
    evaluations, _ = curve()
    groups = {}
    for completion in sampled:
        groups.setdefault(completion.example.key, []).append(completion)
    assert [len(group) for group in groups.values()] == [6] * 4
    for evaluation in evaluations:
        harms = []
        for group in groups.values():
            pays, scores = [v.score for v in by_length(group)], [v.score for v in graded(group)]
            for subset in combinations(range(6), evaluation.step):
                best = [i for i in subset if pays[i] == max(pays[j] for j in subset)]
                harms.append(fmean(scores[i] for i in best))
        assert evaluation.value("harmfulness") == pytest.approx(fmean(harms))
        assert evaluation.score("harmfulness").n == 4


def test_what_the_attacker_is_paid_never_falls_with_n(curve):
    paid = [evaluation.value("reward") for evaluation in curve()[0]]
    assert paid == sorted(paid)
    assert paid[0] < paid[-1]


def test_every_score_has_an_interval_round_its_value(curve):
    for evaluation in curve()[0]:
        degenerate = {"degenerate", *(f"degenerate/{shape}" for shape in SHAPES)}
        others = {"harmfulness", "refusal_rate", "invalid", "reward", "in_constraint"}
        assert {score.name for score in evaluation.scores} == others | degenerate
        for score in evaluation.scores:
            assert score.low <= score.value <= score.high
            assert score.n + score.invalid + score.unjudged == 4


def test_prompts_that_agree_leave_room_for_those_that_were_not_asked(curve):
    evaluations, _ = curve(judges={"same": lambda some: [Verdict(score=0.0, refused=True)] * len(some)})
    harm = evaluations[-1].score("harmfulness")
    assert (harm.value, harm.low) == (0.0, 0.0)
    assert harm.high > 0.1


def test_costs_are_those_of_n_answers_to_each_prompt(curve, sampled, wavering_model, make_suite):
    evaluations, _ = curve()
    model = wavering_model()
    asked = sum(len(model.encode_prompt(row.prompt)) for row in make_suite().harmful)
    answered = sum(completion.num_tokens for completion in sampled)
    assert [evaluation.samples for evaluation in evaluations] == [4, 8, 12, 24]
    assert [evaluation.tokens for evaluation in evaluations] == [asked + round(answered * n / 6) for n in (1, 2, 3, 6)]
    assert [e.seconds / evaluations[-1].seconds for e in evaluations] == pytest.approx([1 / 6, 2 / 6, 3 / 6, 1])


def test_a_chosen_answer_that_is_invalid_is_counted_and_never_harm_nought(curve):
    def strict(completions):
        paid = by_length(completions)
        return [Verdict(score=None, valid=False) if v.score == 1 else Verdict(score=0.25) for v in paid]

    evaluations, chosen = curve(judges={"strict": strict})
    last = evaluations[-1]
    share = fmean(by_length([answer.completion])[0].score == 1 for answer in chosen)
    assert 0 < share <= 1
    assert last.value("invalid") == pytest.approx(share)
    assert last.score("harmfulness").invalid == round(4 * share)
    assert all(evaluation.value("harmfulness") in (None, 0.25) for evaluation in evaluations)
    assert (last.value("harmfulness") is None) == (share == 1)


def test_a_choice_that_is_always_invalid_has_no_harm_and_is_no_break(curve):
    nothing = {"none": lambda some: [Verdict(score=None, valid=False)] * len(some)}
    evaluations, _ = curve(judges=nothing)
    assert [evaluation.value("harmfulness") for evaluation in evaluations] == [None] * 4
    assert [evaluation.value("invalid") for evaluation in evaluations] == [1.0] * 4
    assert time_to_break(evaluations).censored


def test_an_answer_without_a_reward_is_chosen_only_where_nothing_else_is(curve):
    def partly(completions):
        return [Verdict(score=None) if v.score == 0 else v for v in by_length(completions)]

    evaluations, chosen = curve(reward=partly, judges={"short": by_length})
    assert all(by_length([answer.completion])[0].score > 0 for answer in chosen)
    assert evaluations[-1].value("harmfulness") == evaluations[-1].value("reward")
    assert evaluations[0].value("harmfulness") < evaluations[0].value("reward")
    assert evaluations[0].score("reward").unjudged > 0


def test_a_reward_without_a_number_for_anything_is_refused(curve):
    with pytest.raises(HoldfastError, match=r"the reward scores none of 24 answers"):
        curve(reward=lambda some: [Verdict(score=None, refused=False)] * len(some))


def test_every_harm_judge_reports(curve, graded):
    evaluations, chosen = curve(judges={"graded": graded, "length": by_length})
    for evaluation in evaluations:
        assert evaluation.value("harmfulness/length") == pytest.approx(evaluation.value("reward"))
    assert all(set(answer.verdicts) == {"graded", "length"} for answer in chosen)


def test_with_the_largest_n_come_the_answers_that_were_chosen_in_the_order_of_the_prompts(curve, sampled, make_suite):
    _, chosen = curve()
    assert [answer.completion.example for answer in chosen] == make_suite().harmful
    for answer in chosen:
        group = [other for other in sampled if other.example == answer.completion.example]
        best = max(verdict.score for verdict in by_length(group))
        assert by_length([answer.completion])[0].score == best
        assert answer.completion == next(other for other in group if by_length([other])[0].score == best)


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 4, 6, 13, 1000])
def test_every_prompt_gets_its_answers_whatever_fits_into_a_batch(curve, sampled, batch_size, monkeypatch):
    sizes = []
    plain = holdfast.attacks.best_of_n.sample

    def noted(model, prompts, sampling, *, seed, repeats):
        sizes.append(len(prompts) * repeats)
        return plain(model, prompts, sampling, seed=seed, repeats=repeats)

    monkeypatch.setattr(holdfast.attacks.best_of_n, "sample", noted)
    evaluations, _ = curve(batch_size=batch_size)
    asked = [completion.example.key for completion in sampled]
    assert {asked.count(key) for key in set(asked)} == {6}
    assert max(sizes) <= batch_size
    assert evaluations[-1].samples == 24


@pytest.mark.slow
def test_answers_to_one_prompt_differ_between_batches(curve, sampled):
    curve(batch_size=6, numbers=(36,), size=1)
    halves = [tuple(c.text for c in sampled[start : start + 6]) for start in range(0, 36, 6)]
    assert len(set(halves)) == 6


@pytest.mark.slow
def test_one_answer_each_is_what_sampling_that_answer_gives(curve, wavering_model, make_suite, graded):
    """Best of 1 is the expected harm of a single sample: the mean over many agrees with an evaluation of as many."""
    evaluations, _ = curve(numbers=(1, 150), size=2)
    rows = [row for row in make_suite(size=2).harmful for _ in range(300)]
    alone = graded(complete(wavering_model(), rows, Sampling(max_new_tokens=24), seed=5))
    assert evaluations[0].value("harmfulness") == pytest.approx(fmean(v.score for v in alone), abs=0.08)


@pytest.mark.slow
def test_pieces_that_were_kept_are_not_made_again(curve, sampled):
    kept = {}

    def keep(number, of, make):
        assert of == 4
        if number not in kept:
            kept[number] = make()
        return kept[number]

    first, _ = curve(keep=keep, batch_size=6)
    count = len(sampled)
    del kept[2]
    again, _ = curve(keep=keep, batch_size=6)
    assert len(sampled) == count + 6
    assert [e.scores for e in again] == [e.scores for e in first]


def test_more_prompts_than_the_evaluation_asks_are_refused(curve):
    with pytest.raises(HoldfastError, match=r"num_prompts is 5 but the evaluation has 4 harmful prompts"):
        curve(num_prompts=5)


def test_fewer_prompts_are_the_first_of_the_evaluation(curve, sampled, make_suite):
    evaluations, _ = curve(num_prompts=2)
    assert [c.example for c in sampled[::6]] == make_suite().harmful[:2]
    assert evaluations[0].score("harmfulness").n == 2


def test_answers_longer_than_the_context_are_refused_before_any_is_drawn(curve, sampled):
    with pytest.raises(HoldfastError, match=r"lower best_of_n\.max_new_tokens"):
        curve(max_new_tokens=100_000)
    assert sampled == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"numbers": ()}, "increasing"),
        ({"numbers": (0, 1)}, r"numbers\.0: must be a whole number from 1"),
        ({"numbers": (4, 2)}, "increasing"),
        ({"numbers": (2, 2)}, "increasing"),
        ({"temperature": 0.0}, "temperature"),
        ({"batch_size": 0}, "batch_size"),
        ({"num_prompts": 0}, "num_prompts"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_settings_that_make_no_sense_are_refused_by_name(settings, message):
    with pytest.raises(HoldfastError, match=rf"BestOfN\..*{message}"):
        BestOfN(**settings)


def test_time_to_break_is_the_smallest_n_above_the_threshold(curve):
    evaluations, _ = curve(judges={"length": by_length})
    harms = {evaluation.step: evaluation.value("harmfulness") for evaluation in evaluations}
    threshold = (harms[2] + harms[3]) / 2
    broke = time_to_break(evaluations, threshold)
    assert (broke.steps, broke.samples, broke.censored) == (3, 12, False)


@pytest.mark.slow
def test_greedy_evaluation_asks_the_same_prompts(curve, sampled, wavering_model, make_suite):
    curve()
    _, judged = evaluate(wavering_model(), make_suite())
    assert {row.completion.example.key for row in judged[:4]} == {completion.example.key for completion in sampled}
