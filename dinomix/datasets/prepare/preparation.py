"""From a download to the layout that `dinomix.TestSet` reads: check all, then place all.

Images become symbolic links, which say where an image comes from, cross file systems and cost no
disk (a hard link does neither of the first two, and whoever edits one edits the original), or
copies. Nothing is ever overwritten.
"""

import filecmp
import os
import shutil
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tqdm.auto import tqdm

from dinomix.datasets.prepare import drives, msls, named, nordland, pairs, pittsburgh, tokyo247
from dinomix.datasets.prepare.planning import LAYOUTS, Image, Plan
from dinomix.plumbing.errors import first_of
from dinomix.plumbing.files import atomic_path
from dinomix.plumbing.imagenames import is_visible_image

# To prepare one more data set, add the function that plans it.
PREPARERS: dict[str, Callable[[Path], Plan]] = {
    "pitts30k": partial(pittsburgh.plan, "pitts30k"),
    "pitts250k": partial(pittsburgh.plan, "pitts250k"),
    "tokyo247": tokyo247.plan,
    "nordland": nordland.plan,
    **{name: partial(named.plan, name) for name in LAYOUTS["named"]},
    **{name: partial(pairs.plan, name) for name in LAYOUTS["pairs"]},
    "msls": msls.plan,
    "msls-challenge": msls.plan_challenge,
    "eynsham": drives.plan_eynsham,
    "st_lucia": drives.plan_st_lucia,
}
MISSING = "missing.txt"


class MissingImagesError(FileNotFoundError):
    """Images that a download's lists name are not there; nothing was written."""


@dataclass(frozen=True)
class Summary:
    """What a preparation found and did; `str` of it is for people."""

    name: str
    out: Path
    counts: dict[str, int]  # images in place, by split and side, such as {"val/database": 10000}
    made: int  # how many of them this run placed
    kept: int  # and how many were in place before
    missing: tuple[str, ...]  # named but not there, relative to the raw folder
    notes: tuple[str, ...]  # what there is to know before comparing numbers

    def __str__(self) -> str:
        done = f"placed {self.made:,}, kept {self.kept:,}"
        if not self.made:
            done = f"nothing to do, all {self.kept:,} images were in place"
        lines = [f"{self.name} in {self.out}: {done}"]
        lines += [f"  {folder}: {count:,}" for folder, count in self.counts.items()]
        if self.missing:
            lines.append(f"  missing {len(self.missing):,}: {first_of(self.missing)}")
            lines.append(f"  all of them in {self.out / MISSING}")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def prepare(
    name: str,
    raw: str | Path,
    out: str | Path,
    *,
    copy: bool = False,
    allow_missing: bool = False,
    progress: bool = True,
) -> Summary:
    """Turn the original download of a data set into the UTM layout of `dinomix.TestSet`.

    Everything is checked before anything is written. Images become symbolic links, so the download
    must stay where it is. A second run does nothing, and a killed one goes on.

    Args:
        name: one of `PREPARERS`; each one's module says which files it looks for.
        raw: folder of the unpacked download, which is only read.
        out: receives `images/<split>/database` and `images/<split>/queries`.
        copy: copy the images instead, as is done, with a note, where links are not possible.
        allow_missing: prepare without the images that are missing, and list them in
            `out`/missing.txt and in the summary. Scores then do not compare with anybody's.

    Raises:
        MissingImagesError: images are missing and `allow_missing` is off.
        FileNotFoundError: a folder or a list is missing; says where to get it.
        FileExistsError: `out` holds something else in an image's place, or other images beside.
        ValueError: no such data set; a damaged or empty list; positions off the map; two images of
            the same name; names that lead out of the download.
    """
    if name not in PREPARERS:
        raise ValueError(f"cannot prepare {name!r}; there are {', '.join(PREPARERS)}")
    raw, out = Path(os.path.abspath(raw)), Path(out)
    if not raw.is_dir():
        raise FileNotFoundError(f"there is no folder {raw}; expected the unpacked download")

    plan = PREPARERS[name](raw)
    _refuse_empty_sides(plan, raw)
    _refuse_duplicates(plan.images)
    images = [image for image in plan.images if os.path.isfile(image.source)]
    there = set(images)
    missing = [os.path.relpath(i.source, raw) for i in plan.images if i not in there]
    if missing and not allow_missing:
        raise MissingImagesError(
            f"{len(missing):,} of the {len(plan.images):,} images of {name} are not in {raw}: "
            f"{first_of(missing)}. Nothing was written; unpack the rest of the download, or "
            "prepare without them with allow_missing=True."
        )

    todo = _not_in_place(out / "images", images, copy)
    notes = list(plan.notes)
    if _place(out / "images", todo, copy, progress):
        notes.append(f"links are not possible in {out}, so the images were copied")
    _list_missing(out / MISSING, missing)
    counts = dict.fromkeys((image.folder for image in plan.images), 0)
    counts.update(Counter(image.folder for image in images))
    kept = len(images) - len(todo)
    return Summary(name, out, counts, len(todo), kept, tuple(missing), tuple(notes))


def _refuse_empty_sides(plan: Plan, raw: Path) -> None:
    folders = {image.folder for image in plan.images}
    splits = sorted({folder.partition("/")[0] for folder in folders})
    sides = [f"{split}/{side}" for split in splits for side in ("database", "queries")]
    if empty := [side for side in sides if not any(f.startswith(side) for f in folders)]:
        why = "".join(f"; {note}" for note in plan.notes)
        raise ValueError(f"the lists or folders in {raw} name no image for {', '.join(empty)}{why}")
    if not plan.images:
        raise ValueError(f"the lists or folders in {raw} name no image")


def _refuse_duplicates(images: list[Image]) -> None:
    sources: dict[tuple[str, str], str] = {}
    double = []
    for image in images:
        first = sources.setdefault((image.folder, image.name), image.source)
        if first is not image.source:
            double.append(f"{image.folder}/{image.name} from {first} and from {image.source}")
    if double:
        raise ValueError(
            f"{len(double):,} images would have the name of another one: {first_of(double)}. "
            "The lists of the download name an image twice."
        )


def _list_missing(path: Path, missing: list[str]) -> None:
    """One image a line; where none is missing, no list of an earlier run stays."""
    if not missing:
        if path.exists():  # a read-only disk refuses to remove what is not there, too
            path.unlink()
        return
    text = "".join(f"{name}\n" for name in missing)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        with atomic_path(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _not_in_place(root: Path, images: list[Image], copy: bool) -> list[Image]:
    """Those of `images` that are not under `root` yet; looks and changes nothing.

    A test set reads whole folders, so another image beside them would silently become part of it.
    """
    folders: dict[str, dict[str, Image]] = defaultdict(dict)
    for image in images:
        folders[image.folder][image.name] = image
    todo, wrong = [], []
    for folder, by_name in folders.items():
        there = set(os.listdir(root / folder)) if (root / folder).is_dir() else set()
        wrong += [
            f"{folder}/{name} is none of its images"
            for name in sorted(there - by_name.keys())
            if is_visible_image(name)
        ]
        for name, image in by_name.items():
            if name not in there:
                todo.append(image)
            elif difference := _difference(root / folder / name, image.source, copy):
                wrong.append(f"{folder}/{name} {difference}")
    if wrong:
        raise FileExistsError(
            f"{root} holds {len(wrong):,} entries that this preparation would not make, and it "
            f"replaces nothing: {first_of(wrong)}. Remove them, or prepare into another folder."
        )
    return todo


def _place(root: Path, images: list[Image], copy: bool, progress: bool) -> bool:
    """Link or copy `images`; returns whether links were wanted but not possible there."""
    for folder in {image.folder for image in images}:
        (root / folder).mkdir(parents=True, exist_ok=True)
    fell_back = False
    for image in tqdm(images, desc="preparing", unit="img", disable=not (progress and images)):
        target = root / image.folder / image.name
        if not copy and not fell_back:
            try:
                os.symlink(image.source, target)
                continue
            except FileExistsError:
                raise
            except (OSError, NotImplementedError):  # FAT, or Windows without the privilege
                fell_back = True
        with atomic_path(target) as temporary:
            shutil.copyfile(image.source, temporary)
            times = os.stat(image.source)  # by which a copy is known again
            os.utime(temporary, ns=(times.st_atime_ns, times.st_mtime_ns))
    return fell_back


def _difference(target: Path, source: str, copy: bool) -> str:
    """What is wrong with the entry `target`, as a predicate; empty if it is the image.

    That is a link to its source, or a file of the source's size and time, or else its bytes.
    """
    if target.is_symlink():
        link = os.readlink(target)
        if copy:
            return f"is a link to {link}, where a copy was asked for"
        if link == source or (target.exists() and os.path.samefile(target, source)):
            return ""
        return f"is a link to {link}, not to {source}"
    if not target.is_file():
        return "is no file"
    return "" if filecmp.cmp(target, source, shallow=True) else f"differs from {source}"
