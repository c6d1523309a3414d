"""Evaluate a trained run on its held-out clips; print and write the tables.

  python -m weavejax.evaluate --workdir runs/gram
  python -m weavejax.evaluate --workdir runs/gram --step best

Prints R@1/5/10 and the median rank in both directions for every subset of modalities, statistics of
the volumes, and the pairwise cosines; rewrites results.json, results.md and plots/.
"""

from collections.abc import Sequence

from weavejax.errors import UserError
from weavejax.runs import assemble, compare, results
from weavejax.runs.restore import restore
from weavejax.runtime import cli
from weavejax.storage import storage

FLAGS = {
    "workdir": "directory of a training run",
    "step": "which checkpoint: latest (default), best, or a step",
    **compare.FLAGS,
}


def main(argv: Sequence[str]) -> None:
    """Restores, embeds the evaluation clips, reports."""
    if compare.wanted(argv):
        compare.run(argv)
        return
    values = cli.parse(argv, __doc__ or "", FLAGS, takes_config=False).values
    if not values["workdir"]:
        raise UserError("--workdir is missing, as in --workdir runs/gram; see --help")
    workdir = storage(values["workdir"])
    trained = restore(workdir, values["step"])
    data = assemble.open_data(trained.config, workdir)
    print(data.describe(), flush=True)
    evaluation = assemble.make_evaluation(
        trained.system, trained.config, data, trained.placed, trained.mesh
    )
    reports, _ = evaluation(trained.params)
    facts = {"step": trained.step, "seed": trained.config.seed, "data": data.describe()}
    results.write_results(workdir, reports, headline=trained.system.headline, facts=facts)
    print(results.markdown(reports))
    print(f"written to {workdir}/results.md, results.json and plots/")


if __name__ == "__main__":
    cli.launch(main)
