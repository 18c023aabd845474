"""The shape of the source: who may import whom, and how large things may grow."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import holdfast

ROOT = Path(holdfast.__file__).parent
ORDER = {
    "records": "evidence hashing . plausible",
    "tensors": "",
    "distributions": "head statistics chunked .",
    "text": ". thinking degenerate",
    "files": "hub . cache space scratch gguf required fingerprints plain_yaml packaged documents",
    "methods": ". tables knobs ranges settings docstrings describe",
    "data": "endless mixing near_columns raw_rows splits pairing file_formats anthropic_hh beavertails multiple_choice "
    "pku_safe_rlhf trl columns dataset . read",
    "losses": "",
    "network": ". anatomy shards loading gguf precision templates pretrained adapters reach reading chat judge_inputs "
    "prefixes draws fixed_cache capturing models low_precision scoring shortcuts heads critic quantized releasing "
    "forward flops static_buffers static_decoding static_use generate activations reshaping ablating",
    "training": ". clock checkpoints optim contracts plan splitting activation_memory perturbation objectives fit",
    "generative": "rubrics replies bodies endpoint local .",
    "judges": "",
    "evaluation": ". metric_settings measurement intervals survival best_of distinctness worst_of refusal_forms "
    "breaking constraint scores hacking matched_pairs overlap perplexity suite two_lengths metrics evaluate agreement",
    "rl": ". rewards rollouts experience resampling policy",
    "rl.guidance": ". schedule expert guide drawing statistics sampler canned",
    "sandbox": ". grammar oracle build",
    "attacks": "",
    "attacks.adaptive": "",
    "judge_training": ". recipes rows scores backbone held_out fitting saving",
    "kitchen": "prompts rows exams judge build world .",
    "defenses": "",
    "defenses.representation": "removal batches objective .",
    "defenses.tampering": ". tensor_store runs attackers objectives",
    "defenses.online": "",
    "defenses.offline": "",
    "experiment": "places notes devices cell_settings record_text moving engine time_left status machine examples "
    "whole_curves outcomes methods store catalog as_grid calling combinations checked_calls effects verdicts "
    "outcomes_by_judge progress unchanged judging tasks world origins attacking rehearsal rounding grid others "
    "named_models beforehand work misplaced model_seeds . estimate",
    "report": "",
    "exports": "options contents wording . every_eval_ever hub inspect_logs model_card",
    "watching": "reading wording lines building page server terminal .",
    "published": "tables agreement joining choosing standing shapes comparing words drawing page .",
    "search": "",
    "gate": "attack_kinds gate_file bounds evidence runs attacked unattacked customers breadth deciding stand_ins "
    "explaining origin answer .",
    "packing": ". zip_layout archive reducing collecting figures recomputing comparing rejudging making checking",
    "drafting": "looking sizes . rough writing",
    "control": "",
    "api": "",
    "integrations": "instance traps answers live rollouts drop_in refusals .",
    "worlds": "",
    "config": "",
    "commands": "",
    "cli": "",
}
"""The rooms from the ground up, with the order inside where it says something; `.` is the room's `__init__`.

A module imports, at once or later, only from rooms above its own line, and inside its room only what stands before it.
"""

APART = ("losses", "judges", "attacks", "defenses.online", "defenses.offline")
"""Folders whose modules never import each other; their `__init__` may list what lies in them."""

LIGHT = (
    *("holdfast", "holdfast.records", "holdfast.training.contracts", "holdfast.report", "holdfast.cli"),
    # The doctor is what says that torch is missing.
    "holdfast.commands.doctor, holdfast.commands.listing; holdfast.commands.listing.show_list(None)",
)
FUNCTION_LINES, MODULE_LINES, POSITIONAL = 60, 400, 4


@cache
def modules() -> dict[str, Path]:
    """Every module by its name without `holdfast.`; the package itself is the empty name."""
    by_name = {}
    for path in sorted(ROOT.rglob("*.py")):
        parts = path.relative_to(ROOT).with_suffix("").parts
        by_name[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return by_name


@cache
def tree(name: str) -> ast.Module:
    return ast.parse(modules()[name].read_text())


def for_types(node: ast.AST) -> bool:
    """Whether it is an `if TYPE_CHECKING:`."""
    return isinstance(node, ast.If) and any(
        isinstance(part, ast.Name) and part.id == "TYPE_CHECKING" for part in ast.walk(node.test)
    )


def eager(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports that run when the module is imported: not those in functions, nor those for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not (for_types(child) or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.expr)):
            yield from eager(child)


def statements(node: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All imports but those for type checkers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child
        elif not (for_types(child) or isinstance(child, ast.expr)):
            yield from statements(child)


def targets(statement: ast.Import | ast.ImportFrom) -> Iterator[str]:
    """The modules of ours that a statement imports, without `holdfast.`."""
    if isinstance(statement, ast.Import):
        named = [alias.name for alias in statement.names]
    else:
        assert not statement.level, "imports are absolute"
        named = [f"{statement.module}.{alias.name}" for alias in statement.names]
    for full in named:
        package, _, rest = full.partition(".")
        if package == "holdfast":
            # What is imported from a module is that module, unless it is one itself.
            yield rest if rest in modules() else rest.rpartition(".")[0]


@cache
def imports(name: str) -> frozenset[str]:
    """What a module imports when it is imported itself, or later, in a function."""
    return frozenset(target for statement in statements(tree(name)) for target in targets(statement)) - {name}


@cache
def place(name: str) -> tuple[int, int]:
    """Where a module stands: its room, and its place inside, 0 where the room has no order of its own."""
    room = max((room for room in ORDER if f"{name}.".startswith(f"{room}.")), key=len)
    inside = ORDER[room].split()
    return list(ORDER).index(room), inside.index(name.removeprefix(room).removeprefix(".") or ".") if inside else 0


def definitions(name: str) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    return (node for node in ast.walk(tree(name)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


def lines(function: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    """Length in lines, the docstring excluded."""
    text = function.body[0]
    has_text = ast.get_docstring(function) is not None
    return len(span(function)) - (len(span(text)) if has_text else 0)


def span(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def public_functions(name: str) -> Iterator[tuple[str, int]]:
    """Functions, and methods of classes, that others may call, with the number of their positional arguments."""
    scopes = [(tree(name), 0)]
    scopes += [(n, 1) for n in tree(name).body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]
    for scope, bound in scopes:
        for node in ast.iter_child_nodes(scope):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
                static = any(ast.unparse(mark) == "staticmethod" for mark in node.decorator_list)
                yield node.name, len(node.args.posonlyargs) + len(node.args.args) - (0 if static else bound)


@pytest.mark.slow
def test_a_module_has_a_place_and_imports_from_before_it_only():
    named = [name for name in modules() if name]
    assert len(named) > 400
    after = [(name, target) for name in named for target in imports(name) if target and place(target) > place(name)]
    assert sorted(after) == []


@pytest.mark.parametrize("folder", APART)
def test_modules_of_one_folder_do_not_import_each_other(folder):
    members = {name for name in modules() if name.startswith(f"{folder}.")}
    assert members or not (ROOT / folder.replace(".", "/")).exists()
    crossings = sorted((name, target) for name in members for target in imports(name) & members)
    assert crossings == []


def test_no_imports_go_round_in_circles():
    TopologicalSorter({name: imports(name) for name in modules()}).prepare()


@pytest.mark.slow
@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_bring_in_no_torch(name):
    heavy = "('torch', 'transformers', 'datasets', 'pandas', 'altair', 'pyarrow')"
    code = f"import sys, {name}; print(*[m for m in {heavy} if m in sys.modules], file=sys.stderr)"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stderr.split() == []


@pytest.mark.parametrize(
    "name",
    ["records.evidence", "records.hashing", "records", "evaluation.intervals", "evaluation.breaking", "text"],
)
def test_records_and_what_reads_them_need_the_standard_library_only(name):
    imported = {
        full
        for statement in eager(tree(name))
        for full in ([statement.module] if isinstance(statement, ast.ImportFrom) else [a.name for a in statement.names])
    }
    outside = {full for full in imported if full.partition(".")[0] not in sys.stdlib_module_names}
    assert {full.split(".")[1] for full in outside if full.startswith("holdfast.")} <= {"records", "evaluation"}
    assert all(full.startswith("holdfast.") for full in outside)


def test_files_are_written_in_one_place():
    """What is written elsewhere may be left half by a crash: `holdfast.files` writes whole files."""
    loose = re.compile(r"\.write_(text|bytes)\(|os\.(replace|rename)\(")
    assert [name for name in modules() if name != "files" and loose.search(modules()[name].read_text())] == []


def test_losses_hold_functions_and_no_settings():
    held = [
        (name, node.name)
        for name in modules()
        if name.startswith("losses.")
        for node in ast.walk(tree(name))
        if isinstance(node, ast.ClassDef) and any("dataclass" in ast.unparse(mark) for mark in node.decorator_list)
    ]
    assert held == []


def keyed_reads(name: str) -> Iterator[str]:
    """Where a module reads a cell's settings by a key: `cell.data["seed"]`, `evaluation.get("every")`, and so on."""
    for node in ast.walk(tree(name)):
        if isinstance(node, ast.Subscript) and isinstance(node.slice, ast.Constant | ast.JoinedStr):
            held, key = node.value, node.slice
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "get":
            held, key = node.func.value, node.args[0]
        else:
            continue
        inner = held.value if isinstance(held, ast.Subscript) else held
        holder = inner.attr if isinstance(inner, ast.Attribute) else inner.id if isinstance(inner, ast.Name) else ""
        if holder in ("data", "evaluation", "model") and isinstance(getattr(key, "value", ""), str):
            yield f"{name}:{node.lineno}: {ast.unparse(node)}"


KEYED = ("records", "experiment.cell_settings", "experiment.grid", "experiment.as_grid", "experiment.model_seeds")
KEYED += ("config", "packing.figures")
"""Where settings are plain values: cells written and read, grids expanded and parsed."""
READERS = ("experiment", "evaluation", "search", "report", "commands", "judge_training", "api")
READERS += ("gate", "packing", "exports", "published", "watching", "drafting", "generative")


@pytest.mark.slow
def test_settings_of_cells_are_read_by_key_where_they_are_written_or_read_back_only():
    readers = [name for name in modules() if name.partition(".")[0] in READERS and name not in KEYED]
    assert len(readers) >= 100
    assert [read for name in readers for read in keyed_reads(name)] == []


@pytest.mark.slow
def test_functions_are_short():
    long = [(name, f.name, lines(f)) for name in modules() for f in definitions(name) if lines(f) > FUNCTION_LINES]
    assert long == []


def test_a_module_is_short():
    lengths = {name: len(path.read_text().splitlines()) for name, path in modules().items()}
    assert {name: length for name, length in lengths.items() if length > MODULE_LINES} == {}


def test_public_functions_take_few_positional_arguments():
    many = [
        (name, function, count)
        for name in modules()
        if name != "cli"
        for function, count in public_functions(name)
        if count > POSITIONAL
    ]
    assert many == []


def test_the_documentation_says_what_each_room_is_for():
    table = (ROOT.parents[1] / "docs" / "house.md").read_text().partition("| room | content |")[2]
    named = re.findall(r"`(\w+)`", "".join(line.split("|")[1] for line in table.splitlines() if line.startswith("| `")))
    assert sorted(named) == sorted({room.partition(".")[0] for room in ORDER})


def test_no_module_is_named_for_nothing_in_particular():
    vague = {"utils", "util", "helpers", "helper", "manager", "base", "handler", "common", "misc"}
    assert [name for name in modules() if name.rpartition(".")[2] in vague] == []


def test_no_two_test_files_share_a_name():
    """Pytest imports them by their names alone: the second one of a name ends the whole run."""
    names = Counter(path.name for path in Path(__file__).parent.rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []
