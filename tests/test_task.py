"""Tasks as data: what is checked when one is made, and that naming one does not load torch."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from learners import blobs_task

from quidnunc.crypto.errors import ConfigError
from quidnunc.gossip.task import Training


def test_importing_task_and_site_does_not_import_torch() -> None:
    light = ("builtin", "merge", "codec", "accountant", "attack", "partition")
    modules = ", ".join(f"quidnunc.gossip.learning.{name}" for name in light)
    code = (
        f"import sys; from quidnunc.gossip import Task, Site; import {modules}; "
        "sys.exit(bool({'torch', 'sklearn'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


def test_splits_must_match_and_train_must_not_be_empty() -> None:
    task = blobs_task()
    with pytest.raises(ConfigError, match="task split holdout has 20 and 19 rows"):
        replace(task, holdout=(task.holdout[0], task.holdout[1][1:]))
    with pytest.raises(ConfigError, match="task split train has 0 rows"):
        replace(task, train=(torch.zeros(0, 5), torch.zeros(0)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate is 0.0, must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"momentum": 1.0}, "momentum is 1.0, must be at least 0 and below 1"),
        ({"local_steps": 0}, "local_steps is 0, must be 1 to 100000"),
        ({"batch_size": 0}, "batch_size is 0, must be 1 to 1000000"),
        ({"prox": -0.1}, "prox is -0.1, must be 0 to 1000"),
        ({"prox": 1000.5}, "prox is 1000.5, must be 0 to 1000"),
        ({"prox": float("nan")}, "prox is nan, must be 0 to 1000"),
    ],
)
def test_training_out_of_range_is_refused(change: dict[str, float], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(Training(0.1), **change)
