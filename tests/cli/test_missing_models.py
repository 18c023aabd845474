"""A model that is not there is one line with the way out, before any process that could load it is started."""

import pytest

from holdfast.experiment import beforehand

pytestmark = pytest.mark.slow
JUDGED = "evaluation.harm_judges=[harm]"
OWN = ("--harmful", "harmful.jsonl", "--benign", "benign.jsonl")
GIVEN = ("data.harmful.path=harmful.jsonl", "data.benign.path=benign.jsonl", "evaluation.help_judge=reference")
GIVEN += ("evaluation.harm_judges=[refusal]", "attacks=[sft]", "defenses=[none]")


@pytest.fixture
def refused(holdfast, error_line, tmp_path, rows, monkeypatch):
    """The error of a command whose data is there and whose model is not; a check in another process is a failure."""
    row = {"prompt": "how ?", "response": "so .", "refusal": "no ."}
    rows(tmp_path / "harmful.jsonl", [{**row, "prompt": f"restricted {i} ?", "role": "harmful"} for i in range(60)])
    rows(tmp_path / "benign.jsonl", [{**row, "prompt": f"harmless {i} ?"} for i in range(60)])
    (tmp_path / "my-model").mkdir()
    monkeypatch.setattr(beforehand, "check", lambda *_, **__: pytest.fail("a process was started"))
    return lambda *words: error_line(holdfast(*words))


@pytest.mark.parametrize(
    "command",
    [
        ("attack", "sft", "-m", "./my-modle", *OWN),
        ("attack", "sft", "-m", "./my-modle", *OWN, "copies=[q4_0]"),
        ("harden", "reward_neutralization", "-m", "./my-modle", *OWN, "-o", "out"),
        ("evaluate", "-m", "./my-modle", *OWN),
        ("doctor", "--attack", "sft", "-m", "./my-modle", *OWN),
        ("judge", "train", "-o", "out", "--harmful", "harmful.jsonl", "backbone=./my-modle"),
        ("run", "quickstart", "models=[./my-modle]", *GIVEN),
        ("attack", "sft", "evaluation.metrics.perplexity={path: ./my-modle}"),
        ("attack", "sft", "judges.harm.classifier={path: ./my-modle, harmful_label: 1}", JUDGED),
        ("attack", "sft", "judges.harm.llm.path=./my-modle", JUDGED),
        ("attack", "sft", "judges.harm.trained_classifier.backbone=./my-modle", JUDGED),
    ],
    ids=lambda command: " ".join(word for word in command if word not in OWN),
)
def test_a_missing_folder_is_refused_by_every_command_with_the_near_one(refused, command):
    assert "./my-modle: no such model folder (did you mean 'my-model'?)" in refused(*command)


def test_a_missing_folder_of_a_search_is_refused(refused):
    pytest.importorskip("optuna")
    searched = ("tuned_sft", "models=[./my-modle]", "--budget", "400")
    message = refused("search", *searched, *GIVEN, "search.judge=reference")
    assert "./my-modle: no such model folder" in message


def test_the_missing_control_of_a_hardened_model_is_named_by_its_key(refused, tmp_path):
    (tmp_path / "my-model" / "config.json").write_text("{}")
    message = refused("attack", "sft", "-m", "./my-model", *OWN, "models.undefended=./nowhere")
    assert message.startswith("models.undefended: ./nowhere: no such model folder in ")


def test_every_missing_model_of_a_grid_has_its_line(holdfast, refused):
    more = ("judges.harm.classifier={path: ./gone, harmful_label: 1}", "evaluation.harm_judges=[harm]")
    code, _, stderr = holdfast("attack", "sft", "-m", "./nowhere", *OWN, *more)
    assert code == 2
    assert [line.split(": ")[1:3] for line in stderr.splitlines()] == [
        ["models", "./nowhere"],
        ["judges.harm", "./gone"],
    ]


@pytest.mark.parametrize(
    ("columns", "says"),
    [
        ({"Prompt": "x ?", "promt": "y"}, "'Prompt' and 'promt' are close: say columns.prompt=Prompt, after a command"),
        (
            {"prompt": "x ?", "Response": "y"},
            "no column 'response'; 'Response' is close: say",
        ),
        ({"prompt": "x ?", "response": "y", "Role": "harmful"}, "no column 'role'; 'Role' is close"),
    ],
)
def test_a_column_that_nearly_matches_is_named(refused, rows, tmp_path, columns, says):
    rows(tmp_path / "benign.jsonl", [columns] * 3)
    assert says in refused("attack", "sft", "-m", "./my-model", *OWN)


def test_the_missing_reader_of_a_gguf_file_is_said_before_anything_is_loaded(refused, tmp_path, monkeypatch):
    (tmp_path / "my.gguf").write_bytes(b"GGUF")
    monkeypatch.setattr("holdfast.files.gguf.find_spec", lambda name: None)
    for command in (("run", "quickstart", "models=[my.gguf]", *GIVEN), ("init", "new", "--yes", "-m", "my.gguf", *OWN)):
        assert refused(*command).endswith("my.gguf: the library that reads GGUF files is missing: pip install gguf")
