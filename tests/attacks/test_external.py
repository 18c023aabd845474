"""Weights that somebody else attacked: read as the model's, measured once, and held only with a broken control."""

import json
from dataclasses import replace

import pytest
import torch

from holdfast.attacks.external import Attacked, External, change
from holdfast.evaluation.evaluate import evaluate
from holdfast.evaluation.measurement import Measurement
from holdfast.experiment.outcomes import control_run, settled
from holdfast.methods.settings import plain
from holdfast.network.models import LoRA, adapt, clone, load
from holdfast.network.releasing import save
from holdfast.records import Cell, Evaluation, HoldfastError, Method, Outcome, Record, Score


def shifted(model, by, seed):
    """A copy with noise of a size relative to the weights."""
    other, generator = clone(model), torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in other.network.parameters():
            p.add_(by * p.std() * torch.randn(p.shape, generator=generator))
    return other


@pytest.fixture(scope="module")
def world(tmp_path_factory, _refuser):
    """Undefended, defended and attacked models, and folders with the weights that attacks left."""
    undefended = clone(_refuser(1))
    defended = shifted(undefended, 0.2, 1)
    models = {"undefended": undefended, "defended": defended}
    models |= {"attacked": shifted(defended, 0.1, 2), "control": shifted(undefended, 0.1, 3)}
    models |= {"hardly": shifted(defended, 0.001, 4), "again": shifted(undefended, 0.1, 3)}
    folders = {name: tmp_path_factory.mktemp("weights") / name for name in models}
    for name, model in models.items():
        save(model, folders[name])
    return models, folders


@pytest.fixture
def measured(world, make_suite, make_context):
    """`measured(attack, on=...)`: the only evaluation of an attack on the model of that name."""
    models, _ = world

    def measure(attack, on="defended", seed=0):
        others = lambda name: models["undefended"] if name == "undefended" else load(name)  # noqa: E731
        context, suite = make_context(models=others, seed=seed), make_suite(size=4)
        ((evaluation, _),) = attack.curve(clone(models[on]), suite, context, keep=lambda *_: None)
        return evaluation

    return measure


def external(folders, path="attacked", control="control", **more):
    control = None if control is None else Attacked(path=str(folders[control]))
    return External(path=str(folders[path]), control=control, **more)


def test_the_attacked_weights_are_measured_once_at_the_claimed_step(world, measured, make_suite):
    models, folders = world
    evaluation = measured(external(folders, steps=50, tokens=9000, flops=1e9))
    assert (
        evaluation.scores
        == evaluate(replace(models["defended"], network=models["attacked"].network), make_suite(size=4))[0]
    )
    assert (evaluation.step, evaluation.tokens, evaluation.flops) == (50, 9000, 1e9)
    unknown = measured(external(folders))
    assert (unknown.step, unknown.samples, unknown.flops, unknown.seconds) == (1, 0, None, 0.0)


def test_on_the_undefended_model_the_controls_weights_are_measured(world, measured, make_suite):
    models, folders = world
    evaluation = measured(external(folders), on="undefended")
    assert (
        evaluation.scores
        == evaluate(replace(models["undefended"], network=models["control"].network), make_suite(size=4))[0]
    )


def test_an_adapter_is_merged_into_the_model_that_it_was_trained_on(world, measured, tmp_path):
    models, _ = world
    adapted = adapt(clone(models["defended"]), LoRA(r=2), seed=0)
    with torch.no_grad():
        for name, p in adapted.network.named_parameters():
            if "lora_B" in name:
                p.add_(0.1)
    adapted.network.save_pretrained(tmp_path / "adapter")
    evaluation = measured(External(path=str(tmp_path / "adapter")))
    assert evaluation.value("helpfulness") is not None


@pytest.mark.parametrize(
    ("words", "on", "said"),
    [
        ({"control": None}, "undefended", "control: not given"),
        ({"path": "defended"}, "defended", "nothing attacked them"),
        ({"path": "undefended", "control": None}, "defended", "nearer to the undefended model"),
        ({"path": "undefended"}, "defended", "nearer to the undefended model"),
        ({"path": "again"}, "defended", "has the weights of the control"),
        ({"path": "hardly"}, "defended", "no attack of the same strength"),
        ({"control": "undefended"}, "undefended", "nothing attacked them"),
    ],
)
def test_weights_that_are_no_attack_of_this_model_are_refused(world, measured, words, on, said):
    with pytest.raises(HoldfastError, match=said):
        measured(external(world[1], **words), on=on)


def test_weights_are_one_run_and_no_other_seed_counts_them(world, measured):
    with pytest.raises(HoldfastError, match="one run, of seed 0"):
        measured(external(world[1]), seed=1)
    assert measured(external(world[1], seed=1), seed=1).step == 1


def test_pickled_missing_and_foreign_weights_are_refused_by_name(world, measured, tmp_path):
    models, _ = world
    with pytest.raises(HoldfastError, match="there is no folder"):
        measured(External(path=str(tmp_path / "none")))
    pickled = tmp_path / "pickled"
    save(models["attacked"], pickled)
    (pickled / "model.safetensors").unlink()
    torch.save(models["attacked"].network.state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(HoldfastError, match="no weights in safetensors"):
        measured(External(path=str(pickled)))
    adapter = tmp_path / "adapter"
    adapter.mkdir()
    (adapter / "adapter_config.json").write_text("{}")
    (adapter / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(HoldfastError, match="no weights in safetensors"):
        measured(External(path=str(adapter)))
    narrow = clone(models["attacked"])
    narrow.network.model.layers = narrow.network.model.layers[:0]
    with pytest.raises(HoldfastError, match="differs in name or shape"):
        change(narrow, models["defended"])


def record_of(defense, harm):
    cell = Cell(
        model={"kind": "sandbox", "name": "tiny", "settings": {"part": "aligned", "seed": 0}},
        stages=(Method(name=defense),) if defense else (),
        attack=Method(name="external", settings={"path": "attacked"}),
        evaluation=plain(Measurement()),
    )
    scores = lambda harm: tuple(  # noqa: E731
        Score(name=name, value=value, n=200, low=max(0.0, value - 0.05), high=min(1.0, value + 0.05))
        for name, value in (("harmfulness", harm), ("helpfulness", 0.9), ("over_refusal", 0.0))
    )
    curve = (Evaluation(step=0, scores=scores(0.0)), Evaluation(step=50, scores=scores(harm)))
    return Record(key=cell.key, cell=cell, outcome=Outcome.UNTESTED, evaluations=curve)


def test_a_model_has_held_against_it_only_beside_a_control_that_it_broke():
    record = record_of("tar", 0.02)
    assert settled(record).outcome is Outcome.UNTESTED
    assert "no control was run" in settled(record).reason
    control = record_of(None, 0.02)
    assert settled(record, control_run(control)).outcome is Outcome.UNTESTED
    broken = replace(control_run(control), outcome="broke", broke_at=50)
    assert settled(record, broken).outcome is Outcome.HELD
    assert "at claimed step = 50" in settled(record, broken).reason


def test_control_and_attack_are_two_folders():
    with pytest.raises(HoldfastError, match="is the folder of the attacked model itself"):
        External(path="attacked", control=Attacked(path="attacked"))


def test_an_adapter_that_is_for_other_parts_is_refused_by_its_folder(world, measured, tmp_path):
    models, _ = world
    adapt(clone(models["defended"]), LoRA(r=2), seed=0).network.save_pretrained(tmp_path / "adapter")
    config = tmp_path / "adapter" / "adapter_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "target_modules": ["no_such_part"]}))
    with pytest.raises(HoldfastError, match=rf"^{tmp_path}/adapter: the adapter does not fit"):
        measured(External(path=str(tmp_path / "adapter")))


def test_a_file_that_is_no_model_is_refused_by_its_name(measured, tmp_path):
    (tmp_path / "weights.txt").write_text("none")
    with pytest.raises(HoldfastError, match=r"weights\.txt"):
        measured(External(path=str(tmp_path / "weights.txt")))
