"""What all tests share: one thread a process, no deadline, and how tests are dealt to the workers of pytest-xdist."""

import os
import signal

from hypothesis import settings

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ.setdefault(name, "1")  # before torch is imported: two workers on two cores

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # in the background of a shell; tests interrupt what they start
    signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("untimed", deadline=None)  # a busy machine takes longer: no test is a timing
settings.load_profile("untimed")

#: Files whose tests edit the one project that `built` makes, and put it back: never side by side.
ONE_PROJECT = (
    "tests/pipeline/test_graph_reading.py",
    "tests/pipeline/test_smoke.py",
    "tests/pipeline/test_your_method.py",
)


def pytest_xdist_make_scheduler(config, log):
    """Keep a file's tests on one worker, since they share fixtures, and those of `ONE_PROJECT` together.

    `--dist loadgroup` would do, but its marks are lost on the way to the scheduler with pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid):
            file = nodeid.partition("::")[0]
            return "one project" if file in ONE_PROJECT else file

    return ByFile(config, log)
