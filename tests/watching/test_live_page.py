"""The report with a banner: served to this machine, or kept in a file."""

import http.client
import json
import re
import socket
import threading
import time
from urllib.parse import urlsplit

import pytest

from holdfast import report as report_module
from holdfast import watching
from holdfast.records import HoldfastError
from holdfast.report import is_of, write_report
from holdfast.report.cell_pages import folder_of
from holdfast.watching import building
from holdfast.watching.building import Built
from holdfast.watching.page import page_of
from holdfast.watching.reading import Reader
from holdfast.watching.server import Site, serving

REPORT = (
    '<!DOCTYPE html><html><head><meta name="records" content="abc"><meta content="default-src \'none\'; '
    "script-src 'unsafe-inline'\"><title>Holdfast</title></head><body class='x'><main>figures</main></body></html>"
)


@pytest.fixture
def quick_report(monkeypatch):
    """Reports without figures, each with its number; building real ones takes seconds."""
    written = []

    def write(runs, out, *, title):
        written.append(title)
        out.write_text(REPORT.replace("figures", f"figures {len(written)}"))
        out.with_suffix(".csv").write_text("key,grid")
        folder_of(out).mkdir(exist_ok=True)
        return out

    monkeypatch.setattr("holdfast.report.write_report", write)
    return written


def get(address, path="", *, host=None, method="GET"):
    """Status, headers and text of a path relative to an address."""
    parts = urlsplit(address)
    connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=20)
    where = path if path.startswith("/") else parts.path.rpartition("/")[0] + "/" + path
    connection.request(method, where, headers={"Host": host or parts.netloc})
    answer = connection.getresponse()
    told = answer.status, dict(answer.getheaders()), answer.read().decode()
    connection.close()
    return told


def built(report=REPORT, shown=1):
    return Built(report, "1", shown, time.time())


def begins(page):
    """The first words that a page shows."""
    body = page[page.index("<body") :]
    return " ".join(re.sub(r"<[^>]*>", " ", re.sub(r"(?s)<style>.*?</style>", "", body)).split())[:60]


def test_the_page_of_an_unfinished_run_begins_by_saying_so(invented):
    invented.begin().finish(0).work(1)
    progress = Reader(runs=[invented.folder]).read()
    for report in (built(), None):
        page = page_of(report, progress, title="Holdfast", live=False)
        assert begins(page).startswith("unfinished: running")
        assert "<title>unfinished: " in page
        assert "Holdfast" in page
    assert "the <b>1</b> cell that had ended" in page_of(built(), progress, title="", live=False)
    assert "is being made" in page_of(None, progress, title="", live=False)


@pytest.mark.slow
def test_the_report_of_a_real_run_has_a_place_for_the_banner(invented, tmp_path):
    invented.begin().finish(0).work(1)
    out = tmp_path / "live" / "report.html"
    report = write_report([invented.folder], out, title="Holdfast: invented").read_text()
    page = page_of(built(report), Reader(runs=[invented.folder]).read(), title="", live=True)
    assert begins(page).startswith("unfinished: running")
    assert "default-src 'none'; connect-src 'self';" in page
    out.write_text(page)
    assert not is_of([invented.folder], out, title="Holdfast: invented")  # so that the report replaces it at the end


def test_text_of_others_is_escaped_in_the_banner(invented):
    invented.begin().fail(0, reason="<script>alert(1)</script>\x1b[2J").work(1, running={"k": {"title": "<img src=x>"}})
    page = page_of(built(), Reader(runs=[invented.folder]).read(), title="", live=False)
    assert "<script>alert" not in page
    assert "<img" not in page
    assert "\x1b" not in page
    assert "&lt;script&gt;alert(1)" in page


def test_a_page_without_a_place_for_the_banner_is_refused(invented):
    with pytest.raises(HoldfastError, match="no place for the banner"):
        page_of(built("<p>another page"), Reader(runs=[invented.folder]).read(), title="", live=False)


def test_the_report_is_built_when_records_change_and_seldom_while_that_takes_long(invented, quick_report, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(building.time, "monotonic", lambda: now[0])
    reader = Reader(runs=[invented.begin().work(0).folder])
    report = building.Report(runs=[invented.folder], out=invented.folder / "page.html", title="t", every=3.0)
    report.update(reader.read())
    assert (report.built, quick_report) == (None, [])
    now[0] += 10
    assert report.update(invented.finish(0) and reader.read())
    assert not report.update(reader.read())  # nothing has changed
    invented.finish(1)
    assert not report.update(reader.read())  # too early
    now[0] += 3
    assert report.update(reader.read())
    monkeypatch.setattr("holdfast.report.write_report", lambda runs, out, title: now.__setitem__(0, now[0] + 5))
    now[0] += 3
    assert report.update(invented.finish(2) and reader.read())
    now[0] += 44
    assert not report.update(invented.finish(3) and reader.read())  # five seconds of building are a tenth of fifty
    assert report.update(invented.end() and reader.read())  # the run is over: at once


def test_the_server_gives_the_page_and_its_progress_to_this_machine_alone(invented, tmp_path):
    invented.begin().finish(0)
    secret = tmp_path / "secret.html"
    secret.write_text("not of the run")
    place = tmp_path / "live" / "report.html"
    place.parent.mkdir()
    (place.parent / "report.csv").write_text("key,grid")
    site = Site(place=place, runs=[invented.folder], page=b"the page", progress=b'{"version": "1"}')
    with serving(site) as address:
        assert urlsplit(address).hostname == "127.0.0.1"
        status, headers, _ = get(address)
        assert status == 302
        page = address.replace(urlsplit(address).path, headers["Location"])
        status, headers, text = get(page, headers["Location"])
        assert (status, text) == (200, "the page")
        assert headers["X-Frame-Options"] == "DENY"
        assert "Access-Control-Allow-Origin" not in headers
        assert get(page, "progress")[2] == '{"version": "1"}'
        assert get(page, "report.csv")[2] == "key,grid"
        raw = f"../../..{invented.folder}/cells/{invented.keys[0]}/record.json"
        assert get(page, f"/{site.secret}{invented.folder}/cells/{invented.keys[0]}/record.json")[0] == 200, raw
        for host in ("evil.example", f"evil.example:{urlsplit(page).port}", "127.0.0.1.evil.example", "localhost@evil"):
            assert get(page, "progress", host=host)[0] == 403
        for host in ("localhost", "localhost:9", "[::1]:80"):
            assert get(page, "progress", host=host)[0] == 200
        for path in (
            "/",
            "/progress",
            f"{site.place}",
            f"/x{site.path}",
            f"/{site.secret}{secret}",
            "../../secret.html",
        ):
            assert get(page, path)[0] == 404
        for path in (f"/{site.secret}{invented.folder}/grid.json", f"/{site.secret}/etc/passwd", f"/{site.secret}/%00"):
            assert get(page, path)[0] == 404
        assert get(page, "progress", method="POST")[0] == 501
        status, headers, text = get(page, "progress", method="HEAD")
        assert (status, headers["Content-Length"], text) == (200, "16", "")
        with socket.create_connection((urlsplit(page).hostname, urlsplit(page).port), timeout=20) as bare:
            bare.sendall(f"GET {site.path} HTTP/1.0\r\n\r\n".encode())
            assert b" 403 " in bare.recv(200)  # it does not say whom it calls


def test_a_link_out_of_the_served_folder_is_not_followed(tmp_path):
    (tmp_path / "secret.html").write_text("not of the run")
    place = tmp_path / "live" / "report.html"
    place.parent.mkdir()
    (place.parent / "link.html").symlink_to(tmp_path / "secret.html")
    site = Site(place=place, runs=[])
    assert site.answer(f"/{site.secret}{place.parent}/link.html") is None


def test_a_taken_port_is_refused_by_name(tmp_path):
    site = Site(place=tmp_path / "report.html", runs=[])
    with serving(site) as address:
        port = urlsplit(address).port
        with pytest.raises(HoldfastError, match=f"--port {port}: "), serving(site, port):
            pass


def until(true):
    """Wait for something, not for ever."""
    deadline = time.monotonic() + 60
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alongside(invented, steps):
    """Do steps of a run in another thread, and end the run whatever happens."""

    def do():
        try:
            steps()
        finally:
            for number in range(4):
                invented.finish(number)
            invented.end()

    thread = threading.Thread(target=do)
    thread.start()
    return thread


def test_the_live_page_follows_a_run_to_its_end(invented, quick_report):
    invented.begin().work(0)
    said, seen = [], []

    def steps():
        until(lambda: said)
        address = re.search(r"http://\S+/", said[0])[0]
        path = get(address)[1]["Location"]
        seen.append(begins(get(address, path)[2]))
        invented.finish(0)
        until(lambda: json.loads(get(address, path.rpartition("/")[0] + "/progress")[2])["version"] == "1")
        seen.append(get(address, path)[2])
        for number in (1, 2, 3):
            invented.finish(number)
        invented.end()
        until(lambda: json.loads(get(address, path.rpartition("/")[0] + "/progress")[2])["over"])
        seen.append(get(address, path)[2])  # still served: somebody looks

    other = alongside(invented, steps)
    progress = watching.on_page([invented.folder], said.append, every=0.05)
    other.join()
    assert progress.over
    assert seen[0].startswith("unfinished: running")
    assert "figures 1" in seen[1]
    assert begins(seen[2]).startswith("finished: 4 cells")
    assert f"figures {len(quick_report)}" in seen[2]
    assert "finished: 4 cells" in said[-2]


def test_a_file_is_kept_up_to_date_and_is_the_report_at_the_end(invented, tmp_path, quick_report):
    out, said = tmp_path / "live.html", []
    invented.begin().finish(0).finish(1).finish(2).work(3)

    def steps():
        until(out.exists)
        assert begins(out.read_text()).startswith("unfinished")

    other = alongside(invented, steps)
    assert watching.in_file([invented.folder], out, said.append, every=0.05).over
    other.join()
    assert "watch-progress" not in out.read_text()
    assert f"figures {len(quick_report)}" in out.read_text()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["live.csv", "live.html", "live_cells", "runs"]


def test_the_report_that_is_in_the_file_already_is_not_made_again(invented, tmp_path, quick_report, monkeypatch):
    for number in range(4):
        invented.begin().finish(number)
    asked = []
    monkeypatch.setattr("holdfast.report.is_of", lambda runs, out, title: asked.append((out.name, title)) or True)
    assert watching.in_file([invented.folder], tmp_path / "page.html", print, every=0.05).over
    assert asked == [("page.html", "Holdfast: invented")]
    assert quick_report == []


def test_a_last_report_that_cannot_be_made_ends_the_watch_with_its_reason(invented, tmp_path, monkeypatch):
    for number in range(4):
        invented.begin().finish(number)
    monkeypatch.setattr("holdfast.report.write_report", raising(HoldfastError("the disk is full")))
    out = tmp_path / "page.html"
    with pytest.raises(HoldfastError, match="the disk is full"):
        watching.in_file([invented.folder], out, print, every=0.05)
    assert begins(out.read_text()).startswith("finished: 4 cells")
    assert "the disk is full" in out.read_text()
    assert "<title>unfinished" not in out.read_text()


def test_the_last_report_is_not_made_beside_one_that_is_being_made(invented, tmp_path, monkeypatch):
    made, at_once, begun = [], [], threading.Event()

    def write(runs, out, *, title):
        made.append(out)
        at_once.append(len(made))
        begun.set()
        time.sleep(0.2)
        made.remove(out)
        out.write_text(REPORT)

    monkeypatch.setattr("holdfast.report.write_report", write)
    other = alongside(invented.begin().finish(0).work(1), lambda: begun.wait(60))
    watching.in_file([invented.folder], tmp_path / "page.html", lambda text: None, every=0.05)
    other.join()
    assert at_once == [1, 1]


@pytest.mark.parametrize("show", [watching.in_file, watching.on_page])
def test_a_report_that_never_gets_ready_ends_the_watch_with_what_to_run(invented, tmp_path, monkeypatch, show):
    begun, go_on = threading.Event(), threading.Event()
    monkeypatch.setattr("holdfast.report.write_report", lambda *_, **__: begun.set() or go_on.wait(60))
    monkeypatch.setattr(building, "LONGEST_WAIT", 0.1)
    monkeypatch.setattr(watching, "WAIT", 0.1)
    other = alongside(invented.begin().finish(0).work(1), lambda: begun.wait(60))
    out = [tmp_path / "page.html"] if show is watching.in_file else []
    with pytest.raises(HoldfastError, match=f"not ready after .* `holdfast report {invented.folder}`"):
        show([invented.folder], *out, lambda text: None, every=0.05)
    go_on.set()
    other.join()


def test_a_live_page_is_not_told_to_be_of_the_whole_run_if_its_last_report_cannot_be_made(
    invented, tmp_path, quick_report, monkeypatch
):
    reader = Reader(runs=[invented.begin().finish(0).folder])
    report = building.Report(runs=[invented.folder], out=tmp_path / "p.html", title="t", every=0.0)
    site = Site(place=report.out, runs=[])
    report.update(reader.read())
    for number in (1, 2, 3):
        invented.finish(number)
    monkeypatch.setattr("holdfast.report.write_report", raising(HoldfastError("no room")))
    last = invented.end() and reader.read()
    report.update(last)
    watching._publish(site, report, last)
    assert json.loads(site.progress).items() >= {"over": True, "stale": True, "version": "1"}.items()
    assert 'const watched = {"version": "1", "stale": true}' in site.page.decode()
    assert "its figures are none of the whole run" in site.page.decode()


def test_a_page_without_the_last_report_says_which_cells_it_shows_and_its_links_lead_somewhere(
    invented, tmp_path, quick_report, monkeypatch
):
    invented.begin().finish(0).finish(1).finish(2).work(3)
    out, written = tmp_path / "page.html", report_module.write_report

    def fail_at_the_end(runs, place, *, title):
        if place == out:
            raise HoldfastError("no room")
        return written(runs, place, title=title)

    monkeypatch.setattr("holdfast.report.write_report", fail_at_the_end)
    other = alongside(invented, lambda: until(lambda: out.exists() and "figures" in out.read_text()))
    with pytest.raises(HoldfastError, match="no room"):
        watching.in_file([invented.folder], out, lambda text: None, every=0.05)
    other.join()
    page = out.read_text()
    assert begins(page).startswith("finished: 4 cells")
    assert "<title>not the whole run: " in page
    assert "This page shows the <b>3</b> cells that had ended" in page
    assert folder_of(tmp_path / ".page-live.html").is_dir()


def test_no_second_report_is_begun_beside_one_that_is_being_built(invented, monkeypatch):
    begun, go_on = [], threading.Event()
    monkeypatch.setattr("holdfast.report.write_report", lambda *_, **__: begun.append(1) or go_on.wait(60))
    reader = Reader(runs=[invented.begin().finish(0).work(2).folder])
    report = building.Report(runs=[invented.folder], out=invented.folder / "page.html", title="t", every=0.0)
    report.update_beside(reader.read())
    until(lambda: begun)
    report.update_beside(invented.finish(1) and reader.read())
    assert len(begun) == 1
    go_on.set()
    report.wait(60)
    report._not_before = 0.0
    report.update_beside(reader.read())  # the record that came meanwhile is not forgotten
    report.wait(60)
    assert len(begun) == 2


def test_a_page_that_nobody_looks_at_any_more_is_not_waited_for(tmp_path, monkeypatch):
    monkeypatch.setattr(watching.time, "sleep", lambda seconds: pytest.fail("waited"))
    site = Site(place=tmp_path / "report.html", runs=[], last_asked=time.monotonic() - watching.LOOKED_AT - 1)
    watching._linger(site)


def test_a_link_in_the_place_of_the_file_is_refused(invented, tmp_path):
    (tmp_path / "link.html").symlink_to(tmp_path / "elsewhere.html")
    with pytest.raises(HoldfastError, match="is a link"):
        watching.in_file([invented.folder], tmp_path / "link.html", print, every=0.05)


def test_a_report_that_cannot_be_made_leaves_the_last_one_and_says_why(invented, quick_report, monkeypatch):
    reader = Reader(runs=[invented.begin().finish(0).folder])
    report = building.Report(runs=[invented.folder], out=invented.folder.parent / "p.html", title="t", every=0.0)
    report.update(reader.read())

    for error, told in (
        (HoldfastError("no such folder"), "no such folder"),
        (KeyError("a bug"), "cannot be made: KeyError"),
    ):
        monkeypatch.setattr("holdfast.report.write_report", raising(error))
        report._not_before = 0.0
        report.update(invented.finish(1, reason=told) and reader.read())
        assert report.built.version == "1"
        assert told in report.trouble


def raising(error):
    def write(runs, out, *, title):
        raise error

    return write
