"""A process that starts jobs, kills them at random moments, and starts them again until they end.

It imports everything once and forks its victims, so that none of them spends its life on imports.
A job is killed with all its processes, as by a scheduler; or its process group alone, as by the
system when memory runs out: then a notebook's kernel, which has a group of its own, goes on until
it sees that it is an orphan, while the job is started again beside it.

Each line of its input is a request as JSON, each line of its output the answer: see `killed`.
"""

import hashlib
import importlib
import json
import os
import random
import re
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import psutil

TIMES = ("seconds", "images_per_second")  # columns of a run's history that no two runs share
TEMPORARY = ("-dinomix", ".tmp", ".unfinished", ".jpg.part")  # in names of what is half written
# What a notebook names a file of descriptors by: where its images lie, and since when.
IMAGES = re.compile(r"(?<=^descriptors/[0-9a-f]{16})-[0-9a-f]{16}")
MODULES = (
    "papermill",
    "dinomix.scale.descriptors",
    "dinomix.figures",
    "dinomix.datasets.prepare",
    "dinomix.study.study",
    "toycity",
)
PATIENCE = 60  # seconds that orphans have to notice that they are orphans


@dataclass(frozen=True)
class Job:
    """`given(folder)` writes what `run(folder, out)` reads; of `timed` folders names are compared,
    for what lies there tells how long something took.
    """

    given: Callable[[Path], None]
    run: Callable[[Path, Path], object]
    timed: tuple[str, ...] = ()


@dataclass
class Killer:
    """Runs one job into one folder, and kills it at most so many times on the way."""

    job: Job
    given: Path
    rng: random.Random
    landed: Counter = field(default_factory=Counter)

    def run(self, out: Path, longest: float = float("inf"), kills: int = 0) -> float:
        """Start the job until it ends; return the seconds that its last start took.

        Args:
            longest: seconds within which a kill comes; a tenth more with each one, so that a job
                ends even if the machine has become slower.
        """
        while True:
            started = time.monotonic()
            child = self._start(out)
            after = self.rng.uniform(0, longest) if kills else float("inf")
            if self._ended(child, started + after):
                return time.monotonic() - started
            kills, longest = kills - 1, longest * 1.1
            self.landed[where(out)] += 1

    def _start(self, out: Path) -> int:
        child = os.fork()
        if child:
            with suppress(OSError):  # whoever of the two comes first makes the group
                os.setpgid(child, child)
            return child
        try:
            os.setpgid(0, 0)
            errors = os.open(out.parent / "errors.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(errors, 1), os.dup2(errors, 2)
            self.job.run(self.given, out)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
        os._exit(0)

    def _ended(self, child: int, deadline: float) -> bool:
        """Wait for a child; True if it ended well, False if it had to be killed."""
        while time.monotonic() < deadline:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid and os.waitstatus_to_exitcode(status) == 0:
                return True
            if pid:
                raise RuntimeError(f"the job failed: {status}")
            time.sleep(0.001)
        processes = psutil.Process(child).children(recursive=True)
        os.killpg(child, signal.SIGKILL)
        if self.rng.random() < 0.5:
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    process.kill()
        _, status = os.waitpid(child, 0)
        self.orphans = processes
        return os.waitstatus_to_exitcode(status) == 0  # it may have ended just before

    def wait_for_orphans(self) -> None:
        _, alive = psutil.wait_procs(getattr(self, "orphans", []), timeout=PATIENCE)
        if alive:
            raise RuntimeError(f"{alive} go on, though their parent was killed")


def where(out: Path) -> str:
    """In which moment of a job a kill came, from what it left."""
    names = [path.name for path in out.rglob("*")] if out.exists() else []
    if any(mark in name for name in names for mark in TEMPORARY):
        return "while writing"
    return "between two writes" if names else "before the first write"


def killed(request: dict) -> dict:
    """Run a job once unbroken, then in rounds, killed until there were enough kills.

    Request: `job`, a name in JOBS; `folder`; `kills`; `seed`; `share`, of the unbroken job's
    seconds, within which each kill comes; `kills_a_round` at most.

    Answer: how many kills `landed` where, how many `rounds`, the unbroken job's `seconds`, and all
    `differences` of the rounds' results from the unbroken one.
    """
    job, folder = JOBS[request["job"]], Path(request["folder"])
    given = folder / "given"
    given.mkdir(parents=True)
    job.given(given)
    killer = Killer(job, given, random.Random(request["seed"]))
    seconds = killer.run(folder / "whole")
    whole = contents(folder / "whole", job.timed)
    rounds, differences = 0, []
    while (left := request["kills"] - sum(killer.landed.values())) > 0:
        out, kills = folder / f"round{rounds}", min(left, request["kills_a_round"])
        taken = killer.run(out, request["share"] * seconds, kills)
        if left == request["kills"] - sum(killer.landed.values()):  # it got away
            seconds = min(seconds, taken)
        killer.wait_for_orphans()
        found = contents(out, job.timed)
        differences += [
            f"round {rounds}: {name} is {found.get(name)}, unbroken {whole.get(name)}"
            for name in sorted(whole.keys() | found.keys())
            if whole.get(name) != found.get(name)
        ]
        rounds += 1
    return {
        "landed": killer.landed,
        "rounds": rounds,
        "seconds": seconds,
        "files": len(whole),
        "differences": differences,
    }


def contents(out: Path, timed: tuple[str, ...] = ()) -> dict[str, str]:
    """Everything under a folder, by name: what a file holds, where a link leads."""
    found = {}
    for path in sorted(out.rglob("*")):
        name = path.relative_to(out).as_posix()
        if path.is_symlink():
            found[name] = os.readlink(path)
        elif path.is_dir() or name.startswith(timed):
            found[name] = "there"
        else:
            digest = hashlib.sha256(content(path)).hexdigest()[:12]
            found[IMAGES.sub(f"-{digest}", name)] = digest
    return found


def content(path: Path) -> bytes:
    """What a file holds, without what no two runs share."""
    if path.name == "history.csv":
        import pandas as pd

        return pd.read_csv(path, dtype=str).drop(columns=list(TIMES)).to_csv().encode()
    if path.name.endswith("provenance.json"):  # dates, and what a longer run went on from
        return b""
    if path.suffix == ".png":  # its metadata say when
        from PIL import Image

        return Image.open(path).tobytes()
    if path.suffix == ".pdf":
        return re.sub(rb'"date": "[^"]*"', b"", path.read_bytes())
    if path.suffix == ".safetensors":  # its metadata come in any order
        from dinomix.plumbing.tensorfiles import read_safetensors

        tensors, header = read_safetensors(path)
        parts = [
            f"{k} {v.shape}".encode() + v.numpy().tobytes() for k, v in sorted(tensors.items())
        ]
        return b"".join(parts) + json.dumps(header, sort_keys=True).encode()
    if path.suffix == ".pt":  # equal states may be pickled in several ways
        from dinomix.plumbing.tensorfiles import read_torch

        return json.dumps(read_torch(path), default=lambda tensor: tensor.tolist()).encode()
    if path.suffix == ".ipynb":
        cells = json.loads(path.read_text())["cells"]
        return json.dumps([(c["source"], c.get("outputs")) for c in cells]).encode()
    return path.read_bytes()


# ------------------------------------------------------------------------------- jobs


def give_training(folder: Path) -> None:
    from tests.conftest import write_places, write_testset

    write_places(folder / "places", places=8)
    write_testset(folder / "city", places=8)


def train_cached(given: Path, out: Path) -> None:
    train_tiny(given, out, "toy", epochs=6, places_per_batch=2)


def train_with_workers(given: Path, out: Path) -> None:
    augmented = {"accumulation": 2, "lr": 0.02, "augment": "randaugment", "workers": 2}
    train_tiny(given, out, "paper", epochs=4, places_per_batch=2, **augmented)


def train_longer(given: Path, out: Path) -> None:
    for epochs in (3, 5):
        train_tiny(given, out, "paper", epochs=epochs, places_per_batch=2, cache_prefix=True)


def train_tiny(given: Path, out: Path, recipe: str, **changes: object) -> None:
    from dinomix import ModelConfig, PlaceDataset, TestSet, TrainConfig, train

    model = ModelConfig("toy_vits14", 1, out_channels=8, out_rows=2, image_size=28)
    places, val = PlaceDataset(given / "places"), TestSet(given / "city")
    train(model, places, val, TrainConfig.preset(recipe, **changes), out=out, progress=False)


def give_describing(folder: Path) -> None:
    from dinomix import ModelConfig, build_model, save_model
    from tests.conftest import write_testset

    write_testset(folder / "city", places=60)
    model = ModelConfig("toy_vits14", 1, out_channels=8, out_rows=2, image_size=28)
    save_model(build_model(model), folder / "model.safetensors")


def describe(given: Path, out: Path) -> None:
    from dinomix import load_model
    from dinomix.scale import descriptors

    model = load_model(given / "model.safetensors")
    paths = sorted((given / "city").rglob("*.jpg"))
    options = {"batch_size": 2, "workers": 1, "progress": False}
    with patch.object(descriptors, "CHUNK", 4):
        descriptors.describe_to(out / "city.npy", model, paths, **options)


def render(given: Path, out: Path) -> None:
    from toycity import ToyCityConfig, write_toycity

    config = ToyCityConfig.small(image_size=(24, 32), train_places=6, images_per_place=2)
    write_toycity(out, config, workers=2, progress=False)


def give_preparing(folder: Path) -> None:
    from tests.made_downloads import write_nordland

    write_nordland(folder, frames=800)


def prepare_links(given: Path, out: Path) -> None:
    from dinomix.datasets.prepare import prepare

    prepare("nordland", given, out, progress=False)


def prepare_copies(given: Path, out: Path) -> None:
    from dinomix.datasets.prepare import prepare

    prepare("nordland", given, out, copy=True, progress=False)


def write_results(given: Path, out: Path) -> None:
    """Tables and figures, as notebooks write them."""
    import numpy as np
    import pandas as pd

    from dinomix.figures import image_grid, save_figure
    from dinomix.study.results import COLUMNS, save_results

    for i in range(6):
        table = pd.DataFrame([{name: i * row for name in COLUMNS} for row in range(2000)])
        save_results([table], out / "results" / f"{i}.csv")
        images = [np.full((8, 8, 3), 40 * i, np.uint8)]
        save_figure(image_grid([images]), out / "figures" / f"{i}.png")


NOTEBOOK = """
import os, pathlib
from dinomix.plumbing.files import atomic_path
data = pathlib.Path(os.environ["DINOMIX_DATA"])
for i in range(50):
    with atomic_path(data / "results" / f"{name}-{i}.csv") as path:
        path.write_text(f"{name},{i}" * 10_000)
print(name, "is done")
"""


def give_notebooks(folder: Path) -> None:
    import yaml

    from tests.pipeline.test_notebooks import write_notebook

    write_notebook(folder, "10_b", 'name = "b"', NOTEBOOK, ["20_a"])
    write_notebook(folder, "20_a", 'name = "a"', NOTEBOOK, [])
    (folder / "profiles").mkdir()
    profile = {"common": {}, "notebooks": {"10_b": None, "20_a": None}}
    (folder / "profiles" / "p.yaml").write_text(yaml.safe_dump(profile))


def run_notebooks(given: Path, out: Path) -> None:
    from dinomix.pipeline.notebooks import run_profile

    run_profile("p", data=out, notebooks=given)


def run_smoke(given: Path, out: Path) -> None:
    from dinomix.pipeline.notebooks import run_profile

    run_profile("smoke", data=out)


def give_nothing(folder: Path) -> None:
    pass


JOBS = {
    "training": Job(give_training, train_cached),
    "training longer": Job(give_training, train_longer),
    "training with workers": Job(give_training, train_with_workers),
    "describing": Job(give_describing, describe),
    "rendering": Job(give_nothing, render),
    "preparing links": Job(give_preparing, prepare_links),
    "preparing copies": Job(give_preparing, prepare_copies),
    "results and figures": Job(give_nothing, write_results),
    "notebooks": Job(give_notebooks, run_notebooks),
    "smoke profile": Job(give_nothing, run_smoke, ("executed", "figures", "results")),
}


def main() -> None:
    import matplotlib

    matplotlib.use("Agg")
    for module in MODULES:
        importlib.import_module(module)
    for line in sys.stdin:
        try:
            answer = killed(json.loads(line))
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
