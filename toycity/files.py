"""Rendered sets on disk: a file is complete or absent, and the manifest is written last."""

import csv
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from PIL import Image

from dinomix import __version__
from dinomix.plumbing.files import atomic_path, telling_shortage
from toycity.scene import Photo
from toycity.work import Shot, render_shots

JPEG_QUALITY = 92


def save_jpeg(photo: Photo, path: str) -> None:
    """Write a photo so that `path` is complete or absent."""
    partial = path + ".part"  # not *.jpg: no loader takes it for an image
    with telling_shortage(path):
        Image.fromarray(photo.rgb).save(partial, "JPEG", quality=JPEG_QUALITY)
        os.replace(partial, path)


def started(manifest: Path) -> Path:
    """Where is noted what is being written, until the manifest is there."""
    return manifest.with_suffix(".started.json")


def is_written(manifest: Path, asked: dict, owned: Iterable[Path]) -> bool:
    """Whether the set of `manifest` is finished; changes nothing.

    Args:
        asked: what defines the set, as JSON reads it back.
        owned: folders that only this set may have made.

    Raises:
        FileExistsError: another set is there, or was begun; or `owned` folders of someone else.
    """
    folders = {folder.relative_to(manifest.parent).as_posix(): folder for folder in owned}
    for note in (manifest, started(manifest)):
        if note.exists():
            content = json.loads(note.read_text())
            there = {key: content.get(key) for key in asked if content.get(key) != asked[key]}
            if there:
                wanted = {key: asked[key] for key in there}
                raise FileExistsError(
                    f"{note} stands for {json.dumps(there)}, but asked for is "
                    f"{json.dumps(wanted)}: choose another folder, or remove that file and "
                    f"{' and '.join(folders)} yourself."
                )
            return note == manifest
    foreign = [name for name, folder in folders.items() if folder.exists()]
    if foreign:
        raise FileExistsError(
            f"{manifest.parent} holds {' and '.join(foreign)} but no {manifest.name}: these are "
            "not a toy city's, and are left alone. Choose another folder, or move them away."
        )
    return False


@contextmanager
def being_written(manifest: Path, asked: dict, images: int) -> Iterator[None]:
    """Note what is being written; if the block ends well, write the manifest in its place."""
    _write_json(started(manifest), asked)
    yield
    _write_json(manifest, asked | {"version": __version__, "images": images})
    started(manifest).unlink(missing_ok=True)


def write_table(path: Path, rows: Sequence[dict]) -> None:
    """Write a CSV file whose columns are the keys of the rows."""
    with atomic_path(path) as temporary, temporary.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def write_photos(
    shots: Sequence[Shot], size: tuple[int, int], workers: int | None, progress: bool
) -> None:
    """Take the shots whose files, their targets, are not there yet."""
    folders = {os.path.dirname(shot.target) for shot in shots}
    for folder in folders:
        os.makedirs(folder, exist_ok=True)
    there = {os.path.join(folder, name) for folder in folders for name in os.listdir(folder)}
    missing = [shot for shot in shots if shot.target not in there]
    render_shots(missing, save_jpeg, size, workers, progress)


def link_database(images: Path, split: str) -> None:
    """Give `split` the very database of "test": a link where the system has them, else a copy."""
    database = images / split / "database"
    if os.path.lexists(database):
        return
    database.parent.mkdir(parents=True, exist_ok=True)
    try:
        database.symlink_to(Path("..", "test", "database"), target_is_directory=True)
    except (OSError, NotImplementedError):
        partial = database.with_suffix(".part")
        shutil.rmtree(partial, ignore_errors=True)  # of an interrupted call
        shutil.copytree(images / "test" / "database", partial)
        partial.rename(database)


def _write_json(path: Path, content: dict) -> None:
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n")
