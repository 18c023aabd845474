"""Workers are processes that may die, and other runs may be at work on the same grid."""

import multiprocessing
import os
import signal
import threading
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from filelock import FileLock

from holdfast.experiment import engine, run, store
from holdfast.experiment.tasks import Options
from holdfast.records import HoldfastError, Outcome

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Job:
    key: str
    folder: Path
    needs: tuple[str, ...] = ()
    act: str = "write"
    after: tuple[str, ...] = ()


def done(job):
    return (job.folder / "done").exists()


def do(job, report):
    report({"step": 1, "max_steps": 2})
    print(f"at work on {job.key}")
    if job.act == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if job.act == "real-time":
        os.kill(os.getpid(), signal.SIGRTMIN + 3)
    if job.act == "leave":
        os._exit(3)
    if job.act == "raise":
        raise HoldfastError("first line\nsecond line")
    if job.act == "sleep":
        time.sleep(0.5)
    if job.act == "sleep and name the device":
        time.sleep(0.3)
        (job.folder / "device").write_text(os.environ["CUDA_VISIBLE_DEVICES"])
    with (job.folder / "done").open("a") as file:
        file.write("x")


def fail(job, reason):
    job.folder.mkdir(exist_ok=True)
    (job.folder / "failed").write_text(reason)


def nothing_said(job):
    return "it wrote no record"


WORK = engine.Work(do=do, finished=done, fail=fail, reason=nothing_said)


@pytest.fixture
def work(tmp_path):
    """Runs jobs given as {key: (act, *needs)} with two workers; returns what failed and what was told."""

    def carry(jobs, workers=2):
        pieces = [Job(key, tmp_path / key, tuple(needs), act) for key, (act, *needs) in jobs.items()]
        told = []
        failed = engine.run(pieces, WORK, lambda job, state, details: told.append((job.key, state)), workers=workers)
        return failed, told

    return carry


def lock_on(folder):
    """A lock as another run would hold it; any thread may release it."""
    folder.mkdir()
    return FileLock(folder / ".lock", thread_local=False)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_every_piece_is_done_once_and_after_what_it_needs(work, tmp_path, workers):
    failed, told = work({"a": ("write",), "b": ("write", "a"), "c": ("write", "a", "b")}, workers)
    assert failed == {}
    assert [entry for entry in told if entry[1] in ("started", "done")] == [
        (key, state) for key in "abc" for state in ("started", "done")
    ]
    assert [(tmp_path / key / "done").read_text() for key in "abc"] == ["x"] * 3


@pytest.mark.parametrize(
    ("act", "reason"),
    [
        ("die", "the process was killed by SIGKILL (usually out of memory)"),
        ("real-time", f"the process was killed by signal {signal.SIGRTMIN + 3}"),
        ("leave", "the process ended with exit code 3"),
        ("raise", "first line second line"),
    ],
)
def test_a_piece_that_ends_badly_takes_down_what_needs_it_and_nothing_else(work, tmp_path, act, reason):
    failed, told = work({"a": (act,), "b": ("write", "a"), "c": ("write",)})
    assert failed == {"a": reason, "b": reason}
    assert (tmp_path / "a" / "failed").read_text() == reason
    assert (tmp_path / "b" / "failed").read_text() == f"not attempted: {reason}"
    assert (tmp_path / "c" / "done").exists()
    assert ("c", "done") in told


@pytest.mark.parametrize("workers", [0, 2])
def test_a_piece_waits_for_what_comes_before_it_and_is_done_even_if_that_fails(tmp_path, workers):
    first = Job("a", tmp_path / "a", act="die" if workers else "write")
    pieces = [first, Job("b", tmp_path / "b", after=("a", "elsewhere"))]
    told = []
    failed = engine.run(pieces, WORK, lambda job, state, details: told.append((job.key, state)), workers=workers)
    assert set(failed) == ({"a"} if workers else set())
    assert [entry for entry in told if entry[1] == "started"] == [("a", "started"), ("b", "started")]
    assert told.index(("b", "started")) > told.index(("a", "failed" if workers else "done"))
    assert (tmp_path / "b" / "done").exists()


def test_what_a_worker_prints_is_kept_beside_its_work(work, tmp_path, capfd):
    work({"a": ("write",)})
    assert "at work on a" in (tmp_path / "a" / "log.txt").read_text().splitlines()
    assert "at work" not in capfd.readouterr().out


def test_a_piece_that_another_run_works_on_is_waited_for_and_not_done_again(work, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "BUSY_WAIT", 0.1)
    lock = lock_on(tmp_path / "a")
    lock.acquire()

    def finish():
        (tmp_path / "a" / "done").write_text("theirs")
        lock.release()

    timer = threading.Timer(0.6, finish)
    timer.start()
    failed, told = work({"a": ("write",), "b": ("write", "a")})
    timer.join()
    assert failed == {}
    assert (tmp_path / "a" / "done").read_text() == "theirs"
    assert told.count(("a", "waiting")) == 1
    assert ("a", "started") not in told
    assert told.count(("a", "done")) == told.count(("b", "done")) == 1


def test_a_piece_that_another_run_takes_at_the_last_moment_is_no_failure(work, tmp_path, monkeypatch):
    monkeypatch.setattr(engine, "BUSY_WAIT", 0.1)
    lock = lock_on(tmp_path / "a")
    looks = []

    def locked(piece):
        """Free at the first look, and taken before the worker that was then started gets there; free again later."""
        looks.append(piece.key)
        if len(looks) == 1:
            lock.acquire()
        else:
            lock.release()
        return False

    monkeypatch.setattr(engine, "locked", locked)
    failed, told = work({"a": ("write",)})
    assert failed == {}
    assert told.count(("a", "waiting")) == 1
    assert (tmp_path / "a" / "done").read_text() == "x"
    assert not (tmp_path / "a" / "failed").exists()


def test_two_schedulers_at_once_do_each_piece_once(tmp_path):
    jobs = [Job(str(i), tmp_path / str(i), (str(i - 1),) if i % 3 == 2 else (), "sleep") for i in range(6)]
    results = []
    threads = [
        threading.Thread(target=lambda: results.append(engine.run(jobs, WORK, lambda *_: None, workers=2)))
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [{}, {}]
    assert [(job.folder / "done").read_text() for job in jobs] == ["x"] * 6


class Killer:
    """News that kills the one worker once its cell has reported `step`, and remembers the steps that were told."""

    def __init__(self, step, title=""):
        self.step, self.title = step, title
        self.steps, self.killed = [], False

    def __call__(self, piece, state, details):
        if state != "progress" or piece.kind != "cell" or self.title not in piece.title:
            return
        self.steps.append(details["step"])
        if self.step is not None and details["step"] >= self.step and not self.killed:
            self.killed = True
            (worker,) = multiprocessing.active_children()
            os.kill(worker.pid, signal.SIGKILL)


@pytest.fixture
def attacks(sft):
    """SFT and GRPO, long enough to be killed on the way."""
    grpo = {
        "optim": {"max_steps": 8, "learning_rate": 1e-3, "per_device_train_batch_size": 2},
        "policy": {"group_size": 2, "passes": 2, "kl_coef": 0.1},
        "reward": {"judge": "keyword"},
    }
    return [sft(optim={"max_steps": 8}), {"grpo": grpo}]


@pytest.fixture
def solo(tmp_path_factory, grid, attacks):
    """The grid of both attacks run without trouble and without checkpoints."""
    folder = tmp_path_factory.mktemp("solo")
    run(grid(attacks=attacks), folder, workers=1, options=Options(checkpoint_every=0))
    return folder


def test_a_killed_worker_costs_its_own_cell_only_and_the_next_run_goes_on_from_the_checkpoint(
    grid, attacks, solo, result, tmp_path
):
    options = Options(checkpoint_every=2)
    for title, attack in zip(("sft", "grpo"), attacks, strict=True):
        two = grid(attacks=[attack, "none"])
        killer = Killer(5, title)
        records = run(two, tmp_path / title, workers=1, options=options, news=killer)
        failed = [record for record in records if record.outcome is Outcome.FAILED]
        assert [record.cell.attack.name for record in failed] == [title]
        assert failed[0].reason.startswith("the process was killed by SIGKILL")

        place = store.cell_folder(tmp_path / title, failed[0].key)
        assert list(place.glob("training/checkpoint-*/holdfast_costs.json"))
        second = Killer(None, title)
        run(two, tmp_path / title, workers=1, options=options, news=second)
        assert second.steps[0] >= 4
        assert second.steps[0] % 2 == 0
        again = result(store.cell_folder(tmp_path / title, records[0].key))
        assert again == result(store.cell_folder(solo, records[0].key))
        assert not list(tmp_path.rglob("*.safetensors"))


@pytest.mark.parametrize("moment", ["completions written", "training discarded", "record written"])
def test_a_cell_killed_after_its_last_step_ends_as_if_it_had_not_been(
    grid, finished, result, *, monkeypatch, tmp_path, moment
):
    from holdfast.experiment import attacking as pieces
    from holdfast.experiment.progress import ProgressRecorder

    class Killed(BaseException):
        pass

    def killed(*_, **__):
        raise Killed

    with monkeypatch.context() as patch:
        if moment == "completions written":
            patch.setattr(store, "discard", killed)
        elif moment == "training discarded":
            patch.setattr(pieces, "_write_config", killed)
        else:
            patch.setattr(ProgressRecorder, "clear", killed)
        with pytest.raises(Killed):
            run(grid(), tmp_path, workers=0, options=Options(checkpoint_every=2))
    (record,) = run(grid(), tmp_path, workers=0, options=Options(checkpoint_every=2))
    folder, reference = finished
    assert record.key == reference.key
    assert result(store.cell_folder(tmp_path, record.key)) == result(store.cell_folder(folder, record.key))


def test_a_crash_while_checkpoints_are_discarded_leaves_none_that_looks_whole(monkeypatch, tmp_path):
    folder = tmp_path / "training"
    (folder / "checkpoint-2").mkdir(parents=True)
    monkeypatch.setattr(store.shutil, "rmtree", partial(_stop_at_existing))
    with pytest.raises(KeyboardInterrupt):
        store.discard(folder)
    assert not folder.exists()
    monkeypatch.undo()
    store.discard(folder)
    assert list(tmp_path.iterdir()) == []


def _stop_at_existing(path, ignore_errors):
    if path.exists():
        raise KeyboardInterrupt


def test_each_worker_sees_one_gpu_and_takes_the_one_that_is_free(tmp_path):
    jobs = [Job(key, tmp_path / key, act="sleep and name the device") for key in "abcd"]
    assert not engine.run(jobs, WORK, lambda *_: None, workers=2, devices=("0", "GPU-1a2b"))
    used = [(job.folder / "device").read_text() for job in jobs]
    assert sorted(used[:2]) == ["0", "GPU-1a2b"]
    assert sorted(used[2:]) == ["0", "GPU-1a2b"]


def test_workers_that_there_is_nothing_to_do_for_take_no_part_of_a_gpu(tmp_path, monkeypatch):
    shares, start = [], engine._start
    monkeypatch.setattr(engine, "_start", lambda *args: shares.append(args[-1]) or start(*args[:-2], None, 1.0))
    engine.run([Job("a", tmp_path / "a")], WORK, lambda *_: None, workers=8, devices=("0", "1"))
    assert shares == [1.0]
