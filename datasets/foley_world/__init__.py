"""foley_world: rendered scenes that sound, with exact ground truth. See README.md."""

from .builder import builder

__all__ = ["builder"]
