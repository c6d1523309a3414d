"""VGGSound: ten-second clips of 309 classes of sound, the class as caption. See README.md."""

from .builder import builder

__all__ = ["builder"]
