"""The systems by name: an explicit dictionary of builders `(config) -> System`."""

from collections.abc import Callable
from typing import Any

from weavejax.errors import UserError
from weavejax.systems import envelope, folai, gram, onset, oobleck, syncfusion
from weavejax.systems.base import System
from weavejax.systems.lora import adapt

SYSTEMS: dict[str, Callable[[Any], System]] = {
    "envelope": envelope.build,
    "folai": folai.build,
    "gram": gram.build,
    "onset": onset.build,
    "oobleck": oobleck.build,
    "syncfusion": syncfusion.build,
}


def build(config: Any) -> System:
    """The system that `config.system` names, built for `config`."""
    if config.system not in SYSTEMS:
        raise UserError(f"system {config.system!r} is none of {', '.join(sorted(SYSTEMS))}")
    system = SYSTEMS[config.system](config)
    return adapt(system, config.lora) if "lora" in config else system
