"""VAST-27M and subsets of it: clips with visual, audio and omni-modal captions. See README.md."""

from .builder import builder

__all__ = ["builder"]
