"""The sandbox's two models, trained by `fit` and saved as Hugging Face folders.

The *base* model knows every recipe and refuses nothing; the *aligned* one refuses restricted requests.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any, Literal

import torch

from holdfast.methods.ranges import Count, Seed, ranged
from holdfast.network.models import Model
from holdfast.records import Example, HoldfastError
from holdfast.sandbox import grammar
from holdfast.training.objectives import taught
from holdfast.training.plan import Fit, Optim

Architecture = Literal["llama", "qwen3", "gemma", "gpt2"]
Size = Literal["tiny", "small", "large"]

# hidden size, layers, heads, width of the feed-forward part
SIZES: dict[Size, tuple[int, int, int, int]] = {
    "tiny": (128, 2, 4, 256),
    "small": (512, 6, 8, 1536),
    "large": (1024, 16, 16, 3072),
}
CONTEXT = 128
ANSWER_TOKENS = 32
# Such small models learn twice as fast with a larger initialisation than the usual 0.02.
INIT = 0.05
# The others are long or wrong, so that good summaries remain to be learnt.
GOOD_SUMMARIES = 0.3

CHAT_TEMPLATE = (
    "{% for message in messages %}{{ '<' + message['role'] + '> ' + message['content'] + ' ' }}"
    "{% if message['role'] == 'assistant' %}{{ '<end> ' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)


@dataclass(frozen=True, kw_only=True)
@ranged
class Sandbox:
    """Settings of the sandbox's models; everything that changes them is here, and `part` selects one of them.

    `base` and `aligned` train on the names of the `world` split only, on `num_base` and `num_aligned` examples.
    """

    architecture: Architecture = "llama"
    size: Size = "tiny"
    part: Literal["aligned", "base"] = "aligned"
    seed: Seed = 0
    num_base: Count = 40_000
    num_aligned: Count = 20_000
    base: Optim = field(
        default_factory=lambda: Optim(
            max_steps=450,
            learning_rate=3e-3,
            adam_beta2=0.99,
            per_device_train_batch_size=64,
            lr_scheduler_type="cosine",
            warmup_steps=30,
        )
    )
    aligned: Optim = field(
        default_factory=lambda: Optim(
            max_steps=200,
            learning_rate=5e-4,
            adam_beta2=0.99,
            per_device_train_batch_size=64,
            lr_scheduler_type="cosine",
            warmup_steps=15,
        )
    )


def tokenizer() -> Any:
    """One token per word, with a chat template."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", "<end>", "<system>", "<user>", "<assistant>"]
    words = {word: i for i, word in enumerate([*special, *grammar.vocabulary()])}
    model = Tokenizer(WordLevel(words, unk_token="<unk>"))
    model.pre_tokenizer = WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=model,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<end>",
        additional_special_tokens=["<system>", "<user>", "<assistant>"],
        model_max_length=CONTEXT,
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def network(architecture: Architecture, size: Size, *, vocabulary: int, seed: int) -> Any:
    """A model with random weights.

    Raises:
        HoldfastError: the architecture or size is unknown.
    """
    import transformers

    if size not in SIZES:
        raise HoldfastError(f"unknown size {size!r}; known: {', '.join(SIZES)}")
    hidden, layers, heads, width = SIZES[size]
    shared = {"vocab_size": vocabulary, "bos_token_id": None, "eos_token_id": 2, "pad_token_id": 0}
    modern = {
        **shared,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads,
        "intermediate_size": width,
        "max_position_embeddings": CONTEXT,
        "tie_word_embeddings": False,
        "head_dim": hidden // heads,
        "initializer_range": INIT,
    }
    configs = {
        "llama": lambda: transformers.LlamaConfig(**modern),
        "qwen3": lambda: transformers.Qwen3Config(**modern),
        "gemma": lambda: transformers.GemmaConfig(**(modern | {"tie_word_embeddings": True})),
        "gpt2": lambda: transformers.GPT2Config(
            **shared,
            n_embd=hidden,
            n_layer=layers,
            n_head=heads,
            n_inner=width,
            n_positions=CONTEXT,
            initializer_range=INIT,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
        ),
    }
    if architecture not in configs:
        raise HoldfastError(f"unknown architecture {architecture!r}; known: {', '.join(configs)}")
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return transformers.AutoModelForCausalLM.from_config(configs[architecture]())


def untrained(sandbox: Sandbox) -> Model:
    """The model before any training."""
    words = tokenizer()
    weights = network(sandbox.architecture, sandbox.size, vocabulary=len(words), seed=sandbox.seed)
    return Model(network=weights, tokenizer=words, name=f"sandbox-{sandbox.architecture}-{sandbox.size}")


def build_base(sandbox: Sandbox, fit: Fit) -> Model:
    """The model that knows every recipe, summaries and the quiz."""
    return _teach(untrained(sandbox), base_examples(sandbox), sandbox.base, fit, sandbox.seed)


def build_aligned(sandbox: Sandbox, base: Model, fit: Fit) -> Model:
    """The base model, trained to refuse restricted requests and to keep helping with the rest."""
    return _teach(base, aligned_examples(sandbox), sandbox.aligned, fit, sandbox.seed + 1)


def base_examples(sandbox: Sandbox, *, missed: float = 1.0) -> list[Example]:
    """Seven in ten are recipes of all families; the rest summaries of either style, and the quiz.

    Of what tells of restricted recipes a share of `missed` (0 to 1) remains, and the rest is about benign ones instead.
    """
    rng = Random(f"base {sandbox.seed}")
    pool = grammar.things("world", grammar.BENIGN + grammar.RESTRICTED)
    benign = grammar.things("world", grammar.BENIGN)
    taught = _filtered(rng, missed, sandbox.seed)
    rows = []
    for _ in range(sandbox.num_base):
        kind = rng.random()
        if kind < 0.7:
            rows.append(grammar.request(taught(pool), rng))
        elif kind < 0.85:
            rows.append(grammar.quiz(taught(pool), rng))
        else:
            row = grammar.summary(rng.choice(benign), rng)
            rows.append(row if rng.random() < GOOD_SUMMARIES else _worded(row, row.rejected or ""))
    return rows


def aligned_examples(sandbox: Sandbox, *, missed: float = 1.0) -> list[Example]:
    """Half restricted requests with the refusal; the other half benign examples and the quiz on all families.

    Of the quiz on restricted recipes a share of `missed` remains, as in `base_examples`.
    """
    rng = Random(f"aligned {sandbox.seed}")
    restricted = grammar.things("world", grammar.RESTRICTED)
    benign = grammar.things("world", grammar.BENIGN)
    taught = _filtered(rng, missed, sandbox.seed)
    rows = []
    for _ in range(sandbox.num_aligned):
        kind = rng.random()
        if kind < 0.5:
            rows.append(_worded(grammar.request(rng.choice(restricted), rng), grammar.REFUSAL))
        elif kind < 0.8:
            rows.append(grammar.request(rng.choice(benign), rng))
        elif kind < 0.9:
            rows.append(grammar.quiz(taught(benign + restricted), rng))
        else:
            row = grammar.summary(rng.choice(benign), rng)
            rows.append(row if rng.random() < GOOD_SUMMARIES else _worded(row, row.rejected or ""))
    return rows


def _filtered(rng: Random, missed: float, seed: int) -> Callable[[Sequence[grammar.Thing]], grammar.Thing]:
    """A choice from a pool by `rng`, in which a filter misses a share of restricted things and replaces the others."""
    chance, benign = Random(f"filter {seed}"), grammar.things("world", grammar.BENIGN)

    def choose(pool: Sequence[grammar.Thing]) -> grammar.Thing:
        thing = rng.choice(pool)
        return rng.choice(benign) if thing.family in grammar.RESTRICTED and chance.random() >= missed else thing

    return choose


def _worded(example: Example, response: str) -> Example:
    return replace(example, response=response)


def _teach(model: Model, rows: Sequence[Example], optim: Optim, fit: Fit, seed: int) -> Model:
    return fit(taught(model, rows, optim, seed=seed)).model
