"""Fixtures of several test modules."""

import pytest
import torch


@pytest.fixture(scope="module")
def one_thread():
    """Equal bits are promised for equal numbers of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
