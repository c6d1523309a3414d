"""Train a system.

  python -m weavejax.train --config configs/gram.py
  python -m weavejax.train --config configs/gram.py --config.seed=1 --workdir runs/gram-1
  python -m weavejax.train --config configs/gram.py:files --config.data.root DIR

Started again with the same working directory, a run goes on from its newest good checkpoint, on any
number of processes and devices. The directory holds: config.json, metrics.jsonl, tensorboard/,
checkpoints/, events/, tokenizer.json, parameters.txt, results.json, results.md and plots/.

Exit status: 0 done; 2 something to mend, in one line; 75 asked to stop (SIGTERM to any process):
saved, start the same command again; 130 the same by Ctrl-C; anything else is a failure.
"""

import sys
import time
from collections.abc import Sequence

import jax

from weavejax import systems
from weavejax.data.pipeline import train_batches
from weavejax.runs import assemble, evaluation, initial, learning, results, sweep
from weavejax.runs.session import Session
from weavejax.runtime import cli, cluster, manifest, sharding
from weavejax.runtime.checkpoint import Checkpoints
from weavejax.runtime.events import EventLog
from weavejax.runtime.loop import Every, Window, train_loop
from weavejax.runtime.mesh import batch_rows, check_batch, make_mesh
from weavejax.runtime.records import duration
from weavejax.runtime.signals import StopRequest
from weavejax.runtime.step import lay_out, make_train_step
from weavejax.runtime.watchdog import Watchdog
from weavejax.runtime.workdir import check_workdir, keep_compiled, open_workdir
from weavejax.storage import write_text

FLAGS = {
    "workdir": "directory of the run; default runs/<config name>",
    **sweep.FLAGS,
    "cluster": f"how processes find each other: {', '.join(cluster.KINDS)}; default auto",
}


def main(argv: Sequence[str]) -> None:
    """One run, top to bottom; whatever can be wrong with it is found before anything compiles."""
    if (status := sweep.run(argv)) is not None:
        sys.exit(status)
    began = time.monotonic()
    # 1. What is asked for, by whom.
    arguments = cli.parse(argv, __doc__ or "", FLAGS, takes_config=True)
    config, runtime = arguments.config, arguments.config.runtime
    stop, watchdog = StopRequest(), Watchdog(runtime.deadlines)
    stop.listen()
    cluster.start(arguments.values["cluster"] or "auto")
    watchdog.phase()
    cluster.check_same("config", config.to_json_best_effort())
    system = systems.build(config)
    mesh = make_mesh(runtime.mesh)
    check_batch(config.batch, mesh)
    check_batch(runtime.evaluate_batch, mesh)
    workdir = check_workdir(arguments.values["workdir"] or f"runs/{arguments.config_name}", config)

    # 2. Data: rendered or found, by process 0 first; opened, described.
    watchdog.data()
    data = cluster.primary_first("data", lambda: learning.open_learning(system, config, workdir))
    watchdog.phase()
    say("\n".join(filter(None, (data.describe(), data.missing()))))

    # 3. The shapes of everything, and where each piece lives. All is in order: keep the config.
    layout = lay_out(system, config, mesh)
    cluster.check_same("vocabulary", data.vocabulary)
    initial.announce(system, layout, config.init, workdir)
    if cluster.primary():
        open_workdir(workdir, config)
        assemble.keep_tokenizer(data, workdir)
        assemble.say_streams(data.train, workdir)
        table = sharding.table(layout.shapes.params, layout.placed.params)
        write_text(workdir / "parameters.txt", table + "\n")
        say(f"{table.splitlines()[-1]}; mesh {dict(mesh.shape)}; {workdir}")
    keep_compiled(workdir)
    cluster.barrier("workdir", runtime.deadlines.phase or 3600)
    events = EventLog(workdir, jax.process_index())
    events.add("start", time.monotonic() - began)

    # 4. Where to start: the newest good checkpoint, else `config.init`, made where it belongs.
    checkpoints = Checkpoints(
        workdir / "checkpoints",
        keep=runtime.keep,
        origin=manifest.origin(config),
        **runtime.storage.to_dict(),
    )
    with events.timed("restore"):
        good = cluster.from_primary("checkpoint", lambda: str(checkpoints.newest_good() or ""))
        key, window = jax.random.key(config.seed), Window()
        if good:
            wanted = layout.init(key) if runtime.partial else layout.abstract
            state = checkpoints.restore(wanted, int(good), partial=runtime.partial)
            window = Window.from_json(checkpoints.facts(int(good))["window"])
            say(f"resumed from the checkpoint of step {int(state.step)}")
        else:
            state = jax.block_until_ready(initial.state(system, layout, config.init, key))
        learning.check_networks(data, state.params)

    # 5. What happens between steps.
    evaluate = evaluation.make_evaluation(system, config, data, layout.placed.params, mesh)
    session = Session(
        config,
        system,
        mesh,
        data,
        workdir,
        checkpoints=checkpoints,
        evaluation=evaluate,
        stop=stop,
        events=events,
        watchdog=watchdog,
        start=int(state.step),
    )

    # 6. Train.
    with train_batches(
        data.train,
        data.train_spec,
        data.tokenizer,
        batch=config.batch,
        seed=config.seed,
        start_step=int(state.step),
        workers=runtime.workers,
        cache_dir=data.cache,
        prefetch=runtime.prefetch,
        rows=batch_rows(config.batch, mesh),
    ) as batches:
        every = Every(runtime.log_every, runtime.evaluate_every, runtime.save_every, config.steps)
        train_step = make_train_step(system, layout, mesh, config)
        state, timing, stopped = train_loop(state, train_step, batches, every, session, window)
    watchdog.phase()
    checkpoints.finish(state)
    session.close()

    # 7. Results.
    reports = None if stopped else session.reports(state)
    if reports and cluster.primary():
        about = {"config": arguments.config_name, "seed": config.seed, "step": int(state.step)}
        about |= {"data": data.describe(), "best checkpoint": f"step {checkpoints.best_step()}"}
        about |= assemble.gallery_facts(data.test)
        results.write_results(workdir, reports, headline=system.headline, facts=about)
        print(results.markdown(reports))
    events.add("stop", 0.0, step=int(state.step), status=0 if reports else stop.status)
    events.close()
    checkpoints.close()
    cluster.shutdown()
    watchdog.close()
    stop.close()
    if not reports:
        say(f"stopped after step {int(state.step)}, which is saved; start the same command again")
        sys.exit(stop.status)
    say(
        f"done in {duration(time.monotonic() - began)} (first step {duration(timing.compile)}, "
        f"then {timing.steps} steps in {duration(timing.loop)}, "
        f"{timing.wait_percent():.1f} % of it waiting for data); everything is in {workdir}"
    )


def say(words: str) -> None:
    """Prints a line, once in a job."""
    if cluster.primary():
        print(words, flush=True)


if __name__ == "__main__":
    cli.launch(main)
