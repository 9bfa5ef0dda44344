"""The only room that imports Ray: build, train, evaluate and score as restartable runs.

Ray reads its environment once, when it is first imported. So this room, which every import of Ray in cisray passes
through, sets it here: no usage reports over the network, quick health checks, and for a cluster that cisray starts
itself a token, which keeps other users of the machine out. What the user has set stands.
"""

import os
import secrets
import sys

RAY_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # an actor for each training, to tell workers that their machine will go: they go on from their checkpoints anyhow
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    "RAY_AIR_NEW_OUTPUT": "0",
    "RAY_ENABLE_AUTO_CONNECT": "0",  # a thread that outlives a cluster must not start another
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # said of every small machine, and into the middle of the output
    "RAY_DEDUP_LOGS_SKIP_REGEX": "PYTHON worker processes have been started",
    "RAY_task_oom_retries": "4",  # of a task that is ended for its memory; Ray's own is for ever
    "RAY_BACKEND_LOG_LEVEL": "fatal",  # its C++ prints harmless errors over the progress bars
}

if "ray" not in sys.modules:
    for _name, _value in RAY_ENVIRONMENT.items():
        os.environ.setdefault(_name, _value)
    if "RAY_ADDRESS" not in os.environ and "RAY_AUTH_MODE" not in os.environ:
        os.environ["RAY_AUTH_MODE"] = "token"
        if "RAY_AUTH_TOKEN_PATH" not in os.environ:
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
