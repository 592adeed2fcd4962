"""Many jobs on several processes, through Dask: here, or on the machines of a cluster."""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from dinomix.plumbing.errors import extra

with extra("cluster"):
    import dask
    from dask.distributed import Client, LocalCluster, as_completed
    from dask.system import CPU_COUNT

# One thread a process: networks this small gain nothing from more, and the number of threads
# decides how sums are rounded.
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    # What jobs raise is told by who asked for them, and a worker that misses its scheduler is
    # ending. Set for the process: `logging.distributed` would reach a worker too late.
    "DASK_LOGGING__DISTRIBUTED": "critical",
}
NEWS = 0.5  # seconds between two looks at what is done

# A process that takes its time to end is no news to anybody.
logging.getLogger("distributed.nanny").addFilter(
    lambda record: "Worker process still alive" not in record.getMessage()
)


def available_workers() -> int:
    """How many jobs this machine takes at once: one a core, or one where there is a GPU."""
    return 1 if torch.cuda.is_available() else CPU_COUNT


@contextmanager
def local_client(workers: int) -> Iterator[Client]:
    """Dask on `workers` processes of this machine, with one thread each, until the block ends.

    A worker that dies is started again, and its job with it.
    """
    settings = {
        "distributed.worker.daemon": False,  # a job may start processes that load images
        "distributed.nanny.pre-spawn-environ": ENVIRONMENT,
    }
    with (
        dask.config.set(settings),
        LocalCluster(
            n_workers=workers,
            threads_per_worker=1,
            memory_limit=0,  # Dask would kill a large job; the system knows better when to
            dashboard_address=None,
            scheduler_kwargs={"dashboard_address": "localhost:0"},  # which several may have
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client


def compute(
    client: Client, function: Callable[[Any], Any], jobs: Mapping[Any, Any]
) -> Iterator[dict[Any, Any]]:
    """key -> function(job) of jobs that are done since the last time; of none, now and then.

    An exception stands for what raised it. A job whose worker died is given to another one, a few
    times at most.
    """
    futures = {client.submit(function, job, pure=False): key for key, job in jobs.items()}
    found = as_completed(futures)
    while found.count():
        done = found.next_batch(block=False)
        yield {futures[f]: f.exception() if f.status == "error" else f.result() for f in done}
        if not done:
            time.sleep(NEWS)
