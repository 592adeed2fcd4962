"""Runs that have not begun, are on their way, half-written or finished."""

import json
import os
import threading
import time

import pytest

from dinomix.runs.run import COLUMNS, Run
from dinomix.widgets.monitor import list_runs, read_progress, training_monitor

IDENTITY = {
    "model": {"backbone": "toy_vits14", "aggregator": "mix"},
    "train": {"epochs": 3, "seed": 7},
}


def rows(epochs: int) -> list[dict]:
    row = dict.fromkeys(COLUMNS, 1.0) | {"seconds": 10.0}
    return [row | {"epoch": i, "step": i, "recall@1": 50.0 - i} for i in range(epochs + 1)]


def write_config(folder, identity: dict, finished: bool) -> None:
    Run(folder, None, None, None, identity).write_config(finished)


def write_history(folder, history: list[dict]) -> None:
    Run(folder, None, None, None).write_history(history)


def write_run(folder, epochs: int, finished: bool = False):
    write_config(folder, IDENTITY, finished)
    write_history(folder, rows(epochs))
    return folder


@pytest.fixture(autouse=True)
def nobody_follows_on():
    yield
    wait_for(lambda: not followers())


def wait_for(condition) -> None:
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def followers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("monitor of ")]


def test_progress_in_words(tmp_path):
    nothing = read_progress(tmp_path / "none")
    assert nothing.in_words(0) == "has not begun"
    assert not nothing.finished and list(nothing.history) == COLUMNS
    write_config(tmp_path, IDENTITY, finished=False)
    assert read_progress(tmp_path).in_words(0) == "unfinished, epoch 0 of 3"
    write_run(tmp_path, epochs=2)
    progress = read_progress(tmp_path)
    assert progress.in_words(progress.changed + 4) == (
        "unfinished, epoch 2 of 3, best R@1 49.0 in epoch 1, last news 00:04 ago, "
        "about 00:06 to go"  # an epoch takes 10 s
    )
    assert "about 00:00 to go" in progress.in_words(progress.changed + 30)
    assert "it may have been stopped" in progress.in_words(progress.changed + 100)
    write_run(tmp_path, epochs=3, finished=True)
    words = "finished, epoch 3 of 3, best R@1 49.0 in epoch 1"
    assert read_progress(tmp_path).in_words(1e12) == words


@pytest.mark.parametrize("name", ["config.json", "history.csv"])
@pytest.mark.parametrize("content", [b"", b"\xff\x00 no text", b'{"other": ', b"a,b\n1,2\n", None])
def test_a_file_that_is_no_run_s_tells_nothing_and_the_other_one_all(tmp_path, name, content):
    write_run(tmp_path, epochs=2)
    whole = read_progress(tmp_path)
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_bytes(content)
    found = read_progress(tmp_path)
    assert found.in_words(0)
    if name == "config.json":
        assert found.config == {} and found.history.equals(whole.history)
    else:
        assert found.config == whole.config and found.history.empty and found.changed is None


def test_runs_that_changed_last_come_first(tmp_path):
    assert list_runs(tmp_path / "none") == []
    for i, name in enumerate("abc"):
        folder = write_run(tmp_path / name, 1)
        for file in folder.iterdir():
            os.utime(file, (100 + i, 100 + i))
    os.utime(tmp_path / "a" / "history.csv", (200, 200))
    (tmp_path / "prefix").mkdir()
    assert list_runs(tmp_path) == ["a", "c", "b"]


def test_after_a_finished_run_the_next_one_is_shown(tmp_path):
    write_run(tmp_path / "a", 3, finished=True)
    view = training_monitor(tmp_path, seconds=0.01)
    assert "run a: finished" in view.status.value and view.curves.value
    assert view.run.options == (("a: mix on toy_vits14, seed 7", "a"),)
    assert not view.stop_button.disabled and view.follow_button.disabled
    write_run(tmp_path / "b", 1)
    wait_for(lambda: "run b: unfinished, epoch 1 of 3" in view.status.value)
    write_run(tmp_path / "c", 1)
    wait_for(lambda: len(view.run.options) == 3)
    assert view.run.value == "b"  # which is not finished
    view.run.value = "a"  # picked by a user
    write_run(tmp_path / "d", 1)
    wait_for(lambda: len(view.run.options) == 4)
    assert view.run.value == "a" and "run a: finished" in view.status.value
    view.close()


def test_a_run_is_followed_from_before_its_beginning_to_its_end(tmp_path):
    view = training_monitor(tmp_path / "runs", "a", seconds=0.01)
    assert "run a: has not begun" in view.status.value and view.curves.value == ""
    assert not view.stop_button.disabled
    folder = tmp_path / "runs" / "a"
    write_config(folder, IDENTITY, finished=False)
    wait_for(lambda: "epoch 0 of 3" in view.status.value)
    wait_for(lambda: view.run.label == "a: mix on toy_vits14, seed 7")
    drawn = {view.curves.value}
    for epochs in (1, 2):
        write_history(folder, rows(epochs))
        wait_for(lambda epochs=epochs: f"epoch {epochs} of 3" in view.status.value)
        wait_for(lambda: view.curves.value not in drawn)
        drawn.add(view.curves.value)
    write_history(folder, rows(3))
    write_config(folder, IDENTITY, finished=True)  # comes last, as in training
    wait_for(lambda: "finished, epoch 3 of 3" in view.status.value)
    assert view.message.value == ""
    view.close()


def test_a_history_of_the_same_moment_is_drawn_again(tmp_path):
    """A file system's clock ticks slower than a short epoch takes."""
    folder = write_run(tmp_path / "a", 1)
    os.utime(folder / "history.csv", (5, 5))
    view = training_monitor(tmp_path, seconds=0.01)
    before = view.curves.value
    write_history(folder, rows(2))
    os.utime(folder / "history.csv", (5, 5))
    wait_for(lambda: "epoch 2 of 3" in view.status.value)
    wait_for(lambda: view.curves.value != before)
    view.stop()


def test_stop_stops_and_follow_goes_on(tmp_path):
    folder = write_run(tmp_path / "a", 1)
    view = training_monitor(tmp_path, seconds=0.01)
    assert len(followers()) == 1
    view.stop_button.click()
    wait_for(lambda: not followers())
    write_history(folder, rows(2))
    time.sleep(0.05)
    assert "epoch 1 of 3" in view.status.value and view.stop_button.disabled
    view.follow_button.click()
    assert "epoch 2 of 3" in view.status.value and view.follow_button.disabled
    view.close()
    wait_for(lambda: not followers())


def test_a_run_that_was_asked_for_stays(tmp_path):
    write_run(tmp_path / "a", 3, finished=True)
    view = training_monitor(tmp_path, "a", seconds=0.01)
    write_run(tmp_path / "b", 1)
    wait_for(lambda: [value for _, value in view.run.options] == ["a", "b"])
    view.follow_button.click()
    assert view.run.value == "a" and "run a: finished" in view.status.value
    view.close()


def test_the_list_does_not_move_when_another_run_goes_on(tmp_path):
    for i, name in enumerate("abc"):
        os.utime(write_run(tmp_path / name, 1) / "history.csv", (2e9 + i, 2e9 + i))
    view = training_monitor(tmp_path)
    view.stop_button.click()
    assert [value for _, value in view.run.options] == ["c", "b", "a"]
    write_run(tmp_path / "new", 1)
    os.utime(tmp_path / "a" / "history.csv", (3e9, 3e9))
    view.follow_button.click()
    assert [value for _, value in view.run.options] == ["c", "b", "a", "new"]
    assert view.run.value == "c"
    view.close()


def test_no_runs_and_foreign_folders(tmp_path):
    view = training_monitor(tmp_path / "none", seconds=0.01)
    assert "there is no run in" in view.status.value and view.message.value == ""
    (follower,) = followers()
    assert follower.daemon  # it ends with the process
    view.close()
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "config.json").write_text(json.dumps({"other": 1}))
    view = training_monitor(tmp_path, seconds=0.01)
    assert view.message.value == "" and "run x: unfinished, epoch 0 of ?" in view.status.value
    view.close()
