"""Settings for all tests: one thread each (they run side by side), nothing written to the user's folders."""

import os
import tempfile

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported, here and in the kernels that tests start
os.environ["SPARSITY_EDU_PROGRESS"] = tempfile.mkdtemp(prefix="sparsity_edu_progress_")
