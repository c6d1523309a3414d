"""What another run predicts of the evaluation clips, for a system that makes sound to follow."""

import numpy as np

from weavejax.data.pipeline import eval_batches
from weavejax.diffusion.windows import plan_windows
from weavejax.errors import UserError
from weavejax.runs import assemble
from weavejax.runs.assemble import Data
from weavejax.runs.control_sources import Predictor
from weavejax.runs.evaluation import make_embedding
from weavejax.runs.generation import find_generator
from weavejax.runs.restore import Trained, restore
from weavejax.runtime.mesh import batch_rows
from weavejax.storage import storage

FLAGS = {
    "when": "workdir of a run of the onset or envelope system: a system that makes sound is also "
    "evaluated under the controls that it predicts"
}
SAME = ("seconds", "windows")  # of `config.inputs`: what one clip of the evaluation is


def predicted(place: str, trained: Trained, data: Data) -> dict[str, np.ndarray]:
    """The controls that a run predicts for every clip, as the system is given them.

    Args:
      place: working directory of the run.
      trained: of a system that makes sound.
      data: that it is evaluated on.

    Returns:
      The arrays of `Generator.condition`, with a leading record of the evaluation split.

    Raises:
      UserError: the system makes no sound or follows something else, or the run sees other windows.
    """
    maker = find_generator(trained)
    predictor = Predictor(restore(storage(place)))
    other, inputs = predictor.trained, trained.config.inputs
    for key in SAME:
        ours, theirs = inputs.get(key, 1), other.config.inputs.get(key, 1)
        if ours != theirs:
            raise UserError(f"--when {place}: inputs.{key} is {theirs} there, {ours} here")
    batch, recipe = other.config.runtime.evaluate_batch, assemble.recipe(other.config)
    embed = make_embedding(other.system, other.placed, other.mesh, batch)
    rows = batch_rows(batch, other.mesh)
    with eval_batches(
        data.test, recipe, None, batch=batch, cache_dir=data.cache, rows=rows
    ) as clips:
        found = embed(other.params, clips)
    window = plan_windows(predictor.width, predictor.width, 0)
    names: list[str] = [name for name in ("envelope", "logits") if name in found]
    samples = round(inputs.seconds * maker.rate)
    told = []
    for record in range(len(data.test)):
        said = {name: found[name][record : record + 1] for name in names}
        when = predictor.when(said, window, inputs.seconds)
        if getattr(when, maker.when) is None:
            raise UserError(
                f"--when {place}: the system follows {maker.when}, which that run does not predict"
            )
        told.append(maker.condition(when, samples))
    return {name: np.stack([each[name] for each in told]) for name in told[0]}
