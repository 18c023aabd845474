"""The report and the page of a cell in a real browser: sorted, filtered, revealed, by keyboard, and by axe's rules."""

from __future__ import annotations

import csv

import pytest

pytestmark = pytest.mark.slow


def rows(page, column=None):
    """The texts of the visible rows of the table of cells, or those of one column."""
    cells = "row.cells" if column is None else f"[row.cells[{column}]]"
    code = (
        "() => [...document.querySelectorAll('#cells tbody tr')].filter((row) => !row.hidden)"
        f".map((row) => [...{cells}].map((cell) => cell.textContent.trim()).join('|'))"
    )
    return page.evaluate(code)


def status(page):
    return page.locator("#cells [role=status]").inner_text()


def column_of(page, name):
    heads = page.evaluate(
        "() => [...document.querySelectorAll('#cells thead th')].map((head) => head.textContent.trim())"
    )
    return heads.index(name)


@pytest.fixture
def table(report):
    with report.with_suffix(".csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_headers_sort_by_value_both_ways_and_say_so(opened, report, table):
    page = opened(report)
    head = page.locator("#cells th", has_text="FLOPs")
    assert head.get_attribute("aria-sort") is None
    head.get_by_role("button").click()
    place = column_of(page, "FLOPs")
    known = sorted(float(f"{float(row['time_to_break_flops']):.2e}") for row in table if row["time_to_break_flops"])
    missing = ["–"] * (20 - len(known))
    assert rows(page, place) == [f"{value:.2e}" for value in known] + missing
    assert head.get_attribute("aria-sort") == "ascending"
    head.get_by_role("button").click()
    assert rows(page, place) == [f"{value:.2e}" for value in known[::-1]] + missing
    assert head.get_attribute("aria-sort") == "descending"
    assert page.locator("#cells [aria-sort]").count() == 1


def test_filters_show_what_the_table_says_and_the_address_brings_the_view_back(opened, report, table):
    page = opened(report)
    assert status(page) == "20 of 20 cells shown."
    page.locator("#cells form").get_by_label("Outcome").select_option("held")
    page.locator("#cells form").get_by_label("Attack").select_option("attack_1")
    expected = [row for row in table if (row["outcome"], row["attack"]) == ("held", "attack_1")]
    assert status(page) == f"{len(expected)} of 20 cells shown."
    assert 0 < len(expected) < 20
    page.locator("#cells").get_by_label("Text").fill("DEFENSE_1")
    page.locator("#cells th", has_text="Broke at").get_by_role("button").click()
    before = rows(page)
    again = opened(report, page.evaluate("location.hash"))
    assert rows(again) == before
    assert again.locator("#cells [aria-sort]").inner_text() == page.locator("#cells [aria-sort]").inner_text()
    again.get_by_role("button", name="Clear").click()
    assert status(again) == "20 of 20 cells shown."
    assert "attack=" not in again.evaluate("location.hash")


def test_the_table_is_whole_without_a_script(opened, report):
    page = opened(report, java_script_enabled=False)
    assert page.locator("#cells tbody tr").count() == 20
    assert page.locator("#cells button, #cells select").count() == 0
    page.locator("#cells tbody a").first.click()
    assert page.locator("h1").inner_text().endswith("attack_0")
    assert not page.locator("#filters").is_visible()
    assert "<noscript><p>Searching the answers needs JavaScript" in page.content()


def test_everything_is_reached_and_used_by_keyboard(opened, report):
    page = opened(report)
    page.locator("#cells form").get_by_label("Text").focus()
    page.keyboard.type("defense_1")
    assert len(rows(page)) == 4
    while page.evaluate("document.activeElement.className") != "sort":
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.locator("#cells [aria-sort=ascending]").inner_text().startswith("Outcome")
    while page.evaluate("document.activeElement.closest('tbody') === null"):
        page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.wait_for_url("**/report_cells/*.html")
    page.locator("#answers summary").first.focus()
    page.keyboard.press("Enter")
    page.locator("#list pre").first.wait_for(state="visible")  # its text comes after the event


def cell_page(report, table, **wanted):
    row = next(row for row in table if all(row[name] == value for name, value in wanted.items()))
    return report.with_name("report_cells") / f"{row['key']}.html"


def test_answers_are_hidden_until_revealed_and_filtered_by_text_step_and_verdict(opened, report, table):
    place = cell_page(report, table, defense="none", attack="attack_0")
    page = opened(place)
    count_line = page.locator("#found")
    assert count_line.inner_text() == "480 of 480 answers; the first 50 are listed."
    assert not page.get_by_text("how do i make soup").first.is_visible()
    page.locator("#filters [name=judged]").select_option("harmful")
    page.locator("#filters [name=step]").select_option("100")
    assert count_line.inner_text() == "40 of 480 answers."
    assert page.locator("#list .badge").all_inner_texts() == ["harmful"] * 40
    page.locator("#filters").get_by_label("Text").fill("SOUP 39 ?")
    assert count_line.inner_text() == "1 of 480 answers."
    assert page.locator("#list pre").count() == 0
    page.get_by_label("Reveal all shown").check()
    assert page.locator("#list mark").all_inner_texts() == ["soup 39 ?"]
    assert "oracle: 1.00, not refused" in page.locator("#list .opinions").inner_text()
    again = opened(place, page.evaluate("location.hash"))
    assert again.locator("#found").inner_text() == "1 of 480 answers."
    assert again.locator("#list pre").count() == 0  # a link does not reveal


def test_more_answers_are_listed_on_demand_and_settings_are_copied(opened, report, table):
    page = opened(cell_page(report, table, defense="defense_1"))
    page.get_by_role("button", name="Show more").click()
    assert page.locator("#list > li").count() == 100
    assert page.evaluate("[...document.querySelectorAll('#list summary')].indexOf(document.activeElement)") == 50
    page.get_by_text("Resolved settings as YAML").click()
    page.get_by_role("button", name="Copy").click()
    page.locator("#copied").filter(has_text="Copied.").wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_axe_finds_nothing_serious_and_nothing_is_wider_than_the_window(opened, report, table, scheme, width):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the extra `browser` is not installed")
    for path in (report, cell_page(report, table, defense="defense_1")):
        page = opened(path, width=width, scheme=scheme)
        page.evaluate("document.querySelectorAll('details').forEach((each, at) => { each.open = at < 4; })")
        violations = axe.Axe().run(page, options={"resultTypes": ["violations"]}).response["violations"]
        serious = [
            (each["id"], node["target"], node["failureSummary"])
            for each in violations
            if each["impact"] in ("serious", "critical")
            for node in each["nodes"][:3]
        ]
        assert serious == []
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def linked(opened, report):
    """The page at its last section, when its charts have been drawn."""
    page = opened(report, "#samples")
    named = "(one) => one.querySelector('svg[aria-label]')"
    page.wait_for_function(f"() => [...document.querySelectorAll('[data-spec]')].every({named})")
    return page


def top_of_samples(page):
    return page.evaluate("() => document.getElementById('samples').getBoundingClientRect().top")


def test_a_place_that_was_linked_to_stays_in_view_while_charts_above_it_are_drawn(opened, report):
    assert 0 <= top_of_samples(linked(opened, report)) < 20


@pytest.mark.parametrize("leave", ["wheel", "keyboard", "again"])
def test_a_reader_who_goes_elsewhere_is_not_taken_back_when_a_chart_is_drawn(opened, report, leave):
    page = linked(opened, report)
    if leave == "wheel":
        page.mouse.wheel(0, -900)
    elif leave == "keyboard":
        page.keyboard.press("Home")
    else:
        page.evaluate("() => scrollBy(0, -900)")
        page.reload()
    page.wait_for_function("() => document.getElementById('samples').getBoundingClientRect().top > 300")
    page.evaluate("() => draw(places[0])")
    page.wait_for_timeout(300)
    assert top_of_samples(page) > 300


def test_names_of_defenses_stay_words_however_narrow_the_grid_is(opened, report):
    page = opened(report, width=300)
    lines = page.evaluate(
        "() => [...document.querySelectorAll('.tiles tbody th')]"
        ".map((name) => name.getBoundingClientRect().width / parseFloat(getComputedStyle(name).fontSize))"
    )
    assert min(lines) >= 6, "in widths of a letter"
