"""Evaluate a trained run, or converted weights, on held-out clips; print and write the tables.

  python -m weavejax.evaluate --workdir runs/gram
  python -m weavejax.evaluate --workdir runs/gram --step best
  python -m weavejax.evaluate --config configs/gram.py:published --weights params.safetensors
  python -m weavejax.evaluate --workdir runs/syncfusion --when runs/onset
  python -m weavejax.evaluate --tables runs/when

Prints R@1/5/10 and the median rank in both directions for every subset of modalities, statistics of
the volumes, and the pairwise cosines; rewrites results.json, results.md and plots/.
"""

from collections.abc import Sequence

from weavejax.runs import assemble, compare, evaluation, following, restore, results, tables
from weavejax.runtime import cli
from weavejax.storage import storage

FLAGS = {
    **restore.FLAGS,
    **compare.FLAGS,
    **tables.FLAGS,
    **following.FLAGS,
    "out": "of --weights, directory of the results, default results/<config name>; "
    + compare.FLAGS["out"],
}


def main(argv: Sequence[str]) -> None:
    """Opens the model and the data, embeds the evaluation clips, reports."""
    if compare.wanted(argv):
        compare.run(argv)
        return
    if tables.wanted(argv):
        tables.run(argv)
        return
    arguments = restore.parse(argv, __doc__ or "", FLAGS)
    values = arguments.values
    workdir = storage(values["workdir"] or values["out"] or f"results/{arguments.config_name}")
    if arguments.config is not None and arguments.config.inputs.text_length:
        assemble.find_tokenizer(arguments.config, None)  # the weights' own, not one made here
    trained = restore.open_model(arguments)
    data = assemble.open_data(trained.config, workdir)
    print(data.describe(), flush=True)
    told = following.predicted(values["when"], trained, data) if values["when"] else None
    evaluate = evaluation.make_evaluation(
        trained.system, trained.config, data, trained.placed, trained.mesh, told
    )
    reports, _ = evaluate(trained.params)
    about = {"data": data.describe(), **assemble.gallery_facts(data.test)}
    facts = {"step": trained.step, "seed": trained.config.seed, **about}
    if values["when"]:
        facts["controls predicted by"] = values["when"]
    workdir.mkdir(parents=True, exist_ok=True)
    results.write_results(workdir, reports, headline=trained.system.headline, facts=facts)
    print(results.markdown(reports))
    print(f"written to {workdir}/results.md, results.json and plots/")


if __name__ == "__main__":
    cli.launch(main)
