"""Metrics of an evaluation that are off unless asked for, from one pass of generation."""

import pytest

import holdfast.evaluation.evaluate
from holdfast.evaluation.breaking import further_remarks
from holdfast.evaluation.evaluate import evaluate
from holdfast.evaluation.intervals import paired_difference
from holdfast.evaluation.matched_pairs import pair_scores
from holdfast.evaluation.measurement import Measurement
from holdfast.evaluation.metric_settings import Metrics, Perplexity
from holdfast.evaluation.scores import Judged
from holdfast.evaluation.suite import Suite
from holdfast.experiment.progress import completion_rows
from holdfast.network.generate import Sampling, complete, complete_at_two_lengths
from holdfast.records import Completion, Evaluation, Example, HoldfastError, Score, Verdict, user
from holdfast.sandbox import grammar

ROWS = grammar.examples("test", grammar.BENIGN, 3, seed=0)


def by_length(completions):
    """Harm grows with the number of words; a single word is invalid."""
    counts = [len(c.text.split()) for c in completions]
    return [
        Verdict(score=min(1.0, n / 8), refused=False) if n > 1 else Verdict(score=None, valid=False) for n in counts
    ]


def suite_of(metrics, **more):
    values = {
        "harmful": grammar.examples("test", grammar.RESTRICTED, 3, seed=0),
        "benign": ROWS,
        "tasks": {"quiz": ROWS},
    }
    return Suite(
        **{**values, **more},
        harm_judges={"length": by_length},
        help_judge=("length", by_length),
        sampling=Sampling(max_new_tokens=4, temperature=0.0),
        metrics=metrics,
        batch_size=4,
    )


@pytest.mark.slow
def test_everything_switched_on_is_measured_from_one_pass(tiny_model, monkeypatch):
    model, asked = tiny_model(small=True), []
    whole = holdfast.evaluation.evaluate.complete_at_two_lengths

    def counting(model, examples, *rest, **settings):
        asked.append(len(examples))
        return whole(model, examples, *rest, **settings)

    monkeypatch.setattr(holdfast.evaluation.evaluate, "complete_at_two_lengths", counting)
    metrics = Metrics(
        perplexity=Perplexity(path="base"),
        rouge=("quiz",),
        distinct=(1,),
        worst_of=(1, 2),
        pairs=True,
        two_lengths=True,
    )
    pairs = grammar.pairs("test", 2, seed=0)
    scores, judged = evaluate(model, suite_of(metrics, pairs=pairs, reference=lambda: model))
    assert asked == [3 + 3 + 3 + 2 * 2]
    names = [score.name for score in scores]
    assert len(names) == len(set(names))
    assert {
        "perplexity/benign/corpus",
        "perplexity/quiz",
        "rouge1/quiz",
        "distinct1/harmful",
        "worst_of/2/harmful",
    } <= set(names)
    assert {"pairs/refusal_gap", "verdict_flips/harmful", "helpfulness/twice_as_long"} <= set(names)
    parts = [row.part for row in judged]
    assert parts == [""] * 9 + ["restricted of a pair"] * 2 + ["harmless of a pair"] * 2 + ["worst of 2"] * 3


@pytest.mark.slow
def test_scores_that_do_not_need_the_metrics_are_the_same_with_and_without_them(tiny_model):
    model = tiny_model(small=True)
    plain = evaluate(model, suite_of(Metrics()))[0]
    metrics = Metrics(distinct=(1,), worst_of=(2,), two_lengths=True)
    assert evaluate(model, suite_of(metrics))[0][: len(plain)] == plain


def test_the_cut_answer_is_the_greedy_one_and_the_beginning_of_the_whole(tiny_model):
    model, sampling = tiny_model(small=True), Sampling(max_new_tokens=4, temperature=0.0)
    both = complete_at_two_lengths(model, ROWS, sampling, seed=0)
    assert [cut for cut, _ in both] == complete(model, ROWS, sampling, seed=0)
    assert all(whole.text.startswith(cut.text) and whole.num_tokens <= 8 for cut, whole in both)
    assert any(whole.num_tokens > 4 for _, whole in both)


def test_a_verdict_that_flips_when_the_answer_may_be_longer_is_counted_and_kept(tiny_model):
    model = tiny_model(small=True)
    scores, judged = evaluate(model, suite_of(Metrics(two_lengths=True)))
    harmful = [row for row in judged if row.completion.example.role == "harmful"]
    changed = [by_length([row.completion]) for row in harmful], [by_length([row.longer.completion]) for row in harmful]
    flips = sum((a[0].score > 0.5) != (b[0].score > 0.5) for a, b in zip(*changed, strict=True))
    assert flips > 0
    by_name = {score.name: score for score in scores}
    assert by_name["verdict_flips/harmful"].value == flips / len(harmful)
    rows = [row for answer in harmful for row in completion_rows(5, answer)]
    assert sum(row["flips"] for row in rows) == flips
    assert all(row["longer_score"] >= row["score"] for row in rows)


def judged(text, verdict):
    example = Example(prompt=user("how ?"))
    return Judged(completion=Completion(example=example, text=text, num_tokens=1), verdicts={"j": verdict})


def test_scores_of_pairs_are_those_of_the_pairs_that_both_sides_have():
    refusal, answer = Verdict(score=0.0, refused=True), Verdict(score=0.75, refused=False)
    invalid, unjudged = Verdict(score=None, valid=False), Verdict(score=None, refused=False)
    restricted = [refusal, answer, refusal, invalid, unjudged, answer]
    harmless = [answer, answer, refusal, answer, answer, refusal]
    sides = [[judged("x", verdict) for verdict in side] for side in (restricted, harmless)]
    harm, over, less, gap = pair_scores(*sides, harm_judge="j", help_judge="j")
    assert (harm.value, over.value) == (1.5 / 4, 2 / 4)
    assert (less.value, gap.value) == (1.5 / 4 - 2 / 4, 2 / 4 - 2 / 4)
    assert {(one.n, one.invalid, one.unjudged) for one in (harm, over, less, gap)} == {(4, 1, 1)}
    assert (less.value, less.low, less.high) == paired_difference([0, 0.75, 0, 0.75], [0, 0, 1, 1])


def test_an_unjudged_twin_still_tells_whether_it_was_refused():
    sides = [judged("x", Verdict(score=0.0, refused=True))], [judged("x", Verdict(score=None, refused=False))]
    assert pair_scores(*sides, harm_judge="j", help_judge="j")[3].value == 1.0


def test_a_pair_of_the_sandbox_differs_in_the_family_alone():
    pairs = grammar.pairs("test", 20, seed=3)
    assert len(pairs) == 20
    for restricted, harmless in pairs:
        assert (restricted.role, harmless.role, restricted.pair) == ("harmful", "benign", harmless.pair)
        words = restricted.question.split(), harmless.question.split()
        assert [pair for pair in zip(*words, strict=True) if len(set(pair)) > 1] == [
            (restricted.domain, harmless.domain)
        ]


def evaluation(**values):
    return Evaluation(step=3, scores=tuple(Score(name=name, value=value, n=4) for name, value in values.items()))


def test_a_defense_that_holds_by_single_short_answers_only_is_said_to():
    curve = [evaluation(**{"worst_of/16/harmful": 0.9, "harmfulness/twice_as_long": 0.7, "harmfulness": 0.1})]
    metrics = Metrics(worst_of=(1, 16), two_lengths=True)
    remarks = further_remarks(curve, Measurement(metrics=metrics))
    assert "a harmful one among 16 answers up to a share of 0.90" in remarks
    assert "twice the room up to 0.70" in remarks
    assert further_remarks(curve, Measurement()) == ""


def test_a_length_or_number_named_twice_is_refused():
    with pytest.raises(HoldfastError, match="worst_of: names 4 twice"):
        Metrics(worst_of=(4, 4))
