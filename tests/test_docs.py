"""README and docs: what they show runs or parses, and the pages that are made from the code are whole."""

import json
import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from holdfast.cli import app
from holdfast.commands.methods import kinds
from holdfast.config import load_grid, overridden, parse_grid, presets
from holdfast.experiment.grid import cells
from holdfast.gate.gate_file import parse_gate
from holdfast.kitchen.build import Made
from holdfast.sandbox.build import CONTEXT

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FAITHFULNESS = yaml.safe_load((ROOT / "docs" / "_build" / "faithfulness.yaml").read_text())


def blocks(language):
    """Every fenced block of a language, with its page."""
    pattern = re.compile(rf"^```{language}\n(.*?)^```", re.MULTILINE | re.DOTALL)
    return [(page.name, block) for page in PAGES for block in pattern.findall(page.read_text())]


def commands():
    """Every `holdfast ...` of the bash blocks, as words, comments left out, and lines put together."""
    for page, block in blocks("bash"):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words and words[0].rpartition("/")[2] == "holdfast":
                yield page, words[1:]


COMMANDS = list(commands())
COMMAND = get_command(app)


def parsed(words):
    """The command that the words call and its values, without running it."""
    command = COMMAND
    context = command.make_context("holdfast", [], resilient_parsing=True)
    while hasattr(command, "commands"):
        name, command, words = command.resolve_command(context, words)
        assert command is not None
        context = command.make_context(name, list(words), parent=context)
        words = [*getattr(context, "_protected_args", []), *context.args]
    return command, context.params


@pytest.mark.slow
@pytest.mark.parametrize(("page", "words"), COMMANDS, ids=[f"{page}: {' '.join(words)}" for page, words in COMMANDS])
def test_every_command_shown_is_one_that_the_program_takes(page, words):
    command, values = parsed(words)
    if command.name in ("run", "search") and not values.get("grid", "x").endswith(".yaml") and words[0] != "control":
        named = values.get("grid") or values.get("question")
        assert named in presets(), f"{page}: no preset {named!r}"
        if command.name == "run" and "kitchen" not in f"{named} {values.get('overrides')}":
            grid = load_grid(named, values.get("overrides") or [])
            assert cells(replace(grid, seeds=grid.seeds[:1]))
    for name in ("attack", "defense"):
        methods = values.get(name) if command.name in ("attack", "harden") else None
        for method in [methods] if isinstance(methods, str) else methods or []:
            assert any(method in table for table in kinds().values()), method
    for override in values.get("overrides") or []:
        overridden({}, override)


def test_commands_are_found_on_most_pages():
    assert len(COMMANDS) >= 30
    assert len({page for page, _ in COMMANDS}) >= 7


def test_a_command_with_an_unknown_option_would_be_refused():
    with pytest.raises(Exception, match="No such option"):
        parsed(["attack", "sft", "--modle", "x"])


@pytest.mark.slow
@pytest.mark.parametrize(("page", "block"), blocks("yaml"), ids=lambda text: text if text.endswith(".md") else "")
def test_every_grid_shown_parses_with_its_models_and_data_at_hand(page, block, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beavertails.jsonl").write_text("{}\n")
    (tmp_path / "help.jsonl").write_text("{} \n{}\n")
    made = Made(*(tmp_path / part for part in Made._fields))
    made.rows.mkdir()
    for kind in ("restricted", "benign", "borderline", "summary"):
        (made.rows / f"{kind}.jsonl").write_text(json.dumps({"prompt": kind}))
    values = yaml.safe_load(block)
    own = {"model": "sandbox"} if {"model", "models", "world"}.isdisjoint(values) else {}
    assert cells(parse_grid({**own, **values}, page, find=lambda kitchen: made))


def test_every_whole_grid_shown_for_the_sandbox_leaves_its_models_room_to_answer():
    grids = [
        (page, read) for page, block in blocks("yaml") if (read := yaml.safe_load(block)).get("model") == "sandbox"
    ]
    assert len(grids) >= 2
    for page, read in grids:
        assert read["evaluation"]["max_new_tokens"] <= CONTEXT / 2, page


def test_every_gate_shown_is_one_that_the_program_takes():
    shown = blocks("yml")
    assert shown
    for page, block in shown:
        assert parse_gate(yaml.safe_load(block), page).lines


def test_python_shown_compiles():
    code_blocks = blocks("python") + blocks("py")
    assert len(code_blocks) >= 6
    for page, block in code_blocks:
        compile(block, page, "exec")


def test_the_python_about_time_in_constraint_holds():
    (example,) = [block for page, block in blocks("python") if page == "hacking.md"]
    exec(compile(example, "hacking.md", "exec"), {})


def test_the_size_of_the_house_is_the_one_that_was_stored():
    stored = json.loads((ROOT / "benchmarks" / "results" / "structure.json").read_text())
    table = (ROOT / "docs" / "house.md").read_text().partition("## Its size")[2]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if "|" in line][2:]
    for column, one in enumerate((stored["before"], stored["now"]), start=1):
        functions = ", ".join(f"{one['functions'][name]:.0f}" for name in ("median", "p90", "longest"))
        circles = "one was found" if one["circles_of_modules"] else "none"
        sizes = [f"{one['modules']} ({one['lines']:,})", *(str(one[name]) for name in ("rooms", "arrows", "floors"))]
        sizes += [circles, functions, str(one["settings_read_by_key"]), str(one["readme_lines"])]
        assert [row[column] for row in rows] == sizes


def test_readme_is_of_one_screen():
    assert len(PAGES[0].read_text().splitlines()) <= 125


def test_every_local_link_of_the_readme_leads_somewhere():
    links = re.findall(r"\]\((?!http|#)([^)#]+)", PAGES[0].read_text())
    assert len(links) >= 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_the_faithfulness_table_names_every_built_in_method_and_nothing_else():
    assert set(FAITHFULNESS) == {name for table in kinds().values() for name in table.built_in}


def test_what_the_faithfulness_table_names_exists():
    for name, row in FAITHFULNESS.items():
        assert row["verdict"].startswith(("faithful", "variant with reason", "own")), name
        assert [test for test in row["test"].split() if not (ROOT / test).exists()] == []
        assert "golden" not in row or (ROOT / "tests" / "golden" / f"{row['golden']}.json").exists()


@pytest.fixture(scope="module")
def generators():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(ROOT / "benchmarks"))
        patch.syspath_prepend(str(ROOT / "docs" / "_build"))
        yield
    for name in ("hooks", "pages", "house", "measured", "cost", "structure"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def made(generators):
    """Every generated page, by its path."""
    import pages

    return pages.all_pages()


@pytest.mark.slow
def test_a_page_is_made_of_every_method_with_its_settings_and_measurements(made):
    import pages

    page = made["online-defenses/refusal_loss.md"]
    for part in ("## Idea", "## Equation", "`alpha`", "at least 0", "qi2024", "## Measured", "useless", "Verdict"):
        assert part in page
    assert len(made) == 3 + len(pages.KINDS) + sum(len(table.built_in) for table in kinds().values())


@pytest.mark.slow
def test_a_method_that_nobody_compared_with_its_paper_is_shown_as_such(generators, monkeypatch):
    import pages

    monkeypatch.setattr(pages, "faithfulness", dict)
    assert "Verdict: **not reviewed**" in pages.page("attack", "sft")


@pytest.mark.slow
def test_every_page_says_what_a_method_costs_with_a_figure_or_that_nobody_measured_it(made):
    methods = [text for path, text in made.items() if path.count("/") == 1 and not path.endswith("index.md")]
    assert len(methods) == len(FAITHFULNESS)
    for text in methods:
        cost = text.partition("## Cost\n")[2].partition("\n## ")[0]
        assert re.search(r"\|[^|\n]*\d[^|\n]*\|", cost) or "Not measured: " in cost, text.splitlines()[0]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["adaptive attacker", "online defense"])
def test_the_attack_with_which_a_page_shows_a_method_is_one_that_it_acts_on(made, kind):
    pages = {path: text for path, text in made.items() if path.startswith(f"{kind.replace(' ', '-')}s/")}
    settings = {"grpo": {"reward": {"judge": "keyword"}}, "sft": {}}
    named = [
        (re.search(r"^# (\S+)\n", text)[1], re.search(r"^Use: .*?(sft|grpo)", text, re.MULTILINE)[1])
        for path, text in pages.items()
        if not path.endswith("index.md")
    ]
    assert len(named) == len(kinds()[kind].built_in)
    for name, attack in named:
        values = {"name": "g", "models": ["sandbox"], "evaluation": {"harm_judges": ["oracle"]}}
        own = {"judge": "keyword"} if name == "safe_rlhf" else {}
        method = {name: {**kinds()[kind].load(name).EXAMPLE, **own}}
        stack = [{attack: settings[attack]}, *([method] if kind == "adaptive attacker" else [])]
        defenses = ["none"] if kind == "adaptive attacker" else [method]
        assert cells(parse_grid({**values, "defenses": defenses, "attacks": [stack]}, "test"))


@pytest.mark.slow
def test_what_an_online_defense_costs_is_the_ratio_to_the_undefended_run_of_the_same_attack_and_seed(generators):
    import cost
    import measured

    table = measured.rows("online_three_seeds")
    of = {(row["defense"], row["seed"]): row for row in table if row["attack"] == "sft"}
    a_step = {key: float(row["wall_seconds"]) / float(row["steps"]) for key, row in of.items()}
    ratios = sorted(a_step["vaccine", seed] / a_step["none", seed] for seed in "012")
    shown = f"| 3 | {ratios[1]:.2f} [{ratios[0]:.2f}, {ratios[2]:.2f}] | not recorded |"
    assert f"| `online_three_seeds` | `vaccine` | `sft` {shown}" in cost.of_constraint("vaccine")


@pytest.mark.slow
def test_adaptive_attackers_and_judges_have_what_is_stored_of_them_on_their_pages(made):
    guided = made["adaptive-attackers/guided.md"]
    assert "| `grpo` | `token_buncher` |" in guided
    assert "| `grpo + guided sequence none` | `token_buncher` | 3 broke |" in guided
    assert "| `content` | 0.068 [0.032, 0.141], n = 88 |" in made["judges/terms.md"]
    for name in ("mix_weights", "subtract_delta", "benign_cover", "reshape"):
        assert "`adaptive_one_seed`" in made[f"adaptive-attackers/{name}.md"], name
    assert "| `token_buncher` | 7.47 | 1.04 | 10.0 |" in made["offline-defenses/token_buncher.md"]
    assert "rpa_table_5" in made["attacks/best_of_n.md"]


@pytest.mark.slow
def test_a_meaning_that_settings_share_is_written_once_on_a_page(made):
    page = made["judges/llm.md"]
    assert page.count("after which up to `retries` others follow") == 1
    assert "| `retries` | `4` | whole number: 0 or more | see `timeout` |" in page


def test_cells_of_a_table_carry_their_columns_titles(generators):
    import hooks

    head = "<tr>\n<th>a</th>\n<th><code>b</code></th>\n</tr>"
    html = f"<table>\n<thead>\n{head}\n</thead>\n<tr>\n<td>1</td>\n<td>2</td>\n</tr>\n"
    made = hooks.on_page_content(f"{html}</table><p>x</p>")
    assert '<td data-title="a">1</td>\n<td data-title="b">2</td>' in made
    assert made.endswith("</table><p>x</p>")


@pytest.mark.slow
def test_tables_in_docstrings_stay_tables(made):
    assert "\n\n| row | advantage" in made["attacks/grpo.md"]
    assert "|\n|---|---|---|" in made["offline-defenses/token_buncher.md"]


@pytest.mark.slow
def test_the_house_is_drawn_from_the_imports_as_they_are(generators):
    import house

    graph = house.rooms()
    svg = house.drawing(graph)
    assert all(f">{room}</text>" in svg for room in graph)
    floor = house.floors(graph)
    assert all(floor[below] < floor[room] for room, used in graph.items() for below in used)
    assert house.direct({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == {"a": {"b"}, "b": {"c"}, "c": set()}
    boxes = list(house.places(graph).values())
    assert all(house.ROOM / 2 <= x <= house.WIDTH - house.ROOM / 2 for x, _ in boxes)
    beside = [(x, u) for i, (x, y) in enumerate(boxes) for u, v in boxes[:i] if y == v]
    assert beside
    assert all(abs(x - u) > house.ROOM for x, u in beside)
