"""A plan as a page for people."""

from collections.abc import Mapping, Sequence
from typing import Any

from weavejax.runtime.records import duration

Plan = Mapping[str, Any]


def page(plan: Plan, command: str) -> str:
    """The whole plan in Markdown."""
    blocks = [
        f"# Plan: {plan['devices']} × {plan['chip']} ({plan['topology']})",
        f"`{command}`",
        f"**{plan['verdict']}**",
        _facts(plan),
        _memory(plan),
        _flops(plan),
    ]
    if plan["fits"]:
        blocks += [_collectives(plan), _roofline(plan)]
    return "\n\n".join(block for block in blocks if block) + "\n"


def _facts(plan: Plan) -> str:
    parameters, whole = plan["parameters"], plan["largest replicated leaf"]
    seconds = plan["seconds"]
    lines = [
        f"- mesh: {mesh_text(plan['mesh'])}; batch {plan['batch']:,} "
        f"({plan['batch'] / plan['devices']:g} a device)",
        f"- recomputation: {remat_text(plan)}",
        f"- parameters: {parameters['total']:,} (trainable {parameters['trainable']:,}, "
        f"frozen {parameters['frozen']:,})",
        f"- largest replicated parameter: {whole['path']}, {whole['bytes']:,} bytes on every device"
        if whole
        else "- no parameter is replicated",
        f"- traced in {duration(seconds['lower'])}, compiled in {duration(seconds['compile'])} "
        f"({_optimisation(plan)})",
    ]
    warnings = plan["partitioner warnings"]
    if warnings:
        lines.append(
            f"- the partitioner had to make {len(warnings)} array(s) whole on every device: "
            + ", ".join(sorted(set(warnings))[:5])
        )
    return "\n".join(lines)


def _optimisation(plan: Plan) -> str:
    level = plan["optimisation"]
    if level == "full":
        return "full optimisation"
    return f"--fast: optimisation level {level}; a run's own compilation may differ a little"


def _memory(plan: Plan) -> str:
    usable = plan["usable HBM"]
    rows = [(name, size_text(size)) for name, size in plan["bytes per device"].items()]
    if usable:
        rows.append(("usable HBM", size_text(usable)))
    note = (
        "\n\nThe peak counts what lives at the same time; temporaries are all that are ever made "
        "room for."
        if plan["fits"]
        else ""
    )
    return "## Memory of one device\n\n" + markdown_table(("", "size"), rows) + note


def _flops(plan: Plan) -> str:
    flops = plan["flops"]
    rows = [
        *(
            (f"forward, {part}", flops_text(count))
            for part, count in flops["forward by part"].items()
        ),
        ("forward, together", flops_text(flops["forward"])),
        ("step: trained parts 3 ×, passed ones 2 ×, frozen ones 1 ×", flops_text(flops["step"])),
        ("recomputation, on top", flops_text(flops["recomputation"])),
    ]
    passed = flops["passed parts"]
    frozen = ", ".join(flops["frozen parts"]) or "none"
    if passed:
        frozen += f"; gradients pass through {', '.join(passed)}"
    return (
        "## Work of one step, all devices\n\n"
        + markdown_table(("analytic", "FLOPs"), rows)
        + f"\n\nFrozen parts: {frozen}. The contrastive scores themselves are not counted."
    )


def _collectives(plan: Plan) -> str:
    rows = [
        (
            kind,
            f"{found['count']:,.0f}",
            size_text(found["bytes"]),
            size_text(found["largest array"]["bytes"]),
            f"{found['largest array']['group']}",
            _short(found["largest array"]["source"]),
        )
        for kind, found in plan["collectives"].items()
    ]
    head = ("collective", "times", "sent", "largest array", "group", "of")
    text = "## Collectives of one device in one step\n\n" + (
        markdown_table(head, rows) if rows else "None."
    )
    unknown = plan["loops of unknown length"]
    if unknown:
        text += f"\n\nCounted once, since their length is not known: loops {', '.join(unknown)}."
    return text


def _short(source: str) -> str:
    """The last parts of an operation's path."""
    parts = [
        p for p in source.split("/") if p not in ("while", "body", "closed_call", "checkpoint")
    ]
    return "/".join(parts[-4:])


def _roofline(plan: Plan) -> str:
    if "roofline" not in plan:
        return ""
    found = plan["roofline"]
    rows = [
        ("compute", seconds(found["compute"])),
        ("memory", seconds(found["memory"])),
        (
            "links, fast to slow",
            f"{seconds(found['links_fast'])} to {seconds(found['links_slow'])}",
        ),
        ("network between slices", seconds(found["network"])),
        ("**a step, optimistic to pessimistic**", estimate_text(plan)),
    ]
    rate = plan["batch"] / found["optimistic"]
    return (
        "## Estimate, not a measurement\n\n"
        + markdown_table(("", "time"), rows)
        + f"\n\nBound by {found['bound_by']}; at most {rate:,.0f} clips/s and "
        f"{found['utilisation at most %']:.0f} % of the peak. Assumed:\n\n"
        + "\n".join(f"- {line}" for line in found["assumptions"])
    )


def search_page(plans: Sequence[Plan], refused: Mapping[str, str]) -> str:
    """What fits, fastest estimate first; then what does not."""
    fitting = sorted((p for p in plans if p["fits"]), key=_speed)
    head = ("mesh", "remat", "batch", "peak", "a step", "bound by", "sent", "compiled in")
    rows = [
        (
            mesh_text(plan["mesh"]),
            remat_text(plan),
            f"{plan['batch']:,}",
            size_text(plan["bytes per device"]["peak"]),
            estimate_text(plan),
            plan["roofline"]["bound_by"] if "roofline" in plan else "",
            size_text(sum(found["bytes"] for found in plan["collectives"].values())),
            duration(plan["seconds"]["compile"]),
        )
        for plan in fitting
    ]
    lines = [markdown_table(head, rows) if rows else "Nothing fits."]
    lines += [
        f"{mesh_text(plan['mesh'])}, remat {remat_text(plan)}: {plan['verdict']}"
        for plan in plans
        if not plan["fits"]
    ]
    lines += [f"{mesh}: impossible: {reason}" for mesh, reason in refused.items()]
    return "\n\n".join(lines) + "\n"


def best(plans: Sequence[Plan]) -> Any:
    """The fastest that fits; where nothing does, the first, which needs least."""
    return min((p for p in plans if p["fits"]), key=_speed, default=plans[0])


def _speed(plan: Plan) -> float:
    """What the table is sorted by: the middle of the estimate, else the peak."""
    found = plan.get("roofline")
    if not found:
        return float(plan["bytes per device"]["peak"])
    return float(found["optimistic"] + found["pessimistic"])


def one_line(plan: Plan) -> str:
    """A plan in one line of a search."""
    return (
        f"{mesh_text(plan['mesh'])}, remat {remat_text(plan)}: {plan['verdict']}"
        + (f", a step {estimate_text(plan)}" if "roofline" in plan else "")
        + f" (compiled in {duration(plan['seconds']['compile'])})"
    )


def remat_text(plan: Plan) -> str:
    """ "full", or "vision full, audio dots" where parts differ."""
    policies = plan["remat"]
    if len(set(policies.values())) <= 1:
        return next(iter(policies.values()), "no choice")
    return ", ".join(f"{part} {policy}" for part, policy in policies.items())


def mesh_text(shape: Mapping[str, int]) -> str:
    """ "replica 2 × data 128 × model 1"."""
    return " × ".join(f"{axis} {size}" for axis, size in shape.items())


def estimate_text(plan: Plan) -> str:
    """ "0.31 s to 0.54 s"."""
    found = plan.get("roofline")
    return f"{seconds(found['optimistic'])} to {seconds(found['pessimistic'])}" if found else ""


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Rows of text as a Markdown table; the first column to the left, the rest to the right."""
    lines = [head, [":--", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def size_text(size: float) -> str:
    """Bytes: 3221225472 → "3.00 GiB"."""
    for unit in ("B", "KiB", "MiB"):
        if size < 1024:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.2f} GiB"


def flops_text(count: float) -> str:
    """FLOPs: 1.1e12 → "1.10 TFLOP"."""
    for unit in ("", "k", "M", "G", "T"):
        if count < 1000:
            return f"{count:.3g} {unit}FLOP"
        count /= 1000
    return f"{count:,.2f} PFLOP"


def seconds(value: float) -> str:
    """0.0312 → "31.2 ms"."""
    return f"{value:.2f} s" if value >= 1 else f"{1e3 * value:.3g} ms"
