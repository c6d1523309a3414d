"""VATEX: ten-second clips with ten captions each. See README.md."""

from .builder import builder

__all__ = ["builder"]
