"""Plan a run: compile its real train step for devices that are not there.

  python -m weavejax.plan --config configs/gram.py:published --topology v5p:4x4x8
  python -m weavejax.plan --config configs/gram.py --topology cpu:8
  python -m weavejax.plan --config configs/gram.py:published --topology 2*v5e:16x16 \\
      --config.runtime.mesh.replica=4 --config.batch=2048 --fast
  python -m weavejax.plan --config configs/gram.py:published --topology v5e:16x16 --search --fast

Says whether the step fits, what it holds in memory, what it sends, and how long it takes at least.
TPU slices need the compiler, not a TPU: pip install 'weavejax[aot]'. Writes plan.json and plan.md
(with --search also search.md). Exit status 2 when nothing fits.
"""

import json
import shlex
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from weavejax.errors import UserError
from weavejax.planning import page as plan_page
from weavejax.planning import plans as planning
from weavejax.planning.topology import Topology, open_topology
from weavejax.runtime import cli
from weavejax.runtime.records import duration
from weavejax.runtime.workdir import write_text

FLAGS = {
    "topology": "what to compile for: v5p:4x4x8, 2*v5e:16x16 (two slices), cpu:8",
    "out": "directory of the plan; default plans/<config name>-<topology>",
    "fast": "no value; compile with optimisation level O1: several times faster, close numbers",
    "search": "no value; try meshes and recomputation policies, and list what fits",
}
SWITCHES = ("fast", "search")


def main(argv: Sequence[str]) -> None:
    """Parse, compile, write, say."""
    # The command line takes flags with values only; these two have none.
    given = [f"{a}=yes" if a.lstrip("-") in SWITCHES and a.startswith("-") else a for a in argv]
    arguments = cli.parse(given, __doc__ or "", FLAGS, takes_config=True)
    values = arguments.values
    if not values["topology"]:
        raise UserError("--topology is missing, as in --topology v5p:4x4x8 or cpu:8; see --help")
    topology = open_topology(values["topology"])
    fast = bool(values["fast"])
    place = topology.name.replace("*", "-").replace(":", "-")
    out = Path(values["out"] or f"plans/{arguments.config_name}-{place}")
    command = "python -m weavejax.plan " + shlex.join(argv)

    if values["search"]:
        plan = _search(arguments.config, topology, out, fast=fast)
    else:
        print(f"compiling the train step for {topology.name}: seconds to minutes", flush=True)
        plan = planning.make_plan(arguments.config, topology, fast=fast)
    _write(plan, command, out)
    if not plan["fits"]:
        raise UserError(
            f"{plan_page.mesh_text(plan['mesh'])}, remat {plan_page.remat_text(plan)}: "
            f"{plan['verdict']}; see {out}/plan.md"
        )
    print(f"{plan_page.page(plan, command)}\nwritten to {out}/plan.json and plan.md")


def _search(config: Any, topology: Topology, out: Path, *, fast: bool) -> planning.Plan:
    """The fastest plan that fits, else the one that came nearest; prints and writes the table."""
    _, refused = planning.candidates(config, topology)
    plans: list[planning.Plan] = []
    began = time.monotonic()
    for left, plan in planning.search(config, topology, fast=fast):
        plans.append(plan)
        wait = (time.monotonic() - began) / len(plans) * left
        print(f"{plan_page.one_line(plan)}; at most {duration(wait)} left", flush=True)
    table = plan_page.search_page(plans, refused)
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "search.md", table)
    print(f"\n{table}")
    return plan_page.best(plans)


def _write(plan: planning.Plan, command: str, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / "plan.json", json.dumps({"command": command, **plan}, indent=2) + "\n")
    write_text(out / "plan.md", plan_page.page(plan, command))


if __name__ == "__main__":
    cli.launch(main)
