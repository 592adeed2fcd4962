"""Rendering many photos in a few processes, each of which builds a scene once."""

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from multiprocessing import get_context
from typing import Any

from PIL import Image
from tqdm.auto import tqdm

from toycity.camera import Camera, TopDown
from toycity.city import make_city
from toycity.conditions import condition_named
from toycity.files import atomic_path
from toycity.scene import Photo, Scene

CHUNK = 400  # photos that a worker takes at once; a scene is built once in each chunk
JPEG_QUALITY = 92
SceneKey = tuple[int, int, str, float]  # a city's seed and blocks, condition, severity


@dataclass(frozen=True)
class Shot:
    """One photo to take. `target` says where it goes, in the words of the job's `save`."""

    scene: SceneKey
    camera: Camera | TopDown
    seed: int
    target: Any


def render_shots(
    shots: Iterable[Shot],
    save: Callable[[Photo, Any], None],
    size: int | tuple[int, int],
    workers: int | None = None,
    progress: bool = True,
) -> None:
    """Take every shot and hand it to `save(photo, target)`, in the process that rendered it.

    `save` must be picklable. `workers`: 1 renders in this process; None spawns one a core, which
    needs the usual `if __name__ == "__main__":` guard in a script; ValueError below 1.
    """
    if workers is None:
        affinity = hasattr(os, "sched_getaffinity")
        workers = len(os.sched_getaffinity(0)) if affinity else os.cpu_count() or 1
    if workers < 1:
        raise ValueError(f"workers is {workers}: at least one process has to do the work")
    shots = sorted(shots, key=lambda shot: shot.scene)
    scenes = [list(own) for _, own in groupby(shots, key=lambda shot: shot.scene)]
    chunks = [own[i : i + CHUNK] for own in scenes for i in range(0, len(own), CHUNK)]
    chunks.sort(key=len, reverse=True)  # short ones last, so that all workers end together
    with tqdm(total=len(shots), desc="toy city", unit="image", disable=not progress) as bar:
        if workers == 1 or len(chunks) <= 1:
            for chunk in chunks:
                bar.update(_render_chunk(chunk, save, size))
            return
        with ProcessPoolExecutor(min(workers, len(chunks)), get_context("spawn")) as pool:
            futures = [pool.submit(_render_chunk, chunk, save, size) for chunk in chunks]
            try:
                for future in as_completed(futures):
                    bar.update(future.result())
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def write_photos(
    shots: Sequence[Shot], size: tuple[int, int], workers: int | None, progress: bool
) -> None:
    """Take the shots whose files, their targets, are not there yet."""
    missing = [shot for shot in shots if not os.path.exists(shot.target)]
    render_shots(missing, save_jpeg, size, workers, progress)


def save_jpeg(photo: Photo, path: str) -> None:
    """Write a photo so that `path` is complete or absent."""
    with atomic_path(path, sync=False) as partial:
        Image.fromarray(photo.rgb).save(partial, "JPEG", quality=JPEG_QUALITY)


def take(shot: Shot, size: int | tuple[int, int]) -> Photo:
    """Take one photo. The last scene is kept, so shots of one scene should follow each other."""
    return _scene(*shot.scene).render(shot.camera, size, shot.seed)


def _render_chunk(
    chunk: list[Shot], save: Callable[[Photo, Any], None], size: int | tuple[int, int]
) -> int:
    for shot in chunk:
        save(take(shot, size), shot.target)
    return len(chunk)


@lru_cache(maxsize=1)
def _scene(seed: int, blocks: int, condition: str, severity: float) -> Scene:
    return Scene(make_city(seed, blocks), condition_named(condition).at(severity))
