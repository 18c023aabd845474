"""TokenBuncher: its schedule, its rewards, what its two modes do differently, and that it does what it says."""

from dataclasses import replace

import pytest
import torch

from holdfast.defenses.offline import token_buncher
from holdfast.defenses.offline.token_buncher import MODES, TokenBuncher, bunched_or_kept, noise_turns
from holdfast.losses.noise import fixed_point_entropy, noised_cross_entropy
from holdfast.losses.policy_gradient import group_advantages, kl_estimate
from holdfast.methods.settings import plain
from holdfast.network.forward import answer_logprobs, forward
from holdfast.records import HoldfastError
from holdfast.rl.policy import Policy
from holdfast.tensors import masked_mean, target_mask, with_totals
from holdfast.training.fit import fit
from holdfast.training.plan import Optim

FAST = TokenBuncher(
    optim=Optim(max_steps=8, learning_rate=1e-3, per_device_train_batch_size=4),
    policy=replace(TokenBuncher().policy, minibatches=1),
)


@pytest.fixture
def build(wavering_model, make_context):
    """`build(**settings)`: the hardening of the wavering model as a plan."""
    return lambda **settings: replace(FAST, **settings).plan(wavering_model(), make_context())


def prepared(plan, step, rows=None):
    return plan.batches([rows or plan.data[:4]], step)


@pytest.mark.parametrize(
    ("total", "rewards", "turns"),
    [(200, 113, range(26, 200, 2)), (8, 5, (2, 4, 6)), (7, 4, (1, 3, 5)), (0, 0, ())],
)
def test_the_noiser_has_every_other_step_after_the_first_eighth(total, rewards, turns):
    assert noise_turns(total) == frozenset(turns)
    assert total - len(noise_turns(total)) == rewards


@pytest.mark.slow
def test_steps_of_the_schedule_are_rollouts_however_many_updates_they_serve(build):
    plan = build(policy=replace(FAST.policy, minibatches=2), optim=replace(FAST.optim, max_steps=16))
    noisy = ["noise_mask" in prepared(plan, step)[0] for step in range(16)]
    assert noisy == [turn in {2, 4, 6} for turn in range(8) for _ in range(2)]


@pytest.mark.slow
def test_an_answer_to_a_harmful_prompt_earns_minus_its_entropy_and_a_benign_one_minus_its_kl(build):
    plan = build(optim=replace(FAST.optim, learning_rate=3e-3, max_steps=2))
    roles = {row.role for row in plan.data}
    assert {"harmful", "benign"} <= roles
    harmful, benign = ([row for row in plan.data if row.role == role][:2] for role in ("harmful", "benign"))
    (fresh,) = prepared(plan, 0, harmful + benign)
    bonus = bunched_or_kept(fresh)
    torch.testing.assert_close(bonus[:8], -fresh["entropies"][:8])
    torch.testing.assert_close(bonus[8:], torch.zeros(8), atol=1e-5, rtol=0)  # the policy is still the reference
    fit(plan)
    (moved,) = prepared(plan, 5, harmful + benign)
    assert (bunched_or_kept(moved)[8:] < -1e-6).all()


def test_where_the_kl_of_benign_answers_is_their_reward_it_is_no_penalty_too(build):
    plan = build(mode="repo", benign_share=0.5)
    rows = [row for role in ("harmful", "benign") for row in [r for r in plan.data if r.role == role][:2]]
    with torch.no_grad():
        for weight in plan.model.network.parameters():
            weight.add_(0.01 * torch.randn_like(weight))
    (batch,) = prepared(plan, 0, rows)
    expected = group_advantages(bunched_or_kept(batch), 4, epsilon=1e-6)
    torch.testing.assert_close(batch["advantages"], expected)


@pytest.mark.slow
@pytest.mark.parametrize("mode", MODES)
def test_what_answers_to_harmful_prompts_earn_does_not_depend_on_the_mode(mode, build):
    plan = build(mode=mode, optim=replace(FAST.optim, learning_rate=3e-3, max_steps=2))
    fit(plan)
    rows = [row for row in plan.data if row.role == "harmful"][:4]
    (batch,) = prepared(plan, 5, rows)
    best = batch["advantages"].view(-1, 4).argmax(1)
    assert torch.equal(best, batch["entropies"].view(-1, 4).argmin(1))


@pytest.mark.slow
def test_with_a_kl_in_the_loss_benign_answers_earn_nothing_and_are_drawn_back(build):
    plan = build(retain_by="loss", retain_weight=2.0, optim=replace(FAST.optim, learning_rate=3e-3, max_steps=2))
    fit(plan)
    benign = [row for row in plan.data if row.role == "benign"][:4]
    for step in (5, 1):  # the second is the noiser's turn, which learns nothing from benign answers
        (batch,) = with_totals(prepared(plan, step, benign))
        assert ("noise_mask" in batch) == (step == 1)
        assert (batch["advantages"] == 0).all()
        loss, metrics = plan.objective(plan.model.network, batch)
        logprobs = answer_logprobs(plan.model.network, batch)
        kl = kl_estimate(logprobs, batch["ref_logprobs"], "k3")
        expected = 2.0 * masked_mean(kl, target_mask(batch["loss_mask"]))
        assert expected > 1e-4
        torch.testing.assert_close(loss, expected)
        assert metrics["loss"] == pytest.approx(float(expected.detach()))


def test_the_noiser_learns_nothing_from_benign_answers(build):
    plan = build()
    rows = [row for role in ("harmful", "benign") for row in [r for r in plan.data if r.role == role][:2]]
    (batch,) = prepared(plan, 2, rows)
    assert batch["noise_mask"][:8].sum() > 0
    assert batch["noise_mask"][8:].sum() == 0


def test_the_paper_mode_has_a_quarter_of_benign_prompts_and_the_repository_none(build):
    share = lambda plan: sum(row.role == "benign" for row in plan.data) / len(plan.data)  # noqa: E731
    assert share(build()) == pytest.approx(0.25, abs=0.02)
    assert share(build(mode="repo")) == 0.0


def test_the_noiser_learns_from_answers_that_did_no_worse_than_their_group(build):
    plan = build(benign_share=0.0)
    (batch,) = prepared(plan, 2)
    expected = (batch["advantages"] >= 0).float()[:, None] * target_mask(batch["loss_mask"])
    assert torch.equal(batch["noise_mask"], expected)
    assert batch["noise_tokens"] == expected.sum()


@pytest.mark.slow
def test_padding_counts_only_where_the_mode_or_the_setting_says_so(build):
    (plain,), (padded,) = (prepared(build(benign_share=0.0, noise_on_padding=on), 2) for on in (False, True))
    real = torch.arange(1, plain["input_ids"].shape[1]) < plain["lengths"][:, None]
    assert not (plain["noise_mask"].bool() & ~real).any()
    assert torch.equal(padded["noise_mask"].bool() & real, plain["noise_mask"].bool())
    assert padded["noise_mask"][~real].all()
    assert (~real).any()


def test_more_padding_changes_nothing_where_padding_does_not_count(build):
    plan = build()
    (batch,) = prepared(plan, 2)
    wider = {
        name: torch.nn.functional.pad(value, (0, 3)) if name in {"input_ids", "loss_mask", "noise_mask"} else value
        for name, value in batch.items()
    }
    # The noise is drawn for the masked targets alone.
    losses = [plan.objective(plan.model.network, each)[0].item() for each in (batch, wider)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_gradients_of_the_noisers_steps_are_clipped_in_the_paper_mode_alone(build):
    paper, repo = build().max_grad_norm, build(mode="repo").max_grad_norm
    assert [paper(step) for step in (0, 2, 3)] == [1.0, 1.0, 1.0]
    assert [repo(step) for step in (0, 2, 3)] == [1.0, 0.0, 1.0]


@pytest.mark.slow
def test_with_the_repositorys_deviation_advantages_are_smaller_by_a_known_factor(build):
    # A group of four: the unbiased deviation is sqrt(4 / 3) times the population's.
    (population,), (unbiased,) = (prepared(build(population_std=flag), 0) for flag in (True, False))
    ratio = population["advantages"].abs().max() / unbiased["advantages"].abs().max()
    assert ratio.item() == pytest.approx((4 / 3) ** 0.5, rel=1e-3)


def test_a_setting_wins_over_its_mode():
    assert TokenBuncher(mode="repo").resolved == MODES["repo"]
    assert replace(TokenBuncher(mode="repo"), benign_share=0.5).resolved.benign_share == 0.5


def noisers_loss(plan, batch, *, noise, temperature):
    """The noiser's loss from its formula, apart from the plan."""
    return noised_cross_entropy(
        forward(plan.model.network, batch) / temperature,
        batch["input_ids"],
        batch["noise_mask"],
        truth_weight=1 - noise,
        noise_weight=noise,
        seed=int(batch["noise_seed"]),
    )[0]


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_the_noiser_learns_from_the_distribution_that_was_sampled(temperature, build):
    plan = build(policy=replace(FAST.policy, temperature=temperature))
    (batch,) = prepared(plan, 2)
    expected = noisers_loss(plan, batch, noise=0.1, temperature=temperature)
    torch.testing.assert_close(plan.objective(plan.model.network, batch)[0], expected)


@pytest.mark.parametrize(
    "settings", [{"retain_by": "loss"}, {"retain_by": "reward"}, {"noise_on_padding": True}], ids=str
)
def test_rows_without_a_share_in_a_term_can_be_left_out_of_its_pass(settings, build, monkeypatch):
    plan = build(benign_share=0.5, **settings)
    (batch,) = with_totals(prepared(plan, 2))
    assert 0 < float(batch["kl_weights"].sum()) < len(batch["kl_weights"])
    results = []
    for limit in (token_buncher.SHORTER_PASSES, 1):
        monkeypatch.setattr(token_buncher, "SHORTER_PASSES", limit)
        plan.model.network.zero_grad()
        loss, metrics = plan.objective(plan.model.network, batch)
        loss.backward()
        results.append((loss.detach(), metrics, [p.grad.clone() for p in plan.model.network.parameters()]))
    (whole, metrics, expected), (loss, shorter, gradients) = results
    torch.testing.assert_close(loss, whole, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-6)
    assert shorter == pytest.approx(metrics, rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("role", ["harmful", "benign"])
def test_a_batch_of_one_role_has_one_of_the_two_terms(role, build, monkeypatch):
    monkeypatch.setattr(token_buncher, "SHORTER_PASSES", 1)
    plan = build(benign_share=0.5, retain_by="loss")
    (batch,) = with_totals(prepared(plan, 2))
    rows = batch["kl_weights"] == float(role == "benign")
    part = {n: v[rows] if v.dim() and len(v) == len(rows) else v for n, v in batch.items()}
    loss, metrics = plan.objective(plan.model.network, part)
    assert loss.isfinite()
    assert ("kl" in metrics) is (role == "benign")
    assert (metrics["noiser_mass"] > 0) is (role == "harmful")


def test_an_entropy_of_the_noise_is_that_of_its_fixed_point_at_the_models_vocabulary(build):
    plan = build(noise_entropy=0.5)
    vocabulary = plan.model.network.config.vocab_size
    (batch,) = prepared(plan, 2)
    noise = noise_that_has(0.5, vocabulary)
    assert fixed_point_entropy(noise, vocabulary) == pytest.approx(0.5, abs=1e-6)
    expected = noisers_loss(plan, batch, noise=noise, temperature=1.0)
    for each in (plan, build(noise_entropy=0.5, noise=0.0), build(noise_entropy=0.5, mode="repo")):
        loss, _ = each.objective(plan.model.network, batch)
        torch.testing.assert_close(loss, expected)


def noise_that_has(entropy, vocabulary):
    """By bisection, as a check on the library's solver."""
    low, high = 0.0, 1 - 1 / vocabulary
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if fixed_point_entropy(middle, vocabulary) < entropy else (low, middle)
    return low


def test_without_entropy_of_the_noise_there_is_no_noiser(build):
    plan = build(noise_entropy=0.0)
    assert not any("noise_mask" in prepared(plan, step)[0] for step in (2, 4, 6))


def test_an_entropy_above_the_models_vocabulary_is_refused_before_training(build):
    with pytest.raises(HoldfastError, match="noise_entropy: must be below"):
        build(noise_entropy=20.0)


def test_squared_noise_and_an_entropy_of_it_are_refused_together():
    with pytest.raises(HoldfastError, match=r"TokenBuncher\.noise_squared: .*noise_entropy"):
        TokenBuncher(noise_entropy=0.2, noise_squared=True)


def test_cells_that_were_finished_before_there_was_an_entropy_of_the_noise_keep_their_values():
    assert "noise_entropy" not in plain(TokenBuncher())
    assert plain(TokenBuncher(noise_entropy=0.2))["noise_entropy"] == 0.2


@pytest.mark.parametrize(
    "bad",
    [
        {"noise": 1.0},
        {"noise": -0.1},
        {"benign_share": 1.0},
        {"warm_up": 2.0},
        {"retain_weight": -1.0},
        {"noise_entropy": -0.1},
    ],
)
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(HoldfastError, match="TokenBuncher"):
        TokenBuncher(**bad)


@pytest.mark.slow
def test_hardening_lowers_the_entropy_of_answers_to_unseen_harmful_prompts(wavering_model, make_context, splits):
    settings = TokenBuncher(
        noise=0.0,
        optim=Optim(max_steps=20, learning_rate=1.5e-3, per_device_train_batch_size=4),
        policy=Policy(group_size=4, reduction="token"),
    )
    context = make_context()

    def entropy(model):
        plan = settings.plan(model, context)
        (batch,) = plan.prepare(model, [splits.harmful["test"][:16]], 0)
        return batch["entropies"].mean().item()

    before = entropy(wavering_model())
    assert entropy(settings.harden(wavering_model(), context)) < 0.6 * before


@pytest.mark.slow
def test_noise_learnt_from_answers_sampled_at_a_higher_temperature_does_not_feed_on_itself(
    aligned_model, make_context, splits
):
    # Most groups of this model's answers are alike, and the noiser learns from those too.
    settings = TokenBuncher(
        noise=0.011,
        warm_up=0.0,
        benign_share=0.0,
        optim=Optim(max_steps=24, learning_rate=1e-3, per_device_train_batch_size=4),
        policy=Policy(group_size=4, reduction="token", temperature=1.5),
    )
    context = make_context()

    def entropy(model):
        plan = replace(settings, policy=replace(settings.policy, temperature=1.0)).plan(model, context)
        (batch,) = plan.prepare(model, [splits.harmful["test"][:16]], 0)
        return batch["entropies"].mean().item()

    assert entropy(aligned_model()) < 0.1
    assert entropy(settings.harden(aligned_model(), context)) < 0.1  # 1.9 if the loss is at temperature 1
