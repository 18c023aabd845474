"""The published tables of the package: facts that equal their transcription, and readable rows."""

from pathlib import Path

import pytest
import yaml

from holdfast.published import tables
from holdfast.published.tables import METRICS, Reported, names, published
from holdfast.records import HoldfastError, digest

FILES = sorted(Path(tables.__file__).parent.glob("*.yaml"))
TRANSCRIBED = Path(__file__).parents[3] / "shared" / "papers"


def test_every_table_of_the_unsafe_feedback_paper_ships_with_its_number_of_rows():
    rows = {name.removeprefix("rpa_"): len(published(name).rows) for name in names() if name.startswith("rpa_")}
    assert rows == {
        "table_1": 8,
        "table_3": 26,
        "table_4": 36,
        "table_5": 12,
        "table_6": 72,
        "table_7": 13,
        "table_8": 80,
        "table_9": 24,
        "table_10": 4,
        "table_11": 4,
        "figure_2": 1,
        "figure_3": 0,
        "text_values": 2,
    }


@pytest.mark.slow
def test_the_numbers_are_those_that_were_transcribed():
    """A hash of all rows, so that no number changes unnoticed where the transcription is not at hand."""
    values = yaml.safe_load((FILES[0].parent / "rosati2024_unsafe_feedback.yaml").read_text())
    assert digest({key: table["rows"] for key, table in values["tables"].items()}) == "5cb2f8cd9589be1c"


@pytest.mark.slow
@pytest.mark.parametrize("path", [path for path in FILES if (TRANSCRIBED / path.name).exists()], ids=lambda p: p.stem)
def test_the_numbers_equal_the_transcription(path):
    source, own = (yaml.safe_load(place.read_text()) for place in (TRANSCRIBED / path.name, path))
    assert own["tables"]
    for key, table in own["tables"].items():
        assert table["rows"] == source[key]["rows"], key
        assert table["metrics"] == source[key]["metrics"], key


def test_every_row_of_every_table_can_be_read_and_names_its_paper():
    assert sum(bool(published(name).rows) for name in names()) >= 3
    for name in names():
        table = published(name)
        assert "arXiv" in table.source
        assert set(table.metrics) <= set(METRICS)
        for row in table.rows:
            assert row.attacks
            assert bool(row.values) == (row.state in ("printed", "collapsed")), (name, row)


def test_figures_from_second_sources_are_flagged():
    for name in ("tokenbuncher_objective_1", "tokenbuncher_rl_and_sft", "reward_neutralization_results"):
        table = published(name)
        assert all(row.ambiguous for row in table.rows)
        assert any("second source" in note or "not named" in note for note in table.notes)
    means = {
        (row.dataset, row.defense): row.values["harmfulness"].middle
        for row in published("tokenbuncher_objective_1").rows
    }
    assert means["harmbench", "token_buncher"] == 0.0028
    assert means["strongreject", "none"] == 0.75
    assert published("tokenbuncher_objective_1").rows[0].n == 400


def test_dashes_and_collapsed_models_are_told_apart():
    states = {(row.attack, row.dataset, row.defense): row.state for row in published("rpa_table_3").rows}
    assert states["dpo", "beavertails", "vaccine"] == "collapsed"
    assert states["ppo", "beavertails", "vaccine"] == "failed"
    assert [row.state for row in published("rpa_table_9").rows].count("not run") == 5
    assert all(row.ambiguous for row in published("rpa_table_5").rows)


def test_what_a_table_states_for_all_rows_is_assumed_of_each():
    lisa = next(row for row in published("rpa_table_3").rows if row.defense == "lisa")
    assert lisa.assumed["rho"] == 100
    assert lisa.assumed["num_samples"] == 1000
    assert lisa.settings == {}
    assert "num_samples" not in published("rpa_table_6").rows[0].assumed


def test_an_unknown_table_is_refused_with_the_most_similar_name():
    with pytest.raises(HoldfastError, match="rpa_table_3"):
        published("rpa_tabel_3")


def test_a_range_is_read_and_other_values_are_refused_by_table_and_row(tmp_path):
    text = "prefix: x\npaper: {title: t, authors: a, arxiv: '1'}\nthreshold: 0.5\ntables:\n  table_1:\n"
    text += "    title: t\n    place: Table 1\n    metrics: [harmfulness]\n    rows:\n"
    row = "      - {{attack: [grpo, ppo], dataset: null, defense: none, harmfulness: {}}}\n"
    path = tmp_path / "x.yaml"
    path.write_text(text + row.format("[0.7, 0.9]"))
    (table,) = tables.read(path)
    assert table.rows[0].values == {"harmfulness": Reported(low=0.7, high=0.9)}
    assert table.rows[0].attacks == ("grpo", "ppo")
    path.write_text(text + row.format("[0.9, 0.7]"))
    with pytest.raises(HoldfastError, match="table_1, row 1: harmfulness"):
        list(tables.read(path))
    for odd in ("harmfulness: 0.5, rho: [1]", "harmfulness: 0.5, perplexity: 3"):
        path.write_text(text + f"      - {{attack: grpo, dataset: null, defense: none, {odd}}}\n")
        with pytest.raises(
            HoldfastError, match=r"table_1, row 1: (rho|a metric that the table does not name) cannot be"
        ):
            list(tables.read(path))
