"""How long a step takes at least: work over the rates of a chip."""

from dataclasses import asdict, dataclass

from weavejax.planning.topology import Chip

ASSUMPTIONS = (
    "compute: analytic matrix-product FLOPs (recomputation included) at the chip's bf16 peak",
    "memory: arguments read once, every array an instruction writes to HBM written and read once, "
    "at the full HBM rate",
    "links: bytes sent by ring algorithms; fast = over all links of a chip, slow = over the two "
    "links of one torus dimension",
    "network: bytes sent to other slices at the host's share per chip",
    "optimistic = the largest of the four, everything else hidden behind it (fast links); "
    "pessimistic = their sum (slow links); latency, imbalance and input are in neither",
)


@dataclass(frozen=True)
class Work:
    """What one device does in one step.

    Attributes:
      flops: of matrix products, recomputation included.
      memory: bytes from and to HBM.
      links: bytes sent to neighbours.
      network: bytes sent to other slices.
    """

    flops: float
    memory: float
    links: float
    network: float


@dataclass(frozen=True)
class Estimate:
    """Seconds of one step, part by part and together (`ASSUMPTIONS`)."""

    compute: float
    memory: float
    links_fast: float
    links_slow: float
    network: float
    optimistic: float
    pessimistic: float
    bound_by: str

    def as_dict(self) -> dict[str, float | str]:
        """For JSON."""
        return asdict(self)


def estimate(chip: Chip, work: Work) -> Estimate:
    """The roofline of a step; `bound_by` names the part that takes longest."""
    parts = {
        "compute": work.flops / chip.flops,
        "memory": work.memory / chip.memory_rate,
        "links": work.links / chip.link_rate,
        "network": work.network / chip.network_rate if work.network else 0.0,
    }
    slow = parts["links"] * chip.torus
    return Estimate(
        compute=parts["compute"],
        memory=parts["memory"],
        links_fast=parts["links"],
        links_slow=slow,
        network=parts["network"],
        optimistic=max(parts.values()),
        pessimistic=sum(parts.values()) - parts["links"] + slow,
        bound_by=max(parts, key=lambda part: parts[part]),
    )
