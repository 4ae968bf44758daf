"""Pages are read by torch here, or by compiled loops: Triton's interpreter would take minutes for what a model writes."""

import pytest

from sparsity_edu.kernels import sparse_attention


@pytest.fixture(autouse=True)
def on_a_cpu(monkeypatch):
    monkeypatch.setattr(sparse_attention, "runs_kernels", lambda x: False)
