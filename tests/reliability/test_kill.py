"""Every long job is killed at random moments and started again: nothing is lost, nothing stays."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dinomix.pipeline import notebooks as pipeline
from dinomix.runs.run import Run
from dinomix.scale import descriptors as chunks
from tests.killing import JOBS, contents

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the killer forks its victims")

QUICK = [
    "training",
    "training longer",
    "describing",
    "preparing links",
    "preparing copies",
    "results and figures",
]
LONG = [*QUICK, "training with workers", "rendering", "notebooks"]


@pytest.fixture(scope="module")
def killer():
    """Asks `killing.py` to run a job and to kill it; what it answers."""
    here = Path(__file__).parents[2]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(here)}
    command = [sys.executable, here / "tests" / "killing.py"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=env, **pipes) as process:

        def ask(job: str, folder: Path, kills: int, share: float = 1.0, a_round: int = 5) -> dict:
            request = {"job": job, "folder": str(folder), "kills": kills, "seed": kills}
            request |= {"share": share, "kills_a_round": a_round}
            process.stdin.write(json.dumps(request) + "\n")
            process.stdin.flush()
            answer = json.loads(process.stdout.readline())
            assert "error" not in answer, answer["error"] + (folder / "errors.txt").read_text()
            return answer

        yield ask


def assert_nothing_lost(answer: dict, kills: int) -> None:
    print(answer | {"differences": len(answer["differences"])})
    assert answer["differences"] == []
    assert sum(answer["landed"].values()) == kills
    assert answer["files"] > 0


@pytest.mark.parametrize("job", QUICK)
def test_three_kills(killer, tmp_path, job):
    assert_nothing_lost(killer(job, tmp_path, kills=3), 3)


@pytest.mark.slow
@pytest.mark.parametrize("job", LONG)
def test_many_kills(killer, tmp_path, job):
    answer = killer(job, tmp_path, kills=24)
    assert_nothing_lost(answer, 24)
    early = answer["landed"].get("before the first write", 0)
    assert early <= 12, "most kills should hit work that has begun"


@pytest.mark.slow
def test_the_smoke_profile_killed_often(killer, tmp_path):
    """The real notebooks, with the toy city that they render and the runs that they train.

    One round, with kills after an eighth of the whole at most: it would last hours otherwise.
    """
    assert_nothing_lost(killer("smoke profile", tmp_path, 20, share=0.125, a_round=20), 20)


class Killed(BaseException):
    """What stands for a kill in a moment too short to be hit by chance."""


def killed(*args: object, **options: object) -> None:
    raise Killed


@pytest.mark.parametrize(
    ("job", "module", "name"),
    [
        ("training", Run, "remove_checkpoint"),  # the run is finished, its checkpoint there
        ("describing", chunks.ChunkedArray, "clear"),  # the file is finished, its folder there
        ("describing", chunks.shutil, "rmtree"),  # the folder of the beginning is full
        ("notebooks", pipeline.nbformat, "write"),  # the notebook is executed, and has no name yet
    ],
)
def test_a_kill_between_two_steps(tmp_path, monkeypatch, job, module, name):
    given = tmp_path / "given"
    given.mkdir()
    JOBS[job].given(given)
    with monkeypatch.context() as patch:
        patch.setattr(module, name, killed)
        with pytest.raises(Killed):
            JOBS[job].run(given, tmp_path / "broken")
    JOBS[job].run(given, tmp_path / "broken")
    JOBS[job].run(given, tmp_path / "whole")
    assert contents(tmp_path / "broken") == contents(tmp_path / "whole")


def test_leftovers_of_a_beginning_go_with_the_end(tmp_path):
    """Of a process killed while it prepared the folder of its work."""
    given, out = tmp_path / "given", tmp_path / "out"
    given.mkdir()
    JOBS["describing"].given(given)
    JOBS["describing"].run(given, tmp_path / "whole")
    (out / ".city.0123456789ab.part-01234567").mkdir(parents=True)
    JOBS["describing"].run(given, out)
    assert contents(out) == contents(tmp_path / "whole")
