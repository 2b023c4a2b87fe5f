"""Workers of `intaglio study run` do not outlive it."""

import signal
import subprocess
import sys
import time

import psutil
import pytest

from intaglio.study.workers import worker_pool

START = """
import os, time
from intaglio.study.workers import worker_pool

if __name__ == "__main__":
    with worker_pool(2) as pool:
        pids = {future.result() for future in [pool.submit(os.getpid) for _ in range(8)]}
        for _ in range(2):
            pool.submit(time.sleep, 600)
        print(*pids, flush=True)
"""


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_workers_end_with_their_parent(how, tmp_path):
    script = tmp_path / "start.py"
    script.write_text(START)
    with subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert workers
        time.sleep(0.2)
        assert all(worker.is_running() for worker in workers)
        parent.send_signal(how)
        _, left = psutil.wait_procs(workers, timeout=30)
        alive = [worker for worker in left if worker.status() != psutil.STATUS_ZOMBIE]
        for worker in alive:
            worker.kill()
    assert not alive


def test_what_workers_return():
    with worker_pool(1) as pool:
        assert pool.submit(pow, 2, 10).result() == 1024
