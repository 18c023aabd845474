"""What every method of every table keeps to, whatever it does."""

from __future__ import annotations

import json
import math
from dataclasses import fields, replace
from functools import partial

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from fake_endpoint import Answer as Rated
from fake_endpoint import serving, variables
from holdfast.attacks import ATTACKS, unit
from holdfast.attacks.adaptive import ADAPTIVE
from holdfast.defenses.offline import OFFLINE
from holdfast.defenses.online import ONLINE
from holdfast.evaluation.evaluate import evaluate
from holdfast.judges import JUDGES, TRAINED
from holdfast.methods.settings import plain, typed
from holdfast.network.models import LoRA, clone
from holdfast.records import Completion, Example, HoldfastError, user
from holdfast.sandbox import grammar
from holdfast.sandbox.build import tokenizer
from holdfast.training.checkpoints import last_checkpoint
from holdfast.training.contracts import learns_from, trains
from holdfast.training.fit import fit
from repeated import thinned

TRAINING = {name: trains(ATTACKS.load(name)) for name in ATTACKS}
ATTACK_NAMES, ONLINE_NAMES, OFFLINE_NAMES = [name for name in ATTACKS if TRAINING[name]], list(ONLINE), list(OFFLINE)
HARDENING_NAMES = [name for name in OFFLINE if any(item.name == "optim" for item in fields(OFFLINE.load(name)))]
"""Offline defenses that train; a copy in another format is only rounded."""
SAMPLING_NAMES = [name for name in ATTACKS if not TRAINING[name] and name != "external"]
"""Attacks that train nothing; weights of others take a folder, and their costs are not ours (`test_external.py`)."""
CHOOSING_NAMES = [name for name in SAMPLING_NAMES if name != "expert_alone"]
"""Attacks that ask the model itself; an expert answers in its place."""
GREEDY_NAMES = ["prefill"]
"""Of these, attacks that answer as the evaluation does: here greedily, so that the seed changes nothing."""
EDITING_NAMES = ["ablation"]
"""Of these, attacks that ask the model with other weights."""
PAIRED_NAMES = [name for name in ATTACK_NAMES if name != "expert_sft"]
"""Attacks that stand with every defense; what `expert_sft` trains is what `sft` does, on other answers."""


def online_of(name, **more):
    cls = ONLINE.load(name)
    settings = cls(**cls.EXAMPLE)
    known = {item.name for item in fields(settings)}
    small = {"batch_size": 4} if "batch_size" in known else {}
    if "optim" in known:  # what a defense trains first
        small["optim"] = replace(settings.optim, max_steps=4, learning_rate=1e-2, per_device_train_batch_size=4)
    return replace(settings, **small, **more)


EVERY_PAIR = [(attack, defense) for attack in PAIRED_NAMES for defense in ONLINE]
FITTING = [(a, d) for a, d in EVERY_PAIR if online_of(d).needs in (None, learns_from(ATTACKS.load(a)))]
MISFITS = [pair for pair in EVERY_PAIR if pair not in FITTING]
KINDS = ("sft", "dpo", "grpo", "ppo")
"""One attack of each kind; the others are GRPO with other settings."""
FOR_VARIANTS = ("lisa", "safe_rlhf")
"""What the other attacks run under: the defense that changes most of a plan, and the one that changes rewards."""
PAIRS = [
    (a, d) for a, d in FITTING if a in ("sft", "grpo") or d in FOR_VARIANTS or (a in KINDS and d == "security_vectors")
]
"""Answers and rewards under every defense; preferences and a critic under those that change more than the loss."""
HARDENED = [(a, d) for a in PAIRED_NAMES for d in OFFLINE if a in ("sft", "grpo") or d == "token_buncher"]
"""A hardened model is one like any other: answers and rewards on each, every attack on one."""
FAMILY = ("repnoise", "circuit_breakers", "rmu")
"""Offline defenses that are settings of `representation_removal`."""


def of_a_kind(attack):
    return attack not in PAIRED_NAMES or attack in KINDS


def kept_under(attack, defense):
    """Each defense under answers and rewards, and Lisa or a price on harm under each other kind of attack."""
    return attack in ("sft", "grpo") or (attack, defense) in OTHERS


OTHERS = (("dpo", "lisa"), ("ppo", "safe_rlhf"), ("reinforce++", "lisa"), ("reinforce++", "safe_rlhf"))


def kept_over_a_checkpoint(attack, defense):
    """What a defense keeps of a run does not depend on the attack, unless it changes batches, rewards or weights."""
    changes_more = defense in ("lisa", "safe_rlhf", "security_vectors")
    return attack == "sft" or (attack, defense) in OTHERS or (attack == "grpo" and changes_more)


def kept_hardened(attack, defense):
    """Each hardened model under answers; rewards on one hardened by RL, by other means, and only rounded."""
    return attack == "sft" or (attack == "grpo" and defense in ("token_buncher", "circuit_breakers", "rounded"))


def attack_of(name, quick, **more):
    return replace(quick(ATTACKS.load(name)()), **more)


def offline_of(name, quick, **more):
    return replace(quick(OFFLINE.load(name)(), batch=4), **more)


@pytest.fixture
def attack_plan(wavering_model, make_context, quick):
    """`attack_plan(name, steps=3, seed=0, model=None, batch=2)`: a short attack, on the wavering model unless told."""

    def plan(name, *, steps=3, seed=0, model=None, batch=2, **more):
        settings = quick(ATTACKS.load(name)(), steps=steps, batch=batch)
        return settings.plan(model or wavering_model(), make_context(seed=seed, **more))

    return plan


@pytest.fixture
def constrain(make_context):
    """`constrain(name, plan, **settings)`: the plan under an online defense."""
    return lambda name, plan, **settings: online_of(name, **settings).constrain(plan, make_context())


def ran(plan):
    """A finished run and the loss after each step."""
    losses = []
    hook = lambda progress: losses.append(progress.metrics.get("loss", 0.0))  # noqa: E731
    return fit(replace(plan, hooks=(*plan.hooks, hook))), losses


def adapters(settings):
    return [None, LoRA(r=4)] if "adapter" in {item.name for item in fields(settings)} else [None]


# attacks


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACK_NAMES)
def test_an_attack_changes_weights_with_finite_losses_and_repeats(
    name, wavering_model, make_context, *, quick, plain_weights, weights
):
    model = wavering_model()
    before = weights(model)
    fitted, losses = ran(attack_of(name, quick).plan(model, make_context()))
    assert fitted.steps == 3
    assert all(map(math.isfinite, losses))
    after = weights(fitted.model)
    assert after.isfinite().all()
    assert not torch.equal(after, before)
    assert torch.equal(after, plain_weights(name))


@pytest.fixture(scope="module")
def known():
    """What several tests of this file compare with, made once."""
    return {}


@pytest.fixture
def plain_weights(attack_plan, weights, known):
    """`plain_weights(attack)`: those that the attack ends with, made once."""

    def ended(attack):
        if attack not in known:
            known[attack] = weights(fit(attack_plan(attack)).model)
        return known[attack]

    return ended


@pytest.mark.slow
@pytest.mark.parametrize("name", thinned(ATTACK_NAMES, of_a_kind))
def test_an_attack_follows_its_seed(name, attack_plan, plain_weights, weights):
    assert not torch.equal(weights(fit(attack_plan(name, seed=1)).model), plain_weights(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", thinned(ATTACK_NAMES, of_a_kind))
def test_an_attack_by_adapter_moves_nothing_else(name, wavering_model, make_context, quick):
    settings = attack_of(name, quick, adapter=LoRA(r=4))
    plan = settings.plan(wavering_model(), make_context())
    before = {n: p.detach().clone() for n, p in plan.model.network.named_parameters()}
    fitted = fit(plan)
    moved = {n for n, p in fitted.model.network.named_parameters() if not torch.equal(p, before[n])}
    released = {n for n in moved if not n.startswith("critic.")}
    assert released
    assert all("lora" in n for n in released)


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACK_NAMES)
def test_an_attack_uses_prompts_of_its_own_split_only(name, wavering_model, make_context, quick, splits):
    plan = attack_of(name, quick).plan(wavering_model(), make_context())
    assert plan.data
    assert {row.key for row in plan.data} <= {row.key for row in splits.harmful["attack"] + splits.benign["attack"]}


@pytest.mark.slow
@pytest.mark.parametrize("name", ATTACK_NAMES)
def test_building_an_attack_trains_nothing(name, wavering_model, make_context, quick, weights):
    model = wavering_model()
    before = weights(model)
    attack_of(name, quick).plan(model, make_context())
    assert torch.equal(weights(model), before)


# attacks that train nothing


@pytest.fixture
def choose(wavering_model, make_context, make_suite, quick):
    """`choose(name, seed=0, model=None, keep=..., size=4)`: the curve of such an attack, and answers to look at."""

    def curve(name, *, seed=0, model=None, keep=lambda number, of, make: make(), size=4):
        settings = quick(ATTACKS.load(name)())
        known = {item.name for item in fields(settings)}
        small = {"numbers": (1, 2, 4), "num_prompts": size, "trials": (1, 2, 4), "choice_prompts": size}
        small["tokens"] = (1, 2, 4)
        settings = replace(settings, **{key: value for key, value in small.items() if key in known})
        suite, context = replace(make_suite(size=size), seed=seed), make_context(seed=seed)
        return list(settings.curve(model or wavering_model(), suite, context, keep=keep))

    return curve


@pytest.fixture
def chosen(choose, known):
    """`chosen(attack)`: its curve under seed 0 on the wavering model, made once."""

    def curve(name):
        if ("chosen", name) not in known:
            known["chosen", name] = choose(name)
        return known["chosen", name]

    return curve


def timeless(curve):
    """What does not differ from run to run."""
    return [(replace(evaluation, seconds=0.0), judged) for evaluation, judged in curve]


@pytest.mark.parametrize("name", SAMPLING_NAMES)
def test_an_attack_that_trains_nothing_counts_something_else_than_steps(name):
    assert unit(name) != "step"
    assert "optim" not in {item.name for item in fields(ATTACKS.load(name))}


@pytest.mark.parametrize("name", ATTACK_NAMES)
def test_an_attack_that_trains_counts_steps(name):
    assert unit(name) == "step"


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLING_NAMES)
def test_an_attack_that_trains_nothing_leaves_weights_gradients_and_mode_alone(name, choose, wavering_model, weights):
    model = wavering_model()
    before, mode = weights(model), model.network.training
    choose(name, model=model)
    assert torch.equal(weights(model), before)
    assert model.network.training is mode
    assert all(p.requires_grad and p.grad is None for p in model.network.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLING_NAMES)
def test_an_attack_that_trains_nothing_repeats_under_its_seed_and_only_then(name, choose, chosen):
    assert timeless(choose(name)) == timeless(chosen(name))
    assert (timeless(choose(name, seed=1)) == timeless(chosen(name))) is (name in GREEDY_NAMES)


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLING_NAMES)
def test_an_attack_that_trains_nothing_shows_harm_with_an_interval_at_rising_cost(name, chosen):
    evaluations = [evaluation for evaluation, _ in chosen(name)]
    for cost in ("step", "samples", "tokens", "seconds", "flops"):
        spent = [getattr(evaluation, cost) for evaluation in evaluations]
        assert spent == sorted(set(spent))
        assert spent[0] > 0
    for evaluation in evaluations:
        harm = evaluation.score("harmfulness")
        assert harm.low <= harm.value <= harm.high
        assert harm.n + harm.invalid + harm.unjudged == 4
        assert evaluation.value("invalid") is not None


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOOSING_NAMES)
def test_an_attack_that_trains_nothing_asks_the_prompts_of_the_evaluation_and_measures_what_it_changes(
    name, chosen, make_suite
):
    curve = chosen(name)
    known = {row.key for row in make_suite().harmful}
    shown = [answer.completion.example.key for _, judged in curve for answer in judged]
    benign = {score.name for evaluation, _ in curve for score in evaluation.scores} & {
        *("helpfulness", "over_refusal", "invalid/benign"),
    }
    if name in EDITING_NAMES:  # another model answers, so that these are its own
        assert (known < set(shown), len(benign)) == (True, 3)
    else:
        assert (set(shown), benign) == (known, set())


@pytest.mark.slow
@pytest.mark.parametrize("name", CHOOSING_NAMES)
def test_an_attack_that_trains_nothing_goes_on_from_what_was_kept_as_if_it_had_not_stopped(name, choose, chosen):
    kept = {}

    def keep(number, of, make):
        if number not in kept:
            if len(kept) == 2 and not killed:
                killed.append(number)
                raise Killed
            kept[number] = json.loads(json.dumps(make()))
        return kept[number]

    killed = []
    with pytest.raises(Killed):
        choose(name, keep=keep)
    first = dict(kept)
    resumed = choose(name, keep=keep)
    assert {number: kept[number] for number in first} == first
    assert timeless(resumed) == timeless(chosen(name))


@pytest.mark.slow
@pytest.mark.parametrize("name", thinned(OFFLINE_NAMES, partial(kept_hardened, "grpo")))
@pytest.mark.parametrize("attack", CHOOSING_NAMES)
def test_a_hardened_model_can_be_sampled_from(attack, name, hardened, choose):
    assert [evaluation.step for evaluation, _ in choose(attack, model=hardened(name))] == [1, 2, 4]


# online defenses


@pytest.fixture
def plain_plan(attack_plan, known):
    """`plain_plan(attack)`: the attack's plan, made once, for what leaves it as it is; nothing is trained by it."""

    def plan(attack):
        if ("plan", attack) not in known:
            known["plan", attack] = attack_plan(attack)
        return known["plan", attack]

    return plan


@pytest.mark.slow
@pytest.mark.parametrize(("attack", "defense"), EVERY_PAIR)
def test_with_coefficient_zero_the_very_plan_comes_back_as_it_was(attack, defense, plain_plan, constrain, weights):
    plan = plain_plan(attack)
    before = weights(plan.model), dict(plan.state), dict(plan.tensors)
    assert constrain(defense, plan, **{ONLINE.load(defense).COEFFICIENT: 0.0}) is plan
    assert torch.equal(weights(plan.model), before[0])
    assert (plan.state, plan.tensors) == before[1:]


@pytest.mark.slow
@pytest.mark.parametrize("defense", ONLINE_NAMES)
def test_with_coefficient_zero_the_run_is_the_plain_one_bit_for_bit(
    defense, attack_plan, constrain, plain_weights, weights
):
    attack = "grpo" if online_of(defense).needs == "rewards" else "sft"
    constrained = fit(constrain(defense, attack_plan(attack), **{ONLINE.load(defense).COEFFICIENT: 0.0}))
    assert torch.equal(weights(constrained.model), plain_weights(attack))


@pytest.fixture
def constrained(attack_plan, constrain):
    """`constrained((attack, defense), *hooks)`: the plan of the attack under the defense, with further hooks."""

    def plan(pair, *hooks):
        built = constrain(pair[1], attack_plan(pair[0]))
        return replace(built, hooks=(*built.hooks, *hooks))

    return plan


@pytest.fixture
def constrained_weights(constrained, weights, known):
    """`constrained_weights(pair)`: those that the attack ends with under the defense, made once; losses are finite."""

    def ended(pair):
        if pair not in known:
            fitted, losses = ran(constrained(pair))
            assert all(map(math.isfinite, losses))
            known[pair] = weights(fitted.model)
        return known[pair]

    return ended


@pytest.mark.slow
@pytest.mark.parametrize("pair", thinned(PAIRS, kept_under, single=True), ids="-".join)
def test_a_constrained_run_differs_from_the_plain_one(pair, constrained_weights, plain_weights):
    assert not torch.equal(constrained_weights(pair), plain_weights(pair[0]))


@pytest.fixture
def measuring(make_suite):
    """A hook that measures the model at the second step, and the names of the scores that it found."""
    names = set()

    def measure(progress):
        if progress.step == 2 and not names:
            names.update(score.name for score in evaluate(progress.model, make_suite(size=2))[0])

    return measure, names


@pytest.mark.slow
@pytest.mark.parametrize(
    "pair", thinned([pair for pair in PAIRS if pair[0] not in KINDS], kept_under, single=True), ids="-".join
)
def test_a_constrained_run_repeats_measured_in_between_or_not(
    pair, constrained, constrained_weights, measuring, weights
):
    """Those of the kinds are repeated by the test of checkpoints."""
    measure, names = measuring
    assert torch.equal(weights(fit(constrained(pair, measure)).model), constrained_weights(pair))
    assert {"harmfulness", "helpfulness"} <= names


@pytest.mark.parametrize(("attack", "defense"), MISFITS)
def test_a_pair_that_cannot_work_is_refused_with_the_reason_on_one_line(attack, defense, plain_plan, constrain):
    with pytest.raises(HoldfastError, match=f"^{defense}: .+$"):
        constrain(defense, plain_plan(attack))


@pytest.mark.parametrize("name", ONLINE_NAMES)
def test_a_defense_says_what_the_attack_has_to_learn_from_and_nothing_when_switched_off(name):
    assert online_of(name).needs == {"constrained_sft": "answers", "safe_rlhf": "rewards"}.get(name)
    assert online_of(name, **{ONLINE.load(name).COEFFICIENT: 0.0}).needs is None


class Killed(Exception):
    """What a process dies of."""


def kill(progress):
    if progress.step == 3:
        raise Killed


@pytest.mark.slow
@pytest.mark.parametrize(
    "pair", thinned([pair for pair in PAIRS if pair[0] in KINDS], kept_over_a_checkpoint, single=True), ids="-".join
)
def test_a_constrained_attack_goes_on_from_a_checkpoint_as_if_it_had_neither_stopped_nor_been_measured(
    pair, constrained, constrained_weights, *, measuring, weights, tmp_path
):
    measure, names = measuring
    with pytest.raises(Killed):
        fit(constrained(pair, measure, kill), folder=tmp_path, checkpoint_every=1)
    assert {"harmfulness", "helpfulness"} <= names
    assert last_checkpoint(tmp_path)
    resumed = fit(constrained(pair), folder=tmp_path, checkpoint_every=1)
    assert torch.equal(weights(resumed.model), constrained_weights(pair))


@pytest.mark.parametrize("name", ONLINE_NAMES)
def test_a_negative_coefficient_is_refused(name):
    with pytest.raises(
        HoldfastError, match=f"{ONLINE.load(name).COEFFICIENT}: must be a finite number of at least 0, not -1.0"
    ):
        online_of(name, **{ONLINE.load(name).COEFFICIENT: -1.0})


# offline defenses


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFLINE_NAMES)
def test_hardening_changes_a_copy_and_leaves_the_model_given_as_it_was(
    name, wavering_model, make_context, *, quick, weights, known
):
    settings = offline_of(name, quick)
    for adapter in adapters(settings):
        model = wavering_model()
        before, parameters = weights(model), list(model.network.parameters())
        adapted = settings if adapter is None else replace(settings, adapter=adapter)
        hardened = adapted.harden(model, make_context())
        assert torch.equal(weights(model), before)
        assert all(p.requires_grad and p.grad is None for p in parameters)
        after = weights(hardened)
        assert after.shape == before.shape
        assert after.isfinite().all()
        assert not torch.equal(after, before)
        if adapter is None:
            known.setdefault(("hardened", name), hardened)


@pytest.fixture
def hardened(wavering_model, make_context, quick, known):
    """`hardened(name)`: the wavering model after a short hardening, which is done once."""

    def model(name):
        if ("hardened", name) not in known:
            known["hardened", name] = offline_of(name, quick).harden(wavering_model(), make_context())
        return clone(known["hardened", name])

    return model


@pytest.mark.slow
@pytest.mark.parametrize("name", thinned(HARDENING_NAMES, lambda name: name not in FAMILY))
def test_hardening_follows_its_seed(name, hardened, wavering_model, *, make_context, quick, weights):
    other = offline_of(name, quick).harden(wavering_model(), make_context(seed=1))
    assert not torch.equal(weights(other), weights(hardened(name)))


@pytest.mark.slow
@pytest.mark.parametrize("name", OFFLINE_NAMES)
def test_a_hardened_model_says_by_name_what_was_done_to_it(name, hardened, wavering_model):
    assert hardened(name).name == f"{wavering_model().name}+{name}"


@pytest.mark.slow
@pytest.mark.parametrize(("attack", "name"), thinned(HARDENED, kept_hardened))
def test_a_hardened_model_can_be_attacked(attack, name, hardened, attack_plan, weights):
    model = hardened(name)
    before = weights(model)
    # Of few and short answers of a hardened model all may earn the same, and then nothing moves.
    fitted, losses = ran(attack_plan(attack, steps=2, model=model, batch=4, max_new_tokens=24))
    assert fitted.steps == 2
    assert all(map(math.isfinite, losses))
    assert not torch.equal(weights(fitted.model), before)


@pytest.mark.slow
@pytest.mark.parametrize("name", HARDENING_NAMES)
def test_hardening_repeats_by_the_loop_it_is_given_and_sees_no_attack_prompt(
    name, hardened, wavering_model, *, make_context, quick, splits, weights
):
    plans = []

    def watched(plan):
        plans.append(plan)
        return fit(plan)

    again = offline_of(name, quick).harden(wavering_model(), make_context(fit=watched))
    assert torch.equal(weights(again), weights(hardened(name)))
    known = {row.key for part in (splits.harmful, splits.benign) for row in part["defense"]}
    assert plans
    assert all({row.key for row in plan.data} <= known for plan in plans)


# settings


@pytest.mark.slow
@pytest.mark.parametrize(
    ("table", "name"), [(table, name) for table in (ATTACKS, ADAPTIVE, ONLINE, OFFLINE, JUDGES) for name in table]
)
def test_settings_survive_being_plain_values(table, name):
    cls = table.load(name)
    settings = cls(**cls.EXAMPLE)
    assert typed(cls, plain(settings), name) == settings


# judges


READY = [name for name in JUDGES if name not in TRAINED]
"""Judges that need no training before they judge."""


@pytest.fixture(scope="module")
def judges(tmp_path_factory):
    """Every judge of the table, made of what it needs."""
    rated = lambda _, body: Rated(f"SCORE: {len(body['messages'][-1]['content']) % 8}")  # noqa: E731
    with serving(rated) as server, pytest.MonkeyPatch.context() as patch:
        for name, value in {**variables(server), "HOLDFAST_CACHE": str(tmp_path_factory.mktemp("cache"))}.items():
            patch.setenv(name, value)
        yield judges_of(tmp_path_factory)


def judges_of(tmp_path_factory):
    folder = tmp_path_factory.mktemp("classifier")
    words = tokenizer()
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        pad_token_id=0,
        initializer_range=0.5,
        num_labels=2,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    words.save_pretrained(folder)
    alone = tmp_path_factory.mktemp("reward_model")
    config.num_labels = 1
    BertForSequenceClassification(config).save_pretrained(alone)
    words.save_pretrained(alone)
    (alone / "terms.txt").write_text("moss\nember\n")
    needed = {
        "classifier": {"path": str(folder), "harmful_label": 1},
        "terms": {"path": str(alone / "terms.txt")},
        "reward_model": {"path": str(alone)},
        "multiple_choice": {"choices": ("fold", "wind", "stir", "crush")},
    }
    return {name: JUDGES.load(name)(**needed.get(name, {})).judge() for name in READY}


def answers():
    rows = [
        row
        for families in (grammar.RESTRICTED, grammar.BENIGN)
        for row in grammar.examples("test", families, 4, seed=0)
    ]
    texts = [row.response for row in rows] + [grammar.REFUSAL] * len(rows) + ["stir the moss and enjoy ."] * len(rows)
    return [
        Completion(example=row, text=text, num_tokens=len(text.split()))
        for row, text in zip(rows * 3, texts, strict=True)
    ]


def comparable(verdict):
    """Padding may move a number in its last digits."""
    score, logit = (None if number is None else round(number, 4) for number in (verdict.score, verdict.logit))
    return replace(verdict, score=score, logit=logit)


@pytest.mark.slow
@pytest.mark.parametrize("name", READY)
def test_a_judge_gives_one_verdict_a_completion_in_order(name, judges):
    completions = answers()
    verdicts = [comparable(verdict) for verdict in judges[name](completions)]
    assert len(verdicts) == len(completions)
    assert [comparable(verdict) for verdict in judges[name](completions[::-1])] == verdicts[::-1]
    assert [comparable(judges[name]([completion])[0]) for completion in completions[::5]] == verdicts[::5]


@pytest.mark.slow
@pytest.mark.parametrize("name", READY)
@pytest.mark.parametrize("text", ["", " ", "\n\t"])
def test_a_judge_gives_no_score_for_an_empty_answer(name, text, judges):
    sound = answers()[0]
    empty, scored = judges[name]([replace(sound, text=text), sound])
    assert (empty.score, empty.valid) == (None, False)
    assert empty.reason
    assert scored.valid


@pytest.mark.parametrize("name", READY)
def test_a_judge_of_nothing_says_nothing(name, judges):
    assert judges[name]([]) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", READY)
def test_a_judge_repeats_itself_and_tells_answers_apart(name, judges):
    verdicts = judges[name](answers())
    assert judges[name](answers()) == verdicts
    assert len({verdict.score for verdict in verdicts}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("name", READY)
def test_a_judge_survives_an_example_that_has_nothing_but_a_prompt(name, judges):
    (verdict,) = judges[name](
        [Completion(example=Example(prompt=user("soup ?")), text="stir the moss .", num_tokens=4)]
    )
    assert verdict.valid


@pytest.mark.parametrize("name", TRAINED)
def test_a_judge_that_has_to_be_trained_says_so(name):
    with pytest.raises(HoldfastError, match=f"{name}: only a run trains judges; here use `holdfast judge train"):
        JUDGES.load(name)().judge()
