"""The order of the tests, and fixtures of several test modules."""

import pytest
import torch

from tests.fixtures.training import Toy


def pytest_collection_modifyitems(items):
    """Put the workflow first: its files take longest, and workers take files in this order."""
    items.sort(key=lambda item: item.path.parent.name != "workflow")


@pytest.fixture(scope="module")
def one_thread():
    """Equal bits are promised for equal numbers of threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Inputs of a toy training."""
    return Toy(tmp_path_factory.mktemp("toy"))
