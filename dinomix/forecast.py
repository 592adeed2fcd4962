"""What a profile asks of its machine, reckoned before anything runs: disk, memory, images.

The estimates are upper bounds where nothing is done yet: a study finds what is done, and then needs
less. What they leave out (tables, figures, executed notebooks, the toy city's photos and the small
test sets of notebooks 09 and 11) is less than a gigabyte.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache

import torch

from dinomix.cluster import available_workers
from dinomix.jobs import Job, Test
from dinomix.model import ModelConfig, outline
from dinomix.summaries import count_parameters

FLOAT = 4  # bytes
PROCESS = 10**9  # bytes of a process that has imported everything, rounded up from 0.75e9
TABLE_ROW = 350  # bytes that an image of the training set takes; benchmarks/gsv_table.py measures


@dataclass(frozen=True)
class Size:
    """Of a model: parameters, those that learn, and D."""

    parameters: int
    trained: int
    dim: int


@lru_cache(maxsize=256)
def size_of(config: ModelConfig) -> Size:
    """Count without allocating anything."""
    model = outline(config)
    return Size(*count_parameters(model), model.dim)


@lru_cache(maxsize=256)
def prefix_numbers(config: ModelConfig) -> int:
    """How many numbers the frozen part makes of one image; 0 where it cannot be cut off."""
    backbone = outline(config).backbone
    if not backbone.has_prefix:
        return 0
    return backbone.begin(torch.zeros(1, 3, *config.size, device="meta")).numel()


def disk_bytes(jobs: Iterable[Job], images: Mapping[Test, int], workers: int | None = None) -> int:
    """Bytes under `data/runs`.

    Of each run two models of 4 bytes a parameter (the best and the last epoch's). While it is in
    the making, a checkpoint of model and optimiser (one number a trained parameter for SGD's
    momentum, two for AdamW), and beside it the next one, for as many runs as go side by side. Of
    each frozen prefix that is cached, 4 bytes a number and image of all sets that go through it.
    Descriptors are never written.

    Args:
        images: how many each training, validation and test set has.
        workers: runs side by side; None means `cluster.available_workers()`.
    """
    models, checkpoints, prefixes = 0, [0], {}
    for job in jobs:
        recipe, size = job.variant.train, size_of(job.variant.model)
        if recipe is None:
            continue
        models += 2 * FLOAT * size.parameters
        moments = 1 if recipe.optimizer == "sgd" else 2
        checkpoints.append(2 * FLOAT * (size.parameters + moments * size.trained))
        if recipe.cache_prefix:
            m = job.variant.model
            cut = (m.backbone, str(job.variant.weights), m.image_size, m.trained_blocks, m.stage)
            sets = (job.places, (job.val, "val"), *job.tests)
            numbers = FLOAT * prefix_numbers(m)
            prefixes |= {(cut, name): numbers * images.get(name, 0) for name in sets}
    side_by_side = workers or available_workers()
    return models + side_by_side * max(checkpoints) + sum(prefixes.values())


def memory_bytes(
    jobs: Iterable[Job], images: Mapping[Test, int], workers: int | None = None
) -> int:
    """Bytes of main memory for the most demanding model, times the runs that go side by side.

    1 GB for the process; the model and its file, and on a CPU gradients and moments of what is
    trained: 4 bytes x (2 x parameters + 3 x trained); 350 bytes an image of the training set; the
    batches that the loading processes hold ready, two each, of P x K images of 3 x H x W x 4 bytes
    (one batch where nothing loads ahead); descriptors of the largest test set in float32 twice,
    ours and the search index's. What autograd keeps on a CPU is not in it.

    Args: as of `disk_bytes`.
    """
    most = 0
    for job in jobs:
        size, recipe = size_of(job.variant.model), job.variant.train
        height, width = job.variant.model.size
        model = FLOAT * (2 * size.parameters + 3 * size.trained)
        training = 0
        if recipe is not None:
            ready = max(1, 2 * recipe.workers) * recipe.places_per_batch * job.images_per_place
            training = TABLE_ROW * images.get(job.places, 0) + ready * 3 * height * width * FLOAT
        largest = max((images.get(test, 0) for test in (*job.tests, (job.val, "val"))), default=0)
        testing = 2 * FLOAT * size.dim * largest
        most = max(most, PROCESS + model + max(training, testing))
    return (workers or available_workers()) * most


def work(
    jobs: Iterable[Job], places: Mapping[str, int], images: Mapping[Test, int]
) -> tuple[int, int]:
    """Images that all runs learn from, and images that are described to validate and to test.

    An epoch shows K images of each place; a run is validated before its first epoch, too.

    Args:
        places: how many each training set has.
        images: how many each validation and test set has.
    """
    learned = described = 0
    for job in jobs:
        recipe = job.variant.train
        if recipe is not None:
            learned += recipe.epochs * places.get(job.places, 0) * job.images_per_place
            described += (recipe.epochs + 1) * images.get((job.val, "val"), 0)
        described += sum(images.get(test, 0) for test in job.tests)
    return learned, described
