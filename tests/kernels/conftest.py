"""Kernel tests start from memory that nobody may read."""

import pytest
import torch


@pytest.fixture(autouse=True)
def poison():
    """Fills every torch.empty with NaN."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)
