"""MSR-VTT: 10,000 web video clips with 20 sentences each. See README.md."""

from .builder import builder

__all__ = ["builder"]
