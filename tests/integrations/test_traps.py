"""What `constrain` warns of: steps that are rounded away, and a reference that is another model."""

from types import SimpleNamespace

import pytest
import torch
from transformers import Trainer, TrainingArguments

from holdfast.defenses.online.weight_anchors import L2Anchor
from holdfast.integrations import constrain
from holdfast.integrations.traps import warn_of_another_reference
from holdfast.network.models import load
from holdfast.network.releasing import save


def trainer_of(network, folder, **more):
    settings = {"max_steps": 1, "learning_rate": 1e-5, "use_cpu": True, "report_to": "none", **more}
    arguments = TrainingArguments(output_dir=str(folder), **settings)
    return Trainer(model=network, args=arguments, train_dataset=[{"input_ids": torch.tensor([2, 3])}])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_steps_smaller_than_the_spacing_of_the_weights_are_told_with_share_rate_and_way_out(
    dtype, tiny_model, tmp_path
):
    network = tiny_model().network.to(dtype)
    with pytest.warns(UserWarning, match="rounded away") as told:
        constrain(trainer_of(network, tmp_path), L2Anchor(coef=0.1))
    (message,) = {str(one.message) for one in told}
    weights = torch.cat([p.detach().flatten() for p in network.parameters()])
    moved = (weights.float() + 1e-5).to(dtype) != weights
    share = 1 - float(moved.float().mean())
    assert "\n" not in message
    assert str(dtype).removeprefix("torch.") in message
    assert "1e-05" in message
    assert abs(int(message.partition("%")[0].rpartition(" ")[2]) / 100 - share) < 0.02
    assert "dtype=torch.float32" in message


def test_float32_weights_larger_steps_and_compensated_sums_are_passed_over(tiny_model, tmp_path, recwarn):
    pytest.importorskip("optimi", reason="torch-optimi (extra `lean`) is not installed")
    from optimi import AdamW

    narrow = tiny_model().network.bfloat16()
    constrain(trainer_of(tiny_model().network, tmp_path, bf16=True), L2Anchor(coef=0.1))
    constrain(trainer_of(tiny_model().network.bfloat16(), tmp_path, learning_rate=0.1), L2Anchor(coef=0.1))
    compensated = trainer_of(narrow, tmp_path)
    compensated.optimizer = AdamW(narrow.parameters(), lr=1e-5)
    constrain(compensated, L2Anchor(coef=0.1))
    stochastic = trainer_of(tiny_model().network.bfloat16(), tmp_path, optim_args="bf16_stochastic_round=True")
    constrain(stochastic, L2Anchor(coef=0.1))
    assert not [one for one in recwarn if "rounded away" in str(one.message)]


@pytest.fixture
def edited(tiny_model, tmp_path):
    """A model from a folder, changed in memory since."""
    save(tiny_model(), tmp_path / "old")
    model = load(tmp_path / "old")
    with torch.no_grad():
        next(model.network.parameters()).add_(0.01)
    return model


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::DeprecationWarning")
@pytest.mark.parametrize("changed", [True, False])
def test_trls_reference_from_the_remembered_folder_is_told_where_the_model_was_changed(changed, edited, tmp_path):
    trl = pytest.importorskip("trl")
    model = edited if changed else load(tmp_path / "old")
    arguments = trl.GRPOConfig(
        output_dir=str(tmp_path / "out"),
        beta=0.1,
        use_cpu=True,
        bf16=False,
        report_to="none",
        num_generations=2,
        per_device_train_batch_size=2,
    )
    rows = [{"prompt": "hello"}] * 2
    from datasets import Dataset

    trainer = trl.GRPOTrainer(
        model=model.network,
        reward_funcs=lambda completions, **_: [0.0] * len(completions),
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=model.tokenizer,
    )
    if not changed:
        warn_of_another_reference(trainer)  # a warning is an error here
        return
    with pytest.warns(UserWarning, match="reference model is not the model") as told:
        constrain(trainer, L2Anchor(coef=0.1))
    assert any(str(tmp_path / "old") in str(one.message) for one in told)


def test_a_reference_that_equals_the_model_is_passed_over_whatever_its_type(tiny_model):
    model, reference = tiny_model().network.bfloat16().float(), tiny_model().network.bfloat16()
    keep = SimpleNamespace(unwrap_model=lambda network: network)
    warn_of_another_reference(SimpleNamespace(model=model, ref_model=reference, accelerator=keep))


def test_a_reference_of_another_shape_is_told_by_the_first_weight_that_differs(tiny_model):
    model, other = tiny_model().network, tiny_model().network
    other.resize_token_embeddings(model.get_input_embeddings().num_embeddings + 8)
    keep = SimpleNamespace(unwrap_model=lambda network: network)
    with pytest.warns(UserWarning, match=r"it trains: model\.embed_tokens\.weight differs"):
        warn_of_another_reference(SimpleNamespace(model=model, ref_model=other, accelerator=keep))
