"""Train a system.

  python -m weavejax.train --config configs/gram.py
  python -m weavejax.train --config configs/gram.py --config.seed=1 --workdir runs/gram-1
  python -m weavejax.train --config configs/gram.py:files --config.data.root DIR

Started again with the same working directory, a run goes on from its last checkpoint. The directory
holds: config.json, metrics.jsonl, tensorboard/, checkpoints/, tokenizer.json, parameters.txt,
results.json, results.md and plots/.
"""

import time
from collections.abc import Mapping, Sequence

import jax
import numpy as np

from weavejax import assemble, results, systems
from weavejax.data.broken import BrokenLog
from weavejax.data.pipeline import train_batches
from weavejax.runtime import cli, sharding
from weavejax.runtime.checkpoint import Checkpoints
from weavejax.runtime.loop import Every, Hooks, Timing, train_loop
from weavejax.runtime.mesh import batch_sharding, check_batch, make_mesh, put_batch
from weavejax.runtime.records import MetricWriter, Terminal, duration
from weavejax.runtime.step import State, evaluated_params, lay_out, make_train_step
from weavejax.runtime.workdir import check_workdir, open_workdir, write_text

FLAGS = {"workdir": "directory of the run; default runs/<config name>"}


def main(argv: Sequence[str]) -> None:
    """One run, top to bottom; whatever can be wrong with it is found before anything compiles."""
    began = time.monotonic()
    # 1. What is asked for.
    arguments = cli.parse(argv, __doc__ or "", FLAGS, takes_config=True)
    config = arguments.config
    system = systems.build(config)
    mesh = make_mesh(config.runtime.mesh)
    check_batch(config.batch, mesh)
    check_batch(config.runtime.evaluate_batch, mesh)
    workdir = check_workdir(arguments.values["workdir"] or f"runs/{arguments.config_name}", config)

    # 2. Data: rendered or found, opened, described.
    data = assemble.open_data(config, workdir)
    print(data.describe(), flush=True)

    # 3. The shapes of everything, and where each piece lives. All is in order: keep the config.
    layout = lay_out(system, config.optim, config.steps, mesh)
    open_workdir(workdir, config)
    data.tokenizer.save(str(workdir / assemble.TOKENIZER))
    assemble.say_streams(data.train, workdir)
    table = sharding.table(layout.shapes.params, layout.placed.params)
    write_text(workdir / "parameters.txt", table + "\n")
    print(f"{table.splitlines()[-1]}; mesh {dict(mesh.shape)}; {workdir}", flush=True)

    # 4. Where to start: the newest checkpoint, else fresh numbers, made where they belong.
    checkpoints = Checkpoints(workdir / "checkpoints", keep=config.runtime.keep)
    if checkpoints.steps():
        state = checkpoints.restore(layout.abstract, checkpoints.steps()[-1])
        print(f"resumed from the checkpoint of step {int(state.step)}", flush=True)
    else:
        state = layout.init(jax.random.key(config.seed))
    start = int(state.step)

    # 5. What happens between steps.
    writer = MetricWriter(workdir, start=start)
    terminal = Terminal(config.steps, start)
    evaluation = assemble.make_evaluation(system, config, data, layout.placed.params, mesh)
    broken = BrokenLog(workdir / "broken.jsonl", config.data.broken)
    batch_place = batch_sharding(mesh)

    def inspect(step: int, batch: Mapping[str, np.ndarray]) -> None:
        terminal.advance(step - 1)
        for name in broken.update(batch["wanted"], batch["index"], data.train):
            terminal.say(f"unreadable clip {name}: another takes its place; see broken.jsonl")

    def log(step: int, metrics: dict[str, float], timing: Timing) -> None:
        writer.write(step, "train", metrics)
        rate = config.batch * timing.steps / timing.loop if timing.loop else 0.0
        writer.write(step, "time", {"clips per second": rate, "data wait %": timing.wait_percent()})
        terminal.note(
            step,
            f"loss {metrics['loss']:.3f}  {rate:.0f} clips/s  "
            f"data wait {timing.wait_percent():.1f} %",
        )

    def evaluate(state: State) -> float:
        reports, _ = evaluation(evaluated_params(state))
        scalars = results.scalars(reports)
        writer.write(int(state.step), "eval", scalars)
        terminal.say(f"step {int(state.step)}  {system.headline} {scalars[system.headline]:.1f}")
        return scalars[system.headline]

    hooks = Hooks(
        place=lambda batch: put_batch({n: batch[n] for n in system.batch_spec}, batch_place),
        inspect=inspect,
        log=log,
        evaluate=evaluate,
        save=lambda state, headline: checkpoints.save(state, headline=headline),
    )
    runtime = config.runtime
    every = Every(runtime.log_every, runtime.evaluate_every, runtime.save_every, config.steps)

    # 6. Train.
    train_step = make_train_step(
        system, layout, mesh, seed=config.seed, average_decay=config.optim.average
    )
    with train_batches(
        data.train,
        data.spec,
        data.tokenizer,
        batch=config.batch,
        seed=config.seed,
        start_step=start,
        workers=runtime.workers,
        cache_dir=data.cache,
        prefetch=runtime.prefetch,
        shard=(jax.process_index(), jax.process_count()),
    ) as batches:
        state, timing = train_loop(state, train_step, batches, every, hooks)
    best = checkpoints.best_step()
    checkpoints.close()
    terminal.close()
    writer.close()

    # 7. Results.
    reports, _ = evaluation(evaluated_params(state))
    facts = {
        "config": arguments.config_name,
        "seed": config.seed,
        "step": int(state.step),
        "data": data.describe(),
        "best checkpoint": f"step {best}",
    }
    results.write_results(workdir, reports, headline=system.headline, facts=facts)
    print(results.markdown(reports))
    print(
        f"done in {duration(time.monotonic() - began)} (first step {duration(timing.compile)}, "
        f"then {timing.steps} steps in {duration(timing.loop)}, "
        f"{timing.wait_percent():.1f} % of it waiting for data); everything is in {workdir}"
    )


if __name__ == "__main__":
    cli.launch(main)
