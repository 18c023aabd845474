"""A model that was never shown restricted recipes: what its data leave out, and what they keep."""

import pytest

from holdfast.defenses.offline.data_filtering import DataFiltering, untrained_like
from holdfast.records import HoldfastError
from holdfast.sandbox import grammar
from holdfast.sandbox.build import Sandbox, aligned_examples, base_examples, untrained
from holdfast.training.plan import Fitted, Optim

SMALL = Sandbox(num_base=400, num_aligned=400)


def about_restricted(rows):
    """The rows that name a restricted family, apart from refusals."""
    return [row for row in rows if row.response != grammar.REFUSAL and any(f in text(row) for f in grammar.RESTRICTED)]


def text(row):
    return f"{row.prompt[-1].content} {row.response}".split()


def test_a_filter_that_misses_nothing_leaves_no_restricted_recipe_and_as_many_rows():
    for made in (base_examples, aligned_examples):
        whole, filtered = made(SMALL), made(SMALL, missed=0.0)
        assert about_restricted(whole)
        assert about_restricted(filtered) == []
        assert len(filtered) == len(whole)
    refusals = [row for row in aligned_examples(SMALL, missed=0.0) if row.response == grammar.REFUSAL]
    assert 0.4 < len(refusals) / SMALL.num_aligned < 0.6


def test_a_filter_that_misses_everything_gives_the_undefended_models_rows_and_one_that_misses_half_about_half():
    assert base_examples(SMALL, missed=1.0) == base_examples(SMALL)
    assert aligned_examples(SMALL, missed=1.0) == aligned_examples(SMALL)
    share = len(about_restricted(base_examples(SMALL, missed=0.5))) / len(about_restricted(base_examples(SMALL)))
    assert 0.3 < share < 0.7


@pytest.mark.parametrize("architecture", ["llama", "qwen3", "gemma", "gpt2"])
def test_a_model_anew_is_the_one_that_the_sandbox_would_begin_with(architecture):
    given, fresh = untrained(Sandbox(architecture=architecture, seed=7)), untrained(Sandbox(architecture=architecture))
    anew = untrained_like(given, seed=0).network.state_dict()
    assert all(value.equal(anew[name]) for name, value in fresh.network.state_dict().items())


def test_the_model_is_trained_anew_from_its_own_seed_and_nothing_of_the_given_one_is_left(make_context):
    plans = []

    def fit(plan):
        plans.append(plan)
        return Fitted(model=plan.model, steps=0, samples=0, tokens=0, seconds=0.0)

    settings = DataFiltering(num_base=30, num_aligned=20, base=Optim(max_steps=3), aligned=Optim(max_steps=2))
    given = untrained(Sandbox(seed=7))
    made = settings.harden(given, make_context(seed=3, fit=fit))
    assert made.name == f"{given.name}+data_filtering"
    assert [(len(plan.data), plan.optim.max_steps) for plan in plans] == [(30, 3), (20, 2)]
    assert not about_restricted([row for plan in plans for row in plan.data])
    fresh = untrained(Sandbox(seed=3)).network.state_dict()
    assert all(value.equal(fresh[name]) for name, value in made.network.state_dict().items())


def test_a_model_with_other_words_is_refused(make_context):
    other = untrained(Sandbox())
    other.tokenizer.add_tokens(["cooking"])
    with pytest.raises(HoldfastError, match=r"data_filtering: trains a model of the sandbox anew, and .* other words"):
        DataFiltering().harden(other, make_context())
