"""Any set annotated in the JSON of the published GRAM code. See README.md."""

from .builder import builder

__all__ = ["builder"]
