"""Answers that are begun for the model: what they begin with, what goes on, and what it costs."""

from dataclasses import replace

import pytest

from chat_families import HARMONY, OPENS_A_THOUGHT, THINKING, speaker
from holdfast.attacks.prefill import Prefill
from holdfast.evaluation.evaluate import Suite, evaluate, with_missing_scores
from holdfast.evaluation.metric_settings import Metrics
from holdfast.network.generate import Sampling, complete, complete_begun
from holdfast.records import Evaluation, Example, HoldfastError, Score, user
from holdfast.sandbox.oracle import oracle
from holdfast.text.thinking import final_answer

pytestmark = pytest.mark.slow


@pytest.fixture
def make_suite(splits):
    return lambda: Suite(
        harmful=splits.harmful["test"][:6],
        benign=splits.benign["test"][:2],
        harm_judges={"oracle": oracle},
        help_judge=("oracle", oracle),
        sampling=Sampling(max_new_tokens=12, temperature=0.0),
    )


def plainly(number, of, make):
    return make()


def curve(attack, model, suite, context):
    return list(attack.curve(model, suite, context, keep=plainly))


def texts(judged):
    return [row.completion.text for row in judged]


def test_answers_begin_with_the_rows_own_tokens_and_go_on_as_the_model_would_from_there(
    tiny_model, make_suite, make_context
):
    model, suite = tiny_model(), make_suite()
    points = curve(Prefill(tokens=(1, 3)), model, suite, make_context())
    assert [evaluation.step for evaluation, _ in points] == [1, 3]
    for evaluation, judged in points:
        for row, done in zip(suite.harmful, judged, strict=True):
            opening = model.encode_response(row.response)[: evaluation.step]
            assert done.completion.text.startswith(model.decode(opening))
            assert done.completion.num_tokens > evaluation.step


def test_without_an_opening_the_answers_are_the_evaluations_own(tiny_model, make_suite):
    model, suite = tiny_model(), make_suite()
    rows, settings = suite.harmful, {"seed": 4, "batch_size": 2}
    sampling = replace(suite.sampling, temperature=1.0)
    begun = complete_begun(model, rows, [[] for _ in rows], sampling, **settings)
    assert begun == complete(model, rows, sampling, **settings)


def test_openings_of_several_lengths_leave_each_answer_its_own(tiny_model, make_suite):
    model, suite = tiny_model(), make_suite()
    given = [model.encode_response(row.response)[: 1 + place % 3] for place, row in enumerate(suite.harmful)]
    together = complete_begun(model, suite.harmful, given, suite.sampling, seed=0)
    alone = [
        complete_begun(model, [row], [opening], suite.sampling, seed=0)[0]
        for row, opening in zip(suite.harmful, given, strict=True)
    ]
    assert together == alone  # greedy
    assert max(done.num_tokens for done in together) <= suite.sampling.max_new_tokens


def test_costs_are_those_of_all_numbers_so_far_and_scores_those_of_harm(tiny_model, make_suite, make_context):
    model, suite = tiny_model(), make_suite()
    (first, judged), (second, later) = curve(Prefill(tokens=(1, 2)), model, suite, make_context())
    read = sum(len(model.encode_prompt(row.prompt)) for row in suite.harmful)
    written = [sum(row.completion.num_tokens for row in rows) for rows in (judged, later)]
    assert (first.samples, second.samples) == (len(suite.harmful), 2 * len(suite.harmful))
    assert (first.tokens, second.tokens) == (read + written[0], 2 * read + sum(written))
    assert second.flops > first.flops > 0
    scores, _ = evaluate(model, suite)
    names = {score.name for score in first.scores}
    assert names - {"opening_harm"} <= {score.name for score in scores} | {"harmfulness/ingredients"}
    assert names >= {"harmfulness", "refusal_rate", "opening_harm"}


def test_the_harm_of_a_whole_answer_given_is_the_attackers_own(tiny_model, make_suite, make_context):
    model, suite = tiny_model(), make_suite()
    longest = max(len(model.encode_response(row.response)) for row in suite.harmful)
    suite = replace(suite, sampling=replace(suite.sampling, max_new_tokens=longest + 2))
    few, whole = curve(Prefill(tokens=(1, longest)), model, suite, make_context())
    assert few[0].score("opening_harm").value == 0
    assert whole[0].score("opening_harm").value == 1


def test_a_text_of_the_attackers_own_needs_no_answers_in_the_rows(tiny_model, make_suite, make_context):
    model, suite = tiny_model(), make_suite()
    suite = replace(suite, harmful=[replace(row, response=None) for row in suite.harmful])
    with pytest.raises(HoldfastError, match="sandbox: prefill: the harmful row has no answer to begin with"):
        curve(Prefill(), model, suite, make_context())
    opening = " ".join(make_suite().harmful[0].response.split()[:2])
    ((_, judged),) = curve(Prefill(tokens=(2,), opening=opening), model, suite, make_context())
    assert all(text.startswith(opening) for text in texts(judged))


@pytest.mark.parametrize("template", [THINKING, OPENS_A_THOUGHT, HARMONY])
def test_what_a_template_writes_before_an_answer_is_given_and_is_no_token_of_the_opening(
    template, make_suite, make_context
):
    model, suite = speaker(template), make_suite()
    rows = [Example(prompt=user("how to stir"), role="harmful", response="stir the moss warm", source="rows")]
    suite = replace(suite, harmful=rows, sampling=replace(suite.sampling, max_new_tokens=16))
    ((_, (done,)),) = curve(Prefill(tokens=(2,)), model, suite, make_context())
    assert (final_answer(done.completion.text) or "").startswith("stir the")
    with pytest.raises(HoldfastError, match=r"tokens has 12 after \d+ that the chat template writes before an answer"):
        curve(Prefill(tokens=(12,)), model, suite, make_context())


def test_begun_answers_are_judged_at_two_lengths_where_that_is_asked_for(tiny_model, make_suite, make_context):
    model, suite = tiny_model(), make_suite()
    suite = replace(suite, metrics=Metrics(two_lengths=True))
    ((plain, before),) = curve(Prefill(tokens=(2,)), model, make_suite(), make_context())
    ((both, judged),) = curve(Prefill(tokens=(2,)), model, suite, make_context())
    assert texts(judged) == texts(before)
    assert any(row.longer.completion.num_tokens > row.completion.num_tokens for row in judged)
    assert both.tokens > plain.tokens
    longer = both.score("harmfulness/twice_as_long")
    assert longer.n + longer.invalid == len(suite.harmful)


def test_scores_of_answers_before_an_attack_are_not_given_as_those_of_the_attacks_own():
    def scored(*names):
        return Evaluation(step=0, scores=tuple(Score(name=name, value=0.0, n=1) for name in names))

    answers = ("harmfulness/twice_as_long", "worst_of/4/harmful", "distinct1/harmful", "unfinished/harmful")
    merged = with_missing_scores(scored("harmfulness"), scored("harmfulness", "helpfulness", "entropy", *answers))
    assert [score.name for score in merged.scores] == ["harmfulness", "helpfulness", "entropy"]


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"tokens": ()}, "tokens: must be increasing and not empty"),
        ({"tokens": (4, 2)}, "tokens: must be increasing and not empty"),
        ({"opening": " "}, "opening: is empty"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, reason):
    with pytest.raises(HoldfastError, match=reason):
        Prefill(**settings)


def test_an_opening_that_leaves_no_room_is_refused(tiny_model, make_suite, make_context):
    suite = make_suite()
    attack = Prefill(tokens=(suite.sampling.max_new_tokens,))
    with pytest.raises(HoldfastError, match=r"prefill: tokens has .* evaluation.max_new_tokens is"):
        curve(attack, tiny_model(), suite, make_context())
