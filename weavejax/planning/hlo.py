"""What a compiled step moves: collectives and memory traffic, read from its HLO text.

XLA's own cost analysis counts the body of a loop once; a scanned tower of forty layers is such a
loop. Here every instruction counts as often as it runs: the text is walked from its entry, and the
bodies of loops are multiplied by their trip counts.
"""

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

KINDS = (
    "all-gather",
    "all-reduce",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
    "collective-broadcast",
)
BETWEEN_SLICES = "between slices"
# Make no data of their own; what they name is counted where it is made.
_FREE = {
    *("parameter", "constant", "tuple", "get-tuple-element", "bitcast", "after-all"),
    *("while", "conditional", "call", "send", "send-done", "recv-done", "partition-id"),
}
_BITS = {"pred": 8, "token": 0, "opaque": 0, "bf16": 16, "f16": 16, "c64": 64, "c128": 128}
_VMEM = "S(1)"  # on-chip memory of a TPU, in the layout of a shape

_INSTRUCTION = re.compile(r"\s+(ROOT )?%?([\w.\-]+) = (.*?) ([a-z][a-z0-9\-]*)\((.*)")
_COMPUTATION = re.compile(r"(ENTRY )?%?([\w.\-]+) \(.*\{$")
_ARRAY = re.compile(r"([a-z]\w*)\[([\d,<=]*)\](\{[^}]*\})?")
_CALLEES = re.compile(
    r"(?:calls|to_apply|body|condition|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")


class Instruction(NamedTuple):
    """One line of HLO: `name = shape op(rest`."""

    root: bool
    name: str
    shape: str
    op: str
    rest: str


@dataclass(frozen=True)
class Collective:
    """One collective of the program.

    Attributes:
      kind: one of `KINDS`, or e.g. "all-reduce between slices".
      group: devices (or slices) that take part together.
      sent: bytes that one device sends in one execution, by the ring algorithms: (n − 1)/n of the
        gathered, scattered or exchanged array, twice that of a reduced one.
      size: bytes of the whole array in one execution.
      times: executions in one step.
      source: where in the model it comes from.
    """

    kind: str
    group: int
    sent: float
    size: float
    times: float
    source: str


@dataclass
class Traffic:
    """What one device moves in one step.

    Attributes:
      collectives: every one.
      made: bytes of the arrays that instructions write to main memory.
      unknown: loops whose trip count the text does not tell; they are counted once.
    """

    collectives: list[Collective] = field(default_factory=list)
    made: float = 0.0
    unknown: list[str] = field(default_factory=list)

    def by_kind(self) -> dict[str, tuple[float, float]]:
        """Kind → (executions, bytes sent by a device) in one step."""
        out: dict[str, tuple[float, float]] = {}
        for one in self.collectives:
            count, sent = out.get(one.kind, (0.0, 0.0))
            out[one.kind] = (count + one.times, sent + one.times * one.sent)
        return dict(sorted(out.items()))

    def largest(self, kind: str) -> Collective | None:
        """The collective of a kind that handles the largest array."""
        return max(
            (c for c in self.collectives if c.kind == kind), key=lambda c: c.size, default=None
        )


def read(text: str, devices: int) -> Traffic:
    """Reads a compiled program (`jax.stages.Compiled.as_text()`).

    Args:
      text: optimised HLO of one device's program.
      devices: in the program; the group of a collective that names no groups.
    """
    entry, computations = _parse(text)
    traffic = Traffic()
    if entry:
        _walk(entry, 1.0, computations, traffic, devices, set())
    return traffic


def array_bytes(shape: str, *, main_memory_only: bool = False) -> float:
    """Bytes of an HLO shape such as "(f32[8,4]{1,0}, s32[])"."""
    total = 0.0
    for dtype, dims, layout in _ARRAY.findall(shape):
        if main_memory_only and _VMEM in layout:
            continue
        digits = re.search(r"\d+", dtype)
        bits = _BITS.get(dtype, int(digits.group()) if digits else 0)
        sizes = [int(d.strip("<=")) for d in dims.split(",") if d.strip("<=")]
        total += math.prod(sizes) * bits / 8
    return total


def _parse(text: str) -> tuple[str, dict[str, list[Instruction]]]:
    entry, current = "", ""
    computations: dict[str, list[Instruction]] = {}
    for line in text.splitlines():
        if line.startswith(" "):
            found = _INSTRUCTION.match(line) if current else None
            if found:
                root, *parts = found.groups()
                computations[current].append(Instruction(bool(root), *parts))
        elif head := _COMPUTATION.match(line):
            current = head.group(2)
            computations[current] = []
            entry = current if head.group(1) else entry
        elif line.startswith("}"):
            current = ""
    return entry, computations


def _walk(
    name: str,
    times: float,
    computations: Mapping[str, list[Instruction]],
    traffic: Traffic,
    devices: int,
    seen: set[str],
) -> None:
    """Adds a computation that runs `times` times; `seen` holds the channels met on its way."""
    for one in computations.get(name, ()):
        traffic.made += times * _made(one, computations)
        found = _collective(one, name, times, devices)
        if found:
            # A collective that runs beside other work is cut up over several fusions, each of which
            # repeats it with the same channel.
            channel = re.search(r"channel_id=(\d+)", one.rest)
            mark = f"{found.kind} {channel.group(1)}" if channel else one.name
            if mark not in seen:
                seen.add(mark)
                traffic.collectives.append(found)
        if one.op == "while":
            body = _attribute(one.rest, "body")
            trips = _trip_count(one, computations)
            if trips is None:
                traffic.unknown.append(one.name)
            _walk(body, times * (trips or 1), computations, traffic, devices, set())
        elif one.op == "fusion":
            inner = Traffic()  # what is made inside a fusion never reaches memory
            _walk(_attribute(one.rest, "calls"), times, computations, inner, devices, seen)
            traffic.collectives += inner.collectives
        elif not one.op.endswith(("-done", "-update")):
            for callee in _callees(one):
                _walk(callee, times, computations, traffic, devices, set())


def _callees(one: Instruction) -> Iterator[str]:
    if one.op in ("call", "conditional") or one.op.endswith("-start"):
        yield from _CALLEES.findall(one.rest)
        for branches in _BRANCHES.findall(one.rest):
            yield from (branch.strip().lstrip("%") for branch in branches.split(","))


def _attribute(rest: str, name: str) -> str:
    found = re.search(rf"\b{name}=%?([\w.\-]+)", rest)
    return found.group(1) if found else ""


def _trip_count(loop: Instruction, computations: Mapping[str, list[Instruction]]) -> int | None:
    """How often a loop runs: what the compiler says, else the bound its counter is held against.

    The loops of `lax.scan` and of collective matrix products count up from 0, the latter by twos.
    """
    known = re.search(r'known_trip_count":?\s*[={]\s*\{?"?n"?[:=]\s*"?(\d+)', loop.rest)
    if known:
        return int(known.group(1))
    condition = computations.get(_attribute(loop.rest, "condition"), [])
    lines = list(condition)
    for one in condition:
        lines += computations.get(_attribute(one.rest, "calls"), [])
    bounds = {value for one in lines if (value := _constant(one)) is not None}
    upward = any(one.op == "compare" and "direction=LT" in one.rest for one in lines)
    if not upward or len(bounds) != 1:
        return None
    counters = [one for one in condition if one.op == "get-tuple-element"]
    body = computations.get(_attribute(loop.rest, "body"), [])
    return math.ceil(bounds.pop() / _stride(counters[0], body)) if counters else None


def _stride(counter: Instruction, body: list[Instruction]) -> int:
    """By how much a loop's body advances its counter; 1 where that cannot be read."""
    position = re.search(r"index=(\d+)", counter.rest)
    by_name = {one.name: one for one in body}
    names = [_operands(one) for one in body if one.root and one.op == "tuple"]
    if not position or not names or int(position.group(1)) >= len(names[0]):
        return 1
    stride, name = 0, names[0][int(position.group(1))]
    while name in by_name and by_name[name].op == "add":
        terms = _operands(by_name[name])
        steps = [
            value
            for term in terms
            if term in by_name and (value := _constant(by_name[term])) is not None
        ]
        stride += sum(steps)
        onward = [term for term in terms if term in by_name and by_name[term].op != "constant"]
        name = onward[0] if onward else ""
    return max(stride, 1)


def _constant(one: Instruction) -> int | None:
    found = re.match(r"(\d+)\)", one.rest) if one.op == "constant" else None
    return int(found.group(1)) if found else None


def _operands(one: Instruction) -> list[str]:
    """Names of what an instruction takes: the text up to the bracket that closes its operands."""
    depth = 1
    for place, character in enumerate(one.rest):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth == 0:
            return re.findall(r"%([\w.\-]+)", one.rest[:place])
    return []


def _collective(one: Instruction, where: str, times: float, devices: int) -> Collective | None:
    base = one.op.removesuffix("-start")
    source = re.search(r'op_name="([^"]*)"', one.rest)
    label = source.group(1) if source else one.name
    if one.op == "send" and "megascale" in one.rest:
        return _between_slices(one, times, label)
    if base not in KINDS:
        return None
    group = 2 if base == "collective-permute" else _group(one.rest, devices)  # sender and receiver
    size = array_bytes(one.shape)
    if one.op == "all-gather-start":  # (operand, result)
        size *= group / (group + 1)
    elif one.op == "collective-permute-start":  # (operand, result, context)
        size = array_bytes(one.shape.replace("u32[]", "")) / 2
    elif base == "reduce-scatter":
        size *= group
    if base == "all-reduce" and "all-reduce-scatter" in where:  # so a TPU writes a reduce-scatter
        base = "reduce-scatter"
    return Collective(base, group, _sent(base, size, group), size, times, label)


def _between_slices(one: Instruction, times: float, label: str) -> Collective:
    kind = re.search(r'megascale_transfer_type="(\w+)"', one.rest)
    base = kind.group(1).lower().replace("_", "-") if kind else "transfer"
    slices = re.search(r'megascale_target="\{([\d,]+)\}', one.rest)
    group = slices.group(1).count(",") + 1 if slices else 2
    size = array_bytes(one.shape.split("u32[]")[0])  # (data, context, token)
    return Collective(
        f"{base} {BETWEEN_SLICES}", group, _sent(base, size, group), size, times, label
    )


def _sent(kind: str, size: float, group: int) -> float:
    if kind in ("collective-permute", "collective-broadcast", "one-to-one", "transfer"):
        return size
    return size * (group - 1) / max(group, 1) * (2 if kind == "all-reduce" else 1)


def _group(rest: str, devices: int) -> int:
    """Devices in one replica group, of the three ways in which HLO writes groups."""
    listed = re.search(r"replica_groups=\{\{([\d,]*)\}", rest)
    if listed:
        return listed.group(1).count(",") + 1
    iota = re.search(r"replica_groups=\[([\d,]+)\]<=", rest)
    if iota:
        return int(iota.group(1).split(",")[-1])
    # The order of the devices may stand between a mesh and the axes of the groups.
    mesh = re.search(r"replica_groups=mesh\[([^\]]*)\][^{]*\{([^}]*)\}", rest)
    if mesh:
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", mesh.group(1)))
        parts = re.findall(r"'([^']+)'(?::\(\d+\)(\d+))?", mesh.group(2))
        return math.prod(int(part or sizes.get(axis, 1)) for axis, part in parts)
    return devices


def _made(one: Instruction, computations: Mapping[str, list[Instruction]]) -> float:
    """Bytes an instruction writes to main memory."""
    if one.op in _FREE or one.op.endswith(("-start", "-update")):
        return 0.0
    if one.op == "dynamic-update-slice" or "AllocateBuffer" in one.rest:
        return 0.0  # in place: the slice was counted where it was made; nothing is written yet
    total = array_bytes(one.shape, main_memory_only=True)
    if one.op != "fusion":
        return total
    inside = computations.get(_attribute(one.rest, "calls"), [])
    by_name = {line.name: line for line in inside}
    for line in inside:
        # Updated in place: only the slice is written. Passed through: nothing is.
        if line.op == "dynamic-update-slice":
            update = _operands(line)[1:2]
            written = (
                array_bytes(by_name[update[0]].shape) if update and update[0] in by_name else 0
            )
            total -= max(array_bytes(line.shape, main_memory_only=True) - written, 0.0)
        elif line.root and line.op == "tuple":
            for name in _operands(line):
                if name in by_name and by_name[name].op == "parameter":
                    total -= array_bytes(by_name[name].shape, main_memory_only=True)
    return max(total, 0.0)
