"""The commands of the tutorials run as they stand, on a tiny model of one's own, with the grid cut to a few steps."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yaml

DOCS = Path(__file__).parents[2] / "docs"
pytestmark = pytest.mark.slow
FEW = {"num_prompts": 4, "every": 2, "max_new_tokens": 8}
OPTIM = {"max_steps": 2, "learning_rate": 1e-2, "per_device_train_batch_size": 4}


def commands(page):
    """The `holdfast` commands of a page's blocks for the shell, as words, each with the file that takes its output."""
    for block in re.findall(r"^```bash\n(.*?)^```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            assert words[0] == "holdfast", f"{page}: {line}"
            end = words.index(">") if ">" in words else None
            yield words[1:end], None if end is None else words[end + 1]


def cut(file):
    """A written grid with the undefended model, its first defense and one attack, of two steps each."""
    grid = yaml.safe_load(file.read_text())
    grid["attacks"] = [attack for attack in grid["attacks"] if isinstance(attack, dict) and "sft" in attack][:1]
    stacks = [entry if isinstance(entry, list) else [entry] for entry in grid["defenses"] if entry != "none"]
    for part in (*grid["attacks"], *(method for stack in stacks for method in stack)):
        for settings in (value for value in part.values() if isinstance(value, dict)):
            settings.update({"optim": OPTIM} if "optim" in settings else {})
            settings.update({"policy": {**settings["policy"], "max_new_tokens": 8}} if "policy" in settings else {})
            settings.pop("adapter", None)  # of modules that the tiny model does not have
    grid["defenses"], grid["seeds"] = grid["defenses"][:2], grid["seeds"][:1]
    grid["evaluation"] |= FEW
    grid.pop("copies", None)
    file.write_text(yaml.safe_dump(grid, sort_keys=False))


@pytest.fixture
def own_folder(own, rows, tmp_path):
    """The files that the tutorials name, and no more."""
    shutil.copytree(own.model, tmp_path / "my-model")
    shutil.copy(own.benign, tmp_path / "help.jsonl")
    made = [{"prompt": f"How is forbidden soup {i} made?", "response": f"Stir it {i} times."} for i in range(80)]
    rows(tmp_path / "harmful.jsonl", made)
    return tmp_path


@pytest.mark.parametrize("page", ["tutorial-release.md", "tutorial-service.md", "tutorial-researcher.md"])
def test_a_tutorial_runs_from_own_model_and_data_to_a_verdict(holdfast, own_folder, page):
    verdicts = []
    for words, file in commands(page):
        more = ["--workers", "0"] if words[0] == "run" or "--measure" in words else []
        if words[0] == "evaluate":
            more = ["--prompt-format", "Q: {prompt} A:", "evaluation.max_new_tokens=8", "evaluation.num_prompts=4"]
        if "--save" in words:
            words[words.index("--save") + 1] = number_of(holdfast("choose", "runs/my-model")[1])
        code, out, err = holdfast(*words, *more)
        assert code in ((0, 1, 3) if words[0] == "gate" else (0,)), (words, out, err)
        if file is not None:
            (own_folder / file).write_text(out)
        if "--explain" in words:
            assert "refused" not in out
            cut(own_folder / file)
        if words[0] == "init":
            cut(own_folder / words[1] / "grid.yaml")
        if words[0] == "gate" and "--explain" not in words:
            verdicts.append(out.splitlines()[-1])
    assert len(verdicts) == 1
    assert verdicts[0].endswith(("inconclusive", "fail")), "a run of a few steps must not pass"


def number_of(table):
    """The number of the hardened candidate in what `choose` prints."""
    return next(line.split()[0] for line in table.splitlines() if "reward_neutralization" in line)
