"""What a worker of this machine does before it judges."""

import os

from distributed import WorkerPlugin


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
