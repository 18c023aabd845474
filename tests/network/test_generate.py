"""Sampling."""

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import chisquare

import holdfast.network.generate
from holdfast.network.generate import Answer, Sampling, SamplingError, as_completion, complete, draw, evaluating, sample
from holdfast.records import Example, user

LOGITS = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
SHORT = Sampling(max_new_tokens=6)
QUESTIONS = ("how do i make a soup called ba do fi ?", "quiz : what goes first into the dye ka le mo ?", "soup")


def token_counts(logits, sampling, n=20_000):
    numbers = torch.rand(n, generator=torch.Generator().manual_seed(0))
    return torch.bincount(draw(logits.expand(n, -1), numbers, sampling), minlength=logits.shape[-1])


def fits(counts, logits):
    """Whether counts are what the probabilities of `logits` would give, by a chi-square test."""
    return chisquare(counts, logits.double().softmax(-1) * counts.sum()).pvalue > 0.01


def slow_sample(model, prompt, sampling, numbers):
    """One answer, reading everything anew for each token."""
    tokens = []
    for number in numbers[: sampling.max_new_tokens]:
        logits = model.network(torch.tensor([[*prompt, *tokens]]), use_cache=False).logits[:, -1]
        tokens.append(draw(logits, number[None], sampling).item())
        if tokens[-1] in model.stop_ids:
            return Answer(tokens, finished=True)
    return Answer(tokens, finished=False)


def prompts(model):
    return [model.encode_prompt(user(text)) for text in QUESTIONS]


def lively(model):
    """The model with an end token that is likely, so that answers end at different lengths."""
    with torch.no_grad():
        head = model.network.get_output_embeddings()
        head.weight[model.end_id] = 0.0
        head.weight *= 0.5
    return model


def test_each_prompt_may_have_a_number_of_answers_of_its_own(tiny_model):
    model = lively(tiny_model())
    asked = prompts(model)
    one_by_one = [asked[0], asked[1], asked[1], asked[1], asked[2], asked[2]]
    assert sample(model, asked, SHORT, seed=4, repeats=[1, 3, 2]) == sample(model, one_by_one, SHORT, seed=4)
    assert sample(model, asked, SHORT, seed=4, repeats=[2, 2, 2]) == sample(model, asked, SHORT, seed=4, repeats=2)


def test_temperature_zero_takes_the_likeliest_token():
    logits = torch.randn(50, 9, generator=torch.Generator().manual_seed(0))
    assert torch.equal(draw(logits, torch.rand(50), Sampling(temperature=0.0)), logits.argmax(-1))


@pytest.mark.parametrize(
    ("number", "token"), [(0.0, 0), (0.49, 0), (0.51, 1), (0.79, 1), (0.81, 2), (0.96, 3), (0.9999999, 3)]
)
def test_a_draw_inverts_the_distribution_function(number, token):
    assert draw(LOGITS[None], torch.tensor([number]), Sampling()).item() == token


def test_a_token_without_probability_is_never_drawn():
    logits = torch.tensor([[-math.inf, 0.0, -math.inf, 0.0, -math.inf]])
    for number in (0.0, 0.5, 0.99999994):
        assert draw(logits, torch.tensor([number]), Sampling()).item() in (1, 3)


def test_frequencies_match_probabilities():
    counts = token_counts(LOGITS, Sampling())
    assert fits(counts, LOGITS)


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_frequencies_match_the_probabilities_at_a_temperature(temperature):
    counts = token_counts(LOGITS, Sampling(temperature=temperature))
    assert fits(counts, LOGITS / temperature)


def test_top_k_draws_from_the_likeliest_in_proportion():
    counts = token_counts(LOGITS, Sampling(top_k=2))
    assert counts[2:].sum() == 0
    assert fits(counts[:2], LOGITS[:2])


def test_a_top_k_above_the_vocabulary_cuts_nothing():
    assert torch.equal(token_counts(LOGITS, Sampling(top_k=99)), token_counts(LOGITS, Sampling()))


@pytest.mark.parametrize(("top_p", "kept"), [(0.4, 1), (0.51, 2), (0.79, 2), (0.9, 3), (0.99, 4)])
def test_top_p_keeps_the_fewest_likeliest_that_reach_it(top_p, kept):
    shuffled = LOGITS[[2, 0, 3, 1]]
    counts = token_counts(shuffled, Sampling(top_p=top_p))
    assert set(counts.nonzero().flatten().tolist()) == set([1, 3, 0, 2][:kept])


def test_a_top_p_near_zero_keeps_the_likeliest():
    assert token_counts(LOGITS[[2, 0, 3, 1]], Sampling(top_p=1e-6), n=100).tolist() == [0, 100, 0, 0]


def test_a_row_is_drawn_without_regard_to_the_others():
    logits, numbers = torch.randn(20, 30), torch.rand(20)
    together = draw(logits, numbers, Sampling(top_p=0.9))
    alone = [draw(logits[i : i + 1], numbers[i : i + 1], Sampling(top_p=0.9)).item() for i in range(20)]
    assert together.tolist() == alone


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_logits_that_are_no_numbers_raise(bad, temperature):
    logits = torch.zeros(3, 4)
    logits[1, 2] = bad
    with pytest.raises(SamplingError):
        draw(logits, torch.rand(3), Sampling(temperature=temperature))


def test_logits_that_leave_no_token_raise():
    with pytest.raises(SamplingError):
        draw(torch.full((1, 4), -math.inf), torch.rand(1), Sampling())


def test_a_model_of_nan_weights_raises(tiny_model):
    model = tiny_model()
    next(model.network.parameters()).data.fill_(math.nan)
    with pytest.raises(SamplingError):
        sample(model, prompts(model), SHORT, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma", "gpt2"])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_cache_padding_and_groups_sample_what_a_slow_loop_would(architecture, temperature, tiny_model):
    model = lively(tiny_model(architecture))
    sampling = Sampling(max_new_tokens=8, temperature=temperature)
    answers = sample(model, prompts(model), sampling, seed=4, repeats=2)
    numbers = torch.rand(6, 8, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        expected = [
            slow_sample(model, prompt, sampling, numbers[2 * i + j])
            for i, prompt in enumerate(prompts(model))
            for j in range(2)
        ]
    assert answers == expected


def test_answers_of_one_prompt_differ_and_repeat_under_the_seed(tiny_model):
    model = tiny_model()
    one, same, other = (sample(model, prompts(model)[:1], SHORT, seed=seed, repeats=4) for seed in (1, 1, 2))
    assert len({tuple(answer.tokens) for answer in one}) == 4
    assert one == same
    assert one != other


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.0, 2.0])
def test_leaving_the_batch_when_finished_changes_no_answer(share, tiny_model, monkeypatch):
    model = lively(tiny_model())
    sampling = Sampling(max_new_tokens=24)
    plain = sample(model, prompts(model), sampling, seed=0, repeats=6)
    assert 3 < sum(answer.finished for answer in plain) < 18
    monkeypatch.setattr(holdfast.network.generate, "DROP_SHARE", share)
    assert sample(model, prompts(model), sampling, seed=0, repeats=6) == plain


def test_any_stop_token_ends_an_answer(tiny_model):
    model = tiny_model()
    greedy = Sampling(max_new_tokens=6, temperature=0.0)
    (free,) = sample(model, prompts(model)[:1], greedy, seed=0)
    assert not free.finished
    stop = free.tokens[3]
    model.network.generation_config.eos_token_id = [model.end_id, stop]
    (answer,) = sample(model, prompts(model)[:1], greedy, seed=0)
    assert answer == Answer(free.tokens[: free.tokens.index(stop) + 1], finished=True)


def test_nothing_is_read_after_the_last_answer_has_ended(tiny_model):
    model, read = tiny_model(), []
    greedy = Sampling(max_new_tokens=6, temperature=0.0)
    (free,) = sample(model, prompts(model)[:1], greedy, seed=0)
    model.network.generation_config.eos_token_id = [model.end_id, free.tokens[0]]
    model.network.register_forward_hook(lambda *_: read.append(1))
    sample(model, prompts(model)[:1], greedy, seed=0)
    assert len(read) == 1


def test_an_answer_that_the_limit_cuts_is_unfinished(tiny_model):
    model = tiny_model()
    model.network.get_output_embeddings().weight.data[model.end_id] = -1.0
    (answer,) = sample(model, prompts(model)[:1], Sampling(max_new_tokens=3, temperature=0.0), seed=0)
    completion = as_completion(model, Example(prompt=user("soup")), answer)
    assert (completion.num_tokens, completion.finished) == (3, False)


def test_the_end_token_is_counted_but_not_shown(tiny_model):
    model = tiny_model()
    completion = as_completion(
        model, Example(prompt=user("soup")), Answer(model.encode_response("moss ."), finished=True)
    )
    assert (completion.text, completion.num_tokens, completion.finished) == ("moss .", 3, True)


@pytest.mark.parametrize("training", [True, False])
def test_the_networks_mode_comes_back(training, tiny_model):
    model = tiny_model()
    model.network.train(training)
    sample(model, prompts(model), SHORT, seed=0)
    assert model.network.training is training


@pytest.mark.parametrize("training", [True, False])
def test_the_networks_mode_comes_back_after_an_error_too(training, tiny_model):
    network = tiny_model().network.train(training)

    def fail():
        with evaluating(network):
            assert not network.training
            assert not torch.is_grad_enabled()
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert network.training is training
    assert torch.is_grad_enabled()


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 2, 128])
def test_completions_come_in_the_order_of_the_examples(batch_size, tiny_model):
    model = tiny_model()
    examples = [Example(prompt=user(text)) for text in (QUESTIONS[1], QUESTIONS[2], QUESTIONS[0], QUESTIONS[2])]
    greedy = Sampling(max_new_tokens=6, temperature=0.0)
    completions = complete(model, examples, greedy, seed=0, batch_size=batch_size)
    assert [completion.example for completion in completions] == examples
    alone = [complete(model, [example], greedy, seed=0)[0].text for example in examples]
    assert [completion.text for completion in completions] == alone


@pytest.mark.slow
def test_equal_prompts_are_answered_differently_and_repeatably(tiny_model):
    model = tiny_model()
    examples = [Example(prompt=user("soup"))] * 6
    texts = [[c.text for c in complete(model, examples, SHORT, seed=seed, batch_size=2)] for seed in (0, 0, 7)]
    assert texts[0] == texts[1]
    assert texts[0] != texts[2]
    assert len(set(texts[0])) == 6


def test_no_examples_give_no_completions(tiny_model):
    assert complete(tiny_model(), [], SHORT, seed=0) == []


def test_sampling_leaves_the_global_random_numbers_alone(tiny_model):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    sample(tiny_model(), [[5, 6]], replace(SHORT, temperature=1.0), seed=1)
    assert torch.equal(torch.rand(3), expected)
