"""Good models to spoil: a causal one, a classifier, a reward model, and a causal one without a chat template."""

from pathlib import Path

import torch
from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast
from transformers.utils import logging

from holdfast.network.releasing import save
from holdfast.sandbox.build import Sandbox, tokenizer, untrained


def main(place: Path) -> None:
    torch.manual_seed(0)
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    model = untrained(Sandbox())
    save(model, place / "model")
    save(model, place / "plain")
    (place / "plain" / "chat_template.jinja").unlink()
    labels = {0: "fine", 1: "harmful"}
    _scorer(place / "classifier", id2label=labels, label2id={name: i for i, name in labels.items()})
    _scorer(place / "reward", num_labels=1)


def _scorer(folder: Path, **labels: object) -> None:
    words = tokenizer()
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
        pad_token_id=0,
        **labels,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    plain = PreTrainedTokenizerFast(tokenizer_object=words.backend_tokenizer, pad_token="<pad>", unk_token="<unk>")
    plain.save_pretrained(folder)
