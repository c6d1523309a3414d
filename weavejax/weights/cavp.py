"""CAVP's published checkpoint: its video half as parameters here.

It stands at `vision/`, where Fol·AI has it (`systems.frame_towers`).

Source: the state dict of Diff-Foley's first stage (arXiv 2306.17203, ``cavp_model.py``); keys may hold
``module.`` anywhere. The half that listens is kept and not used.
"""

import re

from weavejax.models import slow_only
from weavejax.models.slow_only import ENCODER, HEAD, SlowOnlyConfig
from weavejax.models.torch_names import Arrays, count_layers
from weavejax.weights.published import Format, Part


def sizes(state: Arrays) -> SlowOnlyConfig:
    """The sizes that a state dict has.

    Raises:
        KeyError: an array that tells them is missing.
    """
    pattern = rf"{re.escape(ENCODER)}layer(\d)\."
    found = {int(match[1]) for key in state if (match := re.match(pattern, key))}
    stages = range(1, 1 + max(found, default=1))
    firsts = [state[f"{ENCODER}layer{n}.0.conv1.conv.weight"].shape for n in stages]
    return SlowOnlyConfig(
        width=state[f"{ENCODER}conv1.conv.weight"].shape[0],
        blocks=tuple(count_layers(state, f"{ENCODER}layer{n}.") for n in stages),
        temporal=tuple(shape[2] > 1 for shape in firsts),
        embedding=state[f"{HEAD}.weight"].shape[0],
    )


CAVP = Format(
    about="CAVP (Diff-Foley's first stage)",
    marks=(f"{ENCODER}conv1.conv.weight", f"{HEAD}.weight"),
    parts=(Part("vision/", "", SlowOnlyConfig, sizes, slow_only.table, slow_only.shapes),),
    official=lambda key: key.replace("module.", ""),
    kept={
        "the half that listens": r"^spec_(encoder|project_head)\.",
        "temperature": r"^logit_scale$",
        "counters of batches": r"^video_encoder\..*\.num_batches_tracked$",
    },
)
