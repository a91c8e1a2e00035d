"""What all tests share: one thread a process, and how tests are dealt to the workers of pytest-xdist."""

import os

import pytest

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # before torch is imported: two workers on two cores


def pytest_collection_modifyitems(items):
    """Keep a file's tests on one worker, since they share fixtures; `xdist_group` may join several files."""
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(item.nodeid.partition("::")[0]))
