"""The train door with a fault in one process: `python faulty.py …flags of weavejax.train`.

FAULT="kind:step" takes effect in process FAULT_PROCESS (default 1) when that step is about to run:
raise, sleep, and nan (the batch's sound becomes NaN for three steps). Without FAULT it is the door
itself, but that it knows the system "toy".
"""

import os
import sys
import time
from pathlib import Path

import jax
import numpy as np

from weavejax import systems, train
from weavejax.runs import results
from weavejax.runs.session import Session
from weavejax.runtime import cli

sys.path.append(str(Path(__file__).parents[1]))
import toy  # which lies there

KIND, _, STEP = os.environ.get("FAULT", "none:0").partition(":")
honest = Session.before


def before(self, step, batch):
    """As the session does, with the fault."""
    here = jax.process_index() == int(os.environ.get("FAULT_PROCESS", "1"))
    if KIND == "nan" and here and int(STEP) <= step < int(STEP) + 3:
        batch = {**batch, "audio": np.full_like(batch["audio"], np.nan)}
    elif KIND == "raise" and here and step == int(STEP):
        raise ValueError("a fault for the test")
    elif KIND == "sleep" and here and step == int(STEP):
        time.sleep(600)
    return honest(self, step, batch)


Session.before = before
results.draw = lambda *_: None  # no promise of a job is about its pictures, which cost a second
systems.SYSTEMS["toy"] = toy.build

if __name__ == "__main__":
    sys.argv[0] = "weavejax.train"
    cli.launch(train.main)
