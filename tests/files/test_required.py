"""Whether a model that is named is there, before anything is loaded."""

import pytest

from holdfast.files import required
from holdfast.files.required import require_model
from holdfast.network import models, scoring
from holdfast.records import HoldfastError


def test_a_tilde_that_no_shell_has_read_is_told_with_the_folder_that_was_meant(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "model").mkdir()
    with pytest.raises(HoldfastError, match=rf"~/model: no such model folder \(did you mean '{tmp_path}/model'\?"):
        require_model("~/model")
    require_model(str(tmp_path / "model"))


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
