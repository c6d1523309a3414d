"""AudioCaps: ten-second sounds of AudioSet with captions. See README.md."""

from .builder import builder

__all__ = ["builder"]
