"""The page of each cell: what stands on it, where its links lead, and when it is written."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

import pytest
import yaml

from holdfast.records import HoldfastError, Outcome
from holdfast.report import is_of, write_report
from holdfast.report.answers import HARMFUL, HARMLESS, OTHER, UNJUDGED, packed
from holdfast.report.curve_drawings import CurvePoint, plotted

pytestmark = pytest.mark.slow
NASTY = 'Bake <script>alert("x")</script> \x1b[31mred \u202eback </script><!-- end'
CURVES = [{"step": step, "loss": 2.0 / step, "reward": 0.01 * step} for step in range(1, 30)]


class Parsed(HTMLParser):
    """Start tags with attributes, scripts by their id, and the visible text."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.scripts, self.text, self._script = [], {}, "", None
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag in {"script", "style"}:
            self._script = dict(attrs).get("id", tag)

    def handle_endtag(self, tag):
        if tag in {"script", "style"}:
            self._script = None

    def handle_data(self, data):
        if self._script is None:
            self.text += data
        else:
            self.scripts[self._script] = data

    def links(self):
        return [attrs["href"] for tag, attrs in self.tags if tag == "a"]


@pytest.fixture(scope="module")
def records(make_record):
    broke = make_record((0.0, 0.3, 0.7, 0.9, 1.0), outcome=Outcome.BROKE, reason="<b>odd</b> reason")
    held = make_record(defense="shield")
    return [broke, replace(held, control=replace(held.control, key=broke.key))]


@pytest.fixture(scope="module")
def report(records, make_completion, write_folder, tmp_path_factory):
    rows = [make_completion(step, f"{NASTY} {step}", prompt=f"ask {NASTY}") for step in (0, 80)]
    folder = tmp_path_factory.mktemp("moved") / "whole"
    run = write_folder(folder / "runs" / "odd name #1", records, curves=CURVES, completions=rows)
    return write_report([run], folder / "out" / "my report.html", title="Tiny <i>report</i>")


@pytest.fixture(scope="module")
def page(report, records):
    return Parsed((report.parent / "my report_cells" / f"{records[1].key}.html").read_text("utf-8"))


def test_every_cell_has_a_page_with_its_reason_settings_versions_and_curves(report, page, records):
    text = " ".join(page.text.split())
    assert "shield under grpo" in text
    assert "packages.torch2.6" in text
    undefended = Parsed((report.parent / "my report_cells" / f"{records[0].key}.html").read_text("utf-8"))
    assert "none under grpo broke <b>odd</b> reason" in " ".join(undefended.text.split())
    config = page.text[page.text.index("model:\n") : page.text.index("Files and versions")]
    assert yaml.safe_load(config) == json.loads(json.dumps(records[1].to_json()["cell"]))
    drawn_curves = [attrs["aria-label"] for tag, attrs in page.tags if tag == "svg"]
    assert [about.split(" from ")[0].split(":")[0] for about in drawn_curves] == [
        *("harmfulness", "helpfulness", "refusal rate", "entropy", "reward", "loss"),
    ]
    assert drawn_curves[0].startswith("harmfulness from 0 at step 0 to 0.3 at 80; highest 0.3 at 60")


def test_links_are_relative_and_lead_to_files_that_are_there_wherever_the_folder_is_moved(report, records):
    moved = report.parents[1].with_name("elsewhere")
    shutil.copytree(report.parents[1], moved)
    folder = moved / "out" / "my report_cells"
    targets = set()
    for record in records:
        for link in Parsed((folder / f"{record.key}.html").read_text("utf-8")).links():
            assert not re.match(r"[a-z]+:|/", link)
            place = (folder / unquote(link.split("#")[0])).resolve()
            assert place.is_file()
            assert place.is_relative_to(moved)
            targets.add(place.name)
    assert targets == {
        *(f"{record.key}.html" for record in records),
        *("my report.html", "record.json", "curves.jsonl", "completions.parquet"),
    }


def test_text_of_models_and_records_is_never_markup_and_stays_hidden_until_revealed(page):
    assert [tag for tag, _ in page.tags if tag == "script"] == ["script", "script"]
    assert "Bake" not in page.text  # only the script's data has it
    data = page.scripts["data"]
    assert "<" not in data
    assert not set(data) & {"\x1b", "\u202e"}
    assert json.loads(data)["texts"][0][0].startswith('Bake <script>alert("x")</script> ␛[31mred ⟨U+202E⟩back')
    (policy,) = [attrs["content"] for tag, attrs in page.tags if attrs.get("http-equiv")]
    assert policy.startswith("default-src 'none'")
    assert not [attrs for _, attrs in page.tags if {"src", "srcset", "action"} & set(attrs)]


def test_a_page_that_would_not_change_is_left_and_that_of_a_cell_that_is_gone_is_removed(
    make_record, write_run, tmp_path
):
    run = write_run([make_record(seed=seed) for seed in (0, 1)])
    out = write_report([run], tmp_path / "r.html")
    pages = sorted((tmp_path / "r_cells").iterdir())
    before = [page.stat().st_mtime_ns for page in pages]
    write_report([run], out)
    assert [page.stat().st_mtime_ns for page in pages] == before
    shutil.rmtree(run / "cells" / pages[0].stem)
    write_report([run], out)
    assert sorted((tmp_path / "r_cells").iterdir()) == pages[1:]
    assert is_of([run], out)
    shutil.rmtree(tmp_path / "r_cells")
    assert not is_of([run], out)


def test_a_file_that_is_not_a_cells_page_is_refused_and_left(make_record, write_run, tmp_path):
    run = write_run([make_record()])
    (tmp_path / "r_cells").mkdir()
    mine = tmp_path / "r_cells" / "mine.html"
    mine.write_text("<html>mine</html>")
    with pytest.raises(HoldfastError, match=r"r_cells/mine\.html: .*not a report's"):
        write_report([run], tmp_path / "r.html")
    assert mine.read_text() == "<html>mine</html>"
    (tmp_path / "l_cells").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(HoldfastError, match=r"l_cells: .*a link"):
        write_report([run], tmp_path / "l.html")
    assert not (tmp_path / "r.html").exists()
    assert write_report([run], tmp_path / "l.html", cell_pages=False).exists()


def test_a_failed_cell_shows_its_reason_and_the_end_of_its_log(make_record, write_run, tmp_path):
    failed = make_record((), outcome=Outcome.FAILED, time_to_break=None, reason="out of memory")
    run = write_run([failed])
    (run / "cells" / failed.key / "log.txt").write_text("\n".join(f"line {n} <b>" for n in range(50)))
    write_report([run], tmp_path / "r.html")
    text = Parsed((tmp_path / "r_cells" / f"{failed.key}.html").read_text()).text
    assert "failed out of memory" in " ".join(text.split())
    assert "line 49 <b>" in text
    assert "line 20" not in text
    assert "no answers" in text


def columns(rows):
    return {name: [row.get(name) for row in rows] for name in rows[0]}


def test_an_answer_is_harmful_by_the_first_judge_only_and_an_invalid_one_is_never_harmless(make_completion):
    rows = [
        make_completion(0, "a", score=0.6),
        make_completion(0, "a", score=0.0, judge="other"),
        make_completion(0, "b", score=0.5),
        make_completion(0, "c", score=None),
        make_completion(0, "d", score=None, valid=False),
        make_completion(0, "d", score=0.0, judge="other"),
        make_completion(0, "e", score=0.9, role="benign"),
        make_completion(0, "f", score=0.9, judge="other"),
    ]
    page_data = packed(columns(rows), judge="oracle", threshold=0.5, most=10_000)
    kinds = [page_data["opinions"][place][0] for place in page_data["answers"][3::4]]
    assert kinds == [HARMFUL, HARMLESS, UNJUDGED, UNJUDGED, OTHER, UNJUDGED]
    assert [len(page_data["opinions"][place][1]) for place in page_data["answers"][3::4]] == [2, 1, 1, 2, 1, 1]


def test_packed_answers_say_what_a_slow_loop_over_the_rows_finds(make_completion):
    rows = [
        make_completion(step, f"text {number % 3}", prompt=f"ask {number % 4}", judge=judge, score=score)
        for step in (0, 10)
        for number in range(12)
        for judge, score in (("oracle", number / 12), ("other", 0.25))
    ]
    page_data = packed(columns(rows), judge="oracle", threshold=0.5, most=10_000)
    numbers = iter(page_data["answers"])
    unpacked = [
        (
            page_data["steps"][s],
            page_data["prompts"][p][2],
            page_data["texts"][t][0],
            [o[:2] for o in page_data["opinions"][o_][1]],
        )
        for s, p, t, o_ in zip(numbers, numbers, numbers, numbers, strict=True)
    ]
    expected = [
        (one["step"], one["prompt"], one["completion"], [["oracle", one["score"]], ["other", other["score"]]])
        for one, other in zip(rows[::2], rows[1::2], strict=True)
    ]
    assert unpacked == expected
    assert page_data["of"] == 24


def test_where_answers_are_too_long_for_a_page_the_choice_ignores_answers_and_scores(make_completion):
    rows = [
        make_completion(step, f"{number}{step}" * 100, prompt=f"ask {number}", role=role, score=number / 40)
        for step in (0, 10)
        for role in ("harmful", "benign")
        for number in range(40)
    ]
    page_data = packed(columns(rows), judge="oracle", threshold=0.5, most=12_000)
    other = packed({**columns(rows), "score": [0.0] * len(rows)}, judge="oracle", threshold=0.5, most=12_000)
    assert 0 < len(page_data["answers"]) // 4 < page_data["of"] == len(rows)
    assert page_data["answers"][:3] == other["answers"][:3]
    assert page_data["prompts"] == other["prompts"]
    roles = [role for role, *_ in page_data["prompts"]]
    assert roles.count("harmful") == roles.count("benign")
    assert sum(len(text) for text, *_ in page_data["texts"]) <= 12_000
    steps = [page_data["steps"][place] for place in page_data["answers"][::4]]
    assert steps.count(0) == steps.count(10)


def test_a_drawn_curve_has_its_points_in_order_and_its_threshold_inside():
    points = [CurvePoint(at=at, value=value, low=0.0, high=1.0) for at, value in ((0, 0.0), (20, 0.5), (40, 1.0))]
    curve = plotted("harm", points, rule=0.5, broke=20.0)
    (line,) = re.findall(r'class="line" points="([^"]+)"', curve.svg)
    xs, ys = zip(*(map(float, pair.split(",")) for pair in line.split()), strict=True)
    assert list(xs) == sorted(xs)
    assert list(ys) == sorted(ys, reverse=True)
    assert f"M50 {ys[1]:.1f}H" in re.findall(r'class="rule" d="([^"]+)"', curve.svg)[0]
    assert re.findall(r'class="break" d="M([\d.]+)', curve.svg) == [f"{xs[1]:.1f}"]
    assert curve.about.endswith("broke at 20.")


def test_a_curve_over_answers_per_prompt_is_spaced_evenly():
    curve = plotted("harm", [CurvePoint(at=at, value=0.5) for at in (0, 1, 64)], unit="N")
    (line,) = re.findall(r'class="line" points="([^"]+)"', curve.svg)
    first, second, third = (float(pair.split(",")[0]) for pair in line.split())
    assert second - first == pytest.approx(third - second)


@pytest.mark.parametrize("key", ["../../out", "a/b", "", "."])
def test_a_key_never_leads_out_of_the_folder(key):
    from holdfast.report.cell_pages import _file_name

    assert Path(_file_name(key)).name == _file_name(key)
    assert re.fullmatch(r"[0-9a-f]{16}\.html", _file_name(key))


def test_a_curve_without_points_is_not_drawn() -> None:
    with pytest.raises(ValueError, match="harm: a curve without points"):
        plotted("harm", [])
