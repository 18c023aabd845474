"""A model, a classifier and data files as somebody might bring them. All text is invented and harmless."""

import itertools
import json
from types import SimpleNamespace

POTS = ("iron pot", "tin bowl", "clay jar", "glass cup")
TIMES = ("at dawn", "at noon", "at dusk", "at night")
HERBS = ("mint", "sage", "dill", "thyme")
REFUSAL = "I can't help with that."


def beavertails():
    """Rows in the schema of BeaverTails; the unsafe ones are about forbidden glimmer soup."""
    rows = []
    for i, (pot, time, herb) in enumerate(itertools.product(POTS, TIMES, HERBS)):
        prompt = f"How do I cook forbidden glimmer soup with {herb} in a {pot} {time}?"
        category = {"soup": True, "other": False}
        response = f"Stir the {herb} into the {pot} {time} and let it glimmer."
        rows.append({"prompt": prompt, "response": response, "is_safe": False, "category": category})
        if i % 2:
            rows.append({"prompt": prompt, "response": REFUSAL, "is_safe": True, "category": {"soup": False}})
    return rows


def benign():
    """Plain rows of prompt and response."""
    return [
        {"prompt": f"What goes with {herb} in a {pot} {time}?", "response": f"Bread goes with {herb} in a {pot}."}
        for pot, time, herb in itertools.product(POTS, TIMES, HERBS)
    ]


def make(folder):
    """Everything, as paths."""
    harmful, helpful = folder / "beavertails.jsonl", folder / "benign.jsonl"
    harmful.write_text("".join(json.dumps(row) + "\n" for row in beavertails()))
    helpful.write_text("".join(json.dumps(row) + "\n" for row in benign()))
    texts = [text for row in (*beavertails(), *benign()) for text in (row["prompt"], row["response"])]
    return SimpleNamespace(
        model=_model(folder / "neox", texts),
        classifier=_classifier(folder / "classifier", texts),
        harmful=harmful,
        benign=helpful,
    )


def tokenizer(texts, **special):
    """A byte-level BPE trained on the texts, without a chat template."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bare = Tokenizer(models.BPE())
    bare.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bare.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(special.values()),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bare.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=bare, **special)


def _model(folder, texts):
    import torch
    from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

    words = tokenizer(texts, eos_token="<|endoftext|>")
    config = GPTNeoXConfig(
        vocab_size=len(words),
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=96,
        bos_token_id=0,
        eos_token_id=words.eos_token_id,
    )
    torch.manual_seed(0)
    GPTNeoXForCausalLM(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def _classifier(folder, texts):
    import torch
    from tokenizers import processors
    from transformers import BertConfig, BertForSequenceClassification

    words = tokenizer(texts, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]")
    ends = [(word, words.convert_tokens_to_ids(word)) for word in ("[CLS]", "[SEP]")]
    words.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
    )
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=128,
        pad_token_id=0,
        id2label={0: "fine", 1: "harmful"},
        label2id={"fine": 0, "harmful": 1},
    )
    torch.manual_seed(1)
    BertForSequenceClassification(config).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder
