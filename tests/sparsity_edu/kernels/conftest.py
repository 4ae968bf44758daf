"""What tests of several files share."""

import pytest
import torch

from sparsity_edu.kernels import compiled


@pytest.fixture
def threads(monkeypatch):
    """Loops run on three threads, however little there is to do. Torch keeps its own number, which numba sets."""
    monkeypatch.setattr(compiled, "ALONE", 0)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    after = torch.get_num_threads()
    torch.set_num_threads(before)
    assert after == 3
