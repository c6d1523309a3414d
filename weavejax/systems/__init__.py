"""The systems by name: an explicit dictionary of builders `(config) -> System`."""

import importlib
from collections.abc import Callable
from typing import Any

from weavejax.errors import UserError
from weavejax.systems.base import System
from weavejax.systems.latents import KIND
from weavejax.systems.lora import adapt

Builder = Callable[[Any], System]


def _of(module: str) -> Builder:
    """`build` of a module here, imported when it is called: no run waits for another's networks."""
    return lambda config: importlib.import_module(f"weavejax.systems.{module}").build(config)


SYSTEMS: dict[str, Builder] = {
    "envelope": _of("envelope"),
    "folai": _of("folai"),
    "gram": _of("gram"),
    "onset": _of("onset"),
    "oobleck": _of("oobleck"),
    "syncfusion": _of("syncfusion"),
}


def build(config: Any) -> System:
    """The system that `config.system` names, built for `config`.

    Raises:
      UserError: there is none, or it cannot be built so.
    """
    if config.system not in SYSTEMS:
        raise UserError(f"system {config.system!r} is none of {', '.join(sorted(SYSTEMS))}")
    try:
        system = SYSTEMS[config.system](config)
    except AttributeError as error:
        # So raised by a config's section: any other is a fault of ours.
        if not (error.args and isinstance(error.args[0], KeyError)):
            raise
        raise UserError(
            f"the config lacks an entry, {error.args[0].args[0]}: it was made for another version, "
            f"or is no config of the system {config.system}; compare it with configs/"
        ) from error
    if config.inputs.get("kind") == KIND and system.latents is None:
        raise UserError(f"inputs.kind {KIND!r}: the system trains all that they would come from")
    return adapt(system, config.lora) if "lora" in config else system
