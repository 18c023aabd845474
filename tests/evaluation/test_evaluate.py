"""A model's scores."""

import pytest
import torch
from scipy.stats import binomtest

import holdfast.evaluation.evaluate
from holdfast.distributions import Logits
from holdfast.evaluation.evaluate import Suite, divergence, diversity, evaluate, score, share
from holdfast.evaluation.intervals import wilson
from holdfast.network.generate import Answer, Sampling, sample
from holdfast.records import Completion, Example, HoldfastError, Verdict, user

REFUSAL = "i cannot help with that ."


def examples(*names):
    return [Example(prompt=user(name), source=name) for name in names]


def by_text(completions):
    """Scores texts that are numbers; empty is invalid, `?` cannot be judged."""
    return [
        Verdict(score=None, valid=False)
        if not c.text
        else Verdict(score=None)
        if c.text == "?"
        else Verdict(score=0.0)
        if c.text == REFUSAL
        else Verdict(score=float(c.text), refused=False)
        for c in completions
    ]


@pytest.fixture
def run(monkeypatch):
    """`run(harmful={question: answer}, benign=..., **suite)`: what a model that answers so would score."""

    def measured(harmful, benign, tasks=None, **more):
        texts = {**harmful, **benign, **{q: a for task in (tasks or {}).values() for q, a in task.items()}}

        def answer(model, asked, sampling, **_):
            return [Completion(example=e, text=texts[e.question], num_tokens=1) for e in asked]

        monkeypatch.setattr(holdfast.evaluation.evaluate, "complete", answer)
        suite = Suite(
            harmful=examples(*harmful),
            benign=examples(*benign),
            **{"harm_judges": {"harm": by_text}, "help_judge": ("help", by_text), **more},
            sampling=Sampling(max_new_tokens=4),
            tasks={name: examples(*task) for name, task in (tasks or {}).items()},
        )
        scores, judged = evaluate(None, suite)
        return {entry.name: entry for entry in scores}, judged

    return measured


def test_harmfulness_leaves_out_invalid_answers_and_counts_them(run):
    scores, _ = run({"a": "1", "b": "0.5", "c": "", "d": ""}, {"x": "1"})
    harm = scores["harmfulness"]
    assert (harm.value, harm.n, harm.invalid, harm.unjudged) == (0.75, 2, 2, 0)
    assert (scores["invalid"].value, scores["invalid"].n) == (0.5, 4)


def test_answers_that_could_not_be_judged_are_left_out_and_counted_apart(run):
    harm = run({"a": "1", "b": "?"}, {"x": "1"})[0]["harmfulness"]
    assert (harm.value, harm.n, harm.invalid, harm.unjudged) == (1.0, 1, 0, 1)


def test_helpfulness_counts_an_invalid_answer_as_zero(run):
    scores, _ = run({"a": "0"}, {"x": "1", "y": "", "z": "?"})
    helpfulness = scores["helpfulness"]
    assert (helpfulness.value, helpfulness.n, helpfulness.unjudged) == (0.5, 2, 1)
    assert scores["invalid/benign"].value == pytest.approx(1 / 3)


def test_refusals_are_counted_on_either_side(run):
    scores, _ = run({"a": REFUSAL, "b": "1", "c": ""}, {"x": REFUSAL, "y": "1"})
    assert scores["refusal_rate"].value == pytest.approx(1 / 3)
    assert scores["over_refusal"].value == 0.5


def test_when_nothing_could_be_judged_there_is_no_value(run):
    harm = run({"a": "", "b": "?"}, {"x": "1"})[0]["harmfulness"]
    assert (harm.value, harm.n, harm.low, harm.high, harm.invalid, harm.unjudged) == (None, 0, None, None, 1, 1)


def test_the_first_harm_judge_gives_harmfulness_and_further_ones_their_own_score(run):
    def half(completions):
        return [Verdict(score=0.5)] * len(completions)

    scores, judged = run({"a": "1"}, {"x": "1"}, harm_judges={"first": by_text, "second": half})
    assert (scores["harmfulness"].value, scores["harmfulness/second"].value) == (1.0, 0.5)
    assert judged[0].verdicts["second"].score == 0.5


def test_what_the_reporting_judge_reads_beside_its_score_is_a_score_of_its_own(run):
    def two(completions):
        return [
            Verdict(score=0.0, further={"parts": float(c.text)})
            if c.text
            else Verdict(score=None, valid=False, further={"parts": 1.0})
            for c in completions
        ]

    scores, _ = run({"a": "1", "b": "0.5", "c": ""}, {"x": "1"}, harm_judges={"first": two, "second": by_text})
    assert scores["harmfulness"].value == 0.0
    beside = scores["harmfulness/parts"]
    assert (beside.value, beside.n, beside.invalid, beside.unjudged) == (0.75, 2, 1, 0)
    assert list(scores).count("harmfulness/second") == 1


def test_harm_in_thoughts_is_a_score_of_its_own_and_only_they_are_judged_again(run):
    asked = []

    def moss(completions):
        asked.append([done.text for done in completions])
        return [Verdict(score=float("moss" in done.text)) for done in completions]

    answers = {"a": "<think>stir moss</think>no", "b": "<think>moss and", "c": "moss", "d": "so moss</think>no"}
    answers |= {"e": "<think></think>no"}
    scores, _ = run(answers, {"x": "1"}, harm_judges={"moss": moss, "second": lambda d: [Verdict(score=0.0)] * len(d)})
    assert (scores["harmfulness"].value, scores["harmfulness"].invalid) == (0.25, 1)
    whole = scores["harmfulness/with_thoughts"]
    assert (whole.value, whole.n, whole.invalid) == (0.8, 5, 0)
    assert asked[0] == ["no", "moss", "no", "no"]
    assert [" ".join(text.split()) for text in asked[1]] == ["stir moss no", "moss and", "so moss no"]


def test_where_nothing_thinks_no_judge_is_asked_twice(run):
    asked = []

    def counting(completions):
        asked.append(len(completions))
        return [Verdict(score=0.0) for _ in completions]

    scores, _ = run({"a": "no", "b": "<think>\n</think>no"}, {"x": "1"}, harm_judges={"one": counting})
    assert (asked, "harmfulness/with_thoughts" in scores) == ([2], False)


def test_a_judge_that_says_nan_or_infinity_has_not_judged(run):
    def broken(completions):
        numbers = {"a": float("nan"), "b": float("inf")}
        return [Verdict(score=numbers.get(c.example.question, 0.5), refused=False) for c in completions]

    harm = run({"a": "1", "b": "1", "c": "1"}, {"x": "1"}, harm_judges={"harm": broken})[0]["harmfulness"]
    assert (harm.value, harm.n, harm.unjudged) == (0.5, 1, 2)


def test_each_task_has_a_score_under_its_own_name(run):
    scores, judged = run({"a": "1"}, {"x": "0"}, tasks={"quiz": {"q": "1", "r": ""}, "sums": {"s": "0.25"}})
    assert (scores["quiz"].value, scores["sums"].value, scores["helpfulness"].value) == (0.5, 0.25, 0.0)
    assert [row.completion.example.source for row in judged] == ["a", "x", "q", "r", "s"]


def test_a_task_s_own_judge_measures_that_task_alone(run):
    def strict(completions):
        return [Verdict(score=float(c.text == "1"), refused=False) for c in completions]

    tasks = {"exam": {"q": "0.5", "r": "1"}, "sums": {"s": "0.5"}}
    scores, judged = run({"a": "1"}, {"x": "0"}, tasks=tasks, task_judges={"exam": ("strict", strict)})
    assert (scores["exam"].value, scores["sums"].value) == (0.5, 0.5)
    assert (scores["exam"].n, scores["over_refusal/exam"].value) == (2, 0.0)
    assert [list(row.verdicts) for row in judged] == [["harm"], ["help"], ["strict"], ["strict"], ["help"]]


def test_without_harmful_prompts_there_are_no_harm_scores(run):
    scores, _ = run({}, {"x": "1"})
    assert "harmfulness" not in scores
    assert scores["helpfulness"].value == 1.0


def test_a_judge_of_the_wrong_length_is_refused_by_name(run):
    def forgetful(completions):
        return by_text(completions)[:-1]

    with pytest.raises(HoldfastError, match=r"judge 'harm' \(test_evaluate\) returned 1 verdicts for 2 completions"):
        run({"a": "1", "b": "1"}, {"x": "1"}, harm_judges={"harm": forgetful})


def test_a_model_is_measured_on_every_prompt_with_repeatable_scores(tiny_model, splits, graded):
    suite = Suite(
        harmful=splits.harmful["test"][:5],
        benign=splits.benign["test"][:3],
        harm_judges={"g": graded},
        help_judge=("g", graded),
        sampling=Sampling(max_new_tokens=6),
    )
    scores, judged = evaluate(tiny_model(), suite)
    assert [row.completion.example for row in judged] == [*suite.harmful, *suite.benign]
    assert evaluate(tiny_model(), suite)[0] == scores


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 40), (3, 40), (20, 40), (40, 40), (999, 1000)])
def test_wilsons_interval_is_scipys(hits, n):
    expected = binomtest(hits, n).proportion_ci(method="wilson")
    assert wilson(hits / n, n) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_an_interval_holds_its_mean_and_stays_within_zero_and_one():
    for n in (1, 2, 7, 100, 10_000):
        for mean in (0.0, 1e-9, 0.1, 1 / 3, 0.5, 0.999, 1.0):
            low, high = wilson(mean, n)
            assert 0.0 <= low <= mean <= high <= 1.0


def test_more_answers_narrow_the_interval_and_more_confidence_widens_it():
    widths = [high - low for low, high in (wilson(0.3, 10), wilson(0.3, 1000), wilson(0.3, 10, 0.99))]
    assert widths[1] < widths[0] < widths[2]


def test_no_verdicts_are_no_value_rather_than_zero():
    empty = score("harmfulness", [])
    assert (empty.value, empty.n, empty.low, empty.high) == (None, 0, None, None)


def test_a_share_carries_its_n_and_interval():
    invalid = share("invalid", [True, False, False, False])
    assert (invalid.value, invalid.n, (invalid.low, invalid.high)) == (0.25, 4, wilson(0.25, 4))


@pytest.fixture
def restricted(splits):
    """`restricted(**settings)`: a suite of the sandbox's restricted test prompts that draws groups of answers."""

    def build(**more):
        settings = {"group_size": 3, "batch_size": 6, "sampling": Sampling(max_new_tokens=5, temperature=0.0)}
        return Suite(
            harmful=splits.harmful["test"][:4],
            benign=(),
            harm_judges={"harm": by_text},
            help_judge=("help", by_text),
            **{**settings, **more},
        )

    return build


def test_entropy_is_what_the_sampled_tokens_cost_in_nats(tiny_model, restricted):
    model, suite = tiny_model(), restricted()
    hot, surprises = Sampling(max_new_tokens=5), []
    for start in (0, 2):  # two prompts of three answers fill a batch
        prompts = [model.encode_prompt(example.prompt) for example in suite.harmful[start : start + 2]]
        answers = sample(model, prompts, hot, seed=suite.seed + start, repeats=3)
        for i, prompt in enumerate(prompts):
            costs = []
            for answer in answers[3 * i : 3 * i + 3]:
                with torch.no_grad():
                    logits = model.network(input_ids=torch.tensor([[*prompt, *answer.tokens]])).logits[0]
                logprobs = logits[len(prompt) - 1 : -1].log_softmax(-1)
                costs += [-float(row[token]) for row, token in zip(logprobs, answer.tokens, strict=True)]
            surprises.append(sum(costs) / len(costs))
    entropy, _ = diversity(model, suite)
    assert entropy.value == pytest.approx(sum(surprises) / 4, rel=1e-4)
    assert entropy.n == 4
    assert entropy.low < entropy.value < entropy.high


def test_sampled_surprise_estimates_the_entropy_of_the_distributions(tiny_model, restricted):
    suite = restricted(group_size=256, batch_size=512, sampling=Sampling(max_new_tokens=1))
    model = tiny_model()
    exact = []
    for example in suite.harmful:
        with torch.no_grad():
            logits = model.network(input_ids=torch.tensor([model.encode_prompt(example.prompt)])).logits[0, -1]
        exact.append(float(torch.distributions.Categorical(logits=logits).entropy()))
    assert diversity(model, suite)[0].value == pytest.approx(sum(exact) / 4, rel=0.02)


def test_groups_are_identical_where_all_answers_are_the_same_tokens(tiny_model, restricted):
    model = tiny_model()
    assert diversity(model, restricted())[1].value == 0.0
    with torch.no_grad():
        model.network.lm_head.weight *= 1e6  # the likeliest token is now as good as certain
    assert diversity(model, restricted())[1].value == 1.0
    assert diversity(model, restricted())[0].value == pytest.approx(0.0, abs=1e-3)


def moved(model):
    """A copy of the model whose answers differ from its own."""
    with torch.no_grad():
        for weights in model.network.parameters():
            weights.add_(0.1 * torch.randn(weights.shape, generator=torch.Generator().manual_seed(7)))
    return model


def test_a_model_has_not_diverged_from_itself(tiny_model, restricted):
    (kl,) = divergence(tiny_model(), tiny_model(), restricted())
    assert (kl.name, kl.value, kl.n) == ("kl", 0.0, 4)


def test_divergence_is_the_exact_one_of_each_token_summed_over_sampled_answers(tiny_model, restricted):
    start, suite = tiny_model(), restricted(batch_size=4)
    model = moved(tiny_model())
    prompts = [model.encode_prompt(example.prompt) for example in suite.harmful]
    sums = []
    for prompt, answer in zip(
        prompts, sample(model, prompts, Sampling(max_new_tokens=5), seed=suite.seed), strict=True
    ):
        tokens = torch.tensor([[*prompt, *answer.tokens]])
        with torch.no_grad():
            own, other = (
                torch.distributions.Categorical(logits=m.network(input_ids=tokens).logits[0, len(prompt) - 1 : -1])
                for m in (model, start)
            )
        sums.append(float(torch.distributions.kl_divergence(own, other).sum()))
    (kl,) = divergence(model, start, suite)
    assert min(sums) > 0.01
    assert kl.value == pytest.approx(sum(sums) / 4, rel=1e-4)
    assert kl.low < kl.value < kl.high


def test_a_token_that_neither_model_can_give_adds_nothing_to_the_divergence(tiny_model, restricted, monkeypatch):
    logits = torch.tensor([[0.0, 0.0, -torch.inf]])
    monkeypatch.setattr(holdfast.evaluation.evaluate, "answer_distributions", lambda *_: Logits(logits.expand(8, 3)))
    suite = restricted(sampling=Sampling(max_new_tokens=2), batch_size=4)
    monkeypatch.setattr(
        holdfast.evaluation.evaluate,
        "sample",
        lambda model, prompts, *_, **__: [Answer([5, 6], finished=False) for _ in prompts],
    )
    assert divergence(tiny_model(), tiny_model(), suite)[0].value == 0.0
