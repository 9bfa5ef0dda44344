"""End a driver in the middle of its work, as a machine that goes down would."""

import os
import pickle
import subprocess
import sys
import time


def wait_for(happened, *, seconds=120):
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def run_and_kill_driver(code, happened):
    """Run a driver with a Ray of its own and end it as soon as something has happened."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    driver = subprocess.Popen(
        [sys.executable, "-c", code], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    try:
        wait_for(lambda: happened() or driver.poll() is not None)
        assert driver.poll() is None, f"ended before it could be killed: {driver.stderr.read().decode()[-2000:]}"
    finally:
        driver.kill()
        driver.wait()
        driver.stderr.close()


def pickled(function, job, **values):
    """Return Python code that makes a call, its arguments pickled."""
    return (
        f"import pickle; from {function.__module__} import {function.__name__} as call; "
        f"call(pickle.loads({pickle.dumps(job)!r}), **pickle.loads({pickle.dumps(values)!r}))"
    )
