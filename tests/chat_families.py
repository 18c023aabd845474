"""Tokenizers and chat templates in the manner of families of models, in this project's own wording, of a few bytes."""

from __future__ import annotations

from functools import cache
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from holdfast.network.models import Model
from holdfast.sandbox.build import network

CORPUS = ["stir the moss into the warm glim soup and let it rest", "i cannot help with that . think system user"] * 20

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# turns must alternate and no system turn is known; the beginning is written by the template
GEMMA = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system turns here') }}{% endif %}"
    "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
# the end of the text follows that of the turn
PHI = (
    "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% else %}{{ eos_token }}{% endif %}"
)
LLAMA3 = (
    "{{ bos_token }}<|start_header_id|>system<|end_header_id|>\n\nit is {{ strftime_now('%d %b %Y') }}<|eot_id|>"
    "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
# the end of the text is that of the turn, after a space
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% else %} {{ m.content }} {{ eos_token }}{% endif %}{% endfor %}"
)
NOTHING_AFTER = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}assistant:"
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.last and '</think>' not in m.content %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
OPENS_A_THOUGHT = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content.split('</think>')[-1] }}"
    "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|><think>\n{% endif %}"
)
HARMONY = (
    "{% for m in messages %}<|start|>{{ m.role }}{% if m.role == 'assistant' %}<|channel|>final{% endif %}<|message|>"
    "{{ m.content }}{% if loop.last and m.role == 'assistant' %}<|return|>{% else %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant{% endif %}"
)

SPECIAL = {
    CHATML: ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    GEMMA: ("<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
    PHI: ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
    LLAMA3: ("<|end_of_text|>", "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    LLAMA2: ("</s>", "<s>"),
    NOTHING_AFTER: ("<eos>",),
    THINKING: ("<|endoftext|>", "<|im_start|>", "<|im_end|>"),
    OPENS_A_THOUGHT: ("<|eos|>", "<|user|>", "<|assistant|>"),
    HARMONY: ("<|return|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|call|>"),
}
"""A family's special tokens, that which ends its texts first."""
BEGINNINGS = {GEMMA: "<bos>", LLAMA3: "<|begin_of_text|>", LLAMA2: "<s>"}
TAGS = {THINKING: ("<think>", "</think>"), OPENS_A_THOUGHT: ("<think>", "</think>")}


@cache
def _pieces() -> str:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(CORPUS, BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False))
    return tokenizer.to_str()


def tokenizer(template: str, *, pad: str | None = None, append_end: bool = False) -> Any:
    """A family's tokenizer; like most it writes the beginning by itself, and with `append_end` the end too."""
    fast = Tokenizer.from_str(_pieces())
    end, *others = SPECIAL.get(template, ("<eos>",))
    fast.add_special_tokens([end, *others])
    fast.add_tokens([AddedToken(tag, special=False) for tag in TAGS.get(template, ())])
    begin = BEGINNINGS.get(template)
    single = " ".join(filter(None, [begin, "$A", end if append_end else None]))
    named = [(token, fast.token_to_id(token)) for token in (begin, end) if token]
    fast.post_processor = processors.TemplateProcessing(single=single, special_tokens=named)
    made = PreTrainedTokenizerFast(tokenizer_object=fast, eos_token=end, bos_token=begin, pad_token=pad)
    made.chat_template = template
    return made


def speaker(template: str, *, seed: int = 0, **settings: Any) -> Model:
    """An untrained model of a family; `settings` are those of `Model`, and `pad` and `append_end`."""
    of_tokenizer = {name: settings.pop(name) for name in ("pad", "append_end") if name in settings}
    words = settings.pop("tokenizer", None) or tokenizer(template, **of_tokenizer)
    weights = network("llama", "tiny", vocabulary=len(words), seed=seed)
    weights.generation_config.eos_token_id = None
    return Model(network=weights.eval(), tokenizer=words, **settings)
