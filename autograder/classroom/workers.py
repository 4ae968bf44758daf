"""Workers of this machine: how they start, and what they do before they judge."""

import os
from multiprocessing import forkserver

from distributed import WorkerPlugin


def prepare_workers() -> None:
    """Start the process that workers are forked from. It has imported the judge: seconds, once for all of them."""
    forkserver.set_forkserver_preload(["distributed.nanny", "autograder.judge.judge"])
    forkserver.ensure_running()


class OwnProcessors(WorkerPlugin):
    """Each worker keeps to processors of its own, and so does the sandbox it starts: one that burns them slows nobody else."""

    name = "own processors"

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def setup(self, worker) -> None:
        """Called in each worker; their names are numbers."""
        processors = sorted(os.sched_getaffinity(0))
        mine = processors[worker.name % len(processors) :: self.workers] or processors
        os.sched_setaffinity(0, mine)
