"""DiDeMo: personal videos, the descriptions of each joined into a paragraph. See README.md."""

from .builder import builder

__all__ = ["builder"]
