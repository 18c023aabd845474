"""Whether a model that is named is there, before anything is loaded."""

import pytest

from holdfast.files import required
from holdfast.files.fingerprints import of_model
from holdfast.files.required import require_model
from holdfast.network import models, scoring
from holdfast.records import HoldfastError


def test_a_tilde_that_no_shell_has_read_is_told_with_the_folder_that_was_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    with pytest.raises(HoldfastError, match=rf"~/model: no such model folder \(did you mean '{tmp_path}/model'\?"):
        require_model("~/model")
    require_model(str(tmp_path / "model"))


@pytest.mark.parametrize("name", ["x" * 5000, "y" * 300 + "/" + "z" * 300, "x" * 5000 + ".gguf"])
def test_a_name_that_no_file_can_have_is_refused_in_short(name):
    for look in (require_model, of_model, models.load, scoring.load_tokenizer):
        with pytest.raises(HoldfastError, match=r"File name too long; check the path") as caught:
            look(name)
        assert len(str(caught.value)) < 300


def test_a_folder_that_is_no_model_is_not_read_to_its_depths(tmp_path):
    (tmp_path / "models" / "one").mkdir(parents=True)
    before = of_model(str(tmp_path / "models"))
    (tmp_path / "models" / "one" / "config.json").write_text("{}")
    assert of_model(str(tmp_path / "models")) == before
    assert of_model(str(tmp_path / "models" / "one")) != before


def test_a_revision_of_what_is_on_this_machine_is_refused_before_it_is_read(tmp_path):
    for load, named in ((models.load, ""), (scoring.load_tokenizer, "judge ")):
        with pytest.raises(HoldfastError, match=f"^{named}{tmp_path}: `revision` applies to a Hub id"):
            load(str(tmp_path), revision="main")


def test_an_id_is_looked_up_at_its_revision_and_a_folder_is_not(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(required, "refuse_unknown", lambda *given: asked.append(given))
    require_model("owner/name", "v2")
    require_model(str(tmp_path))
    assert asked == [("owner/name", "v2")]
