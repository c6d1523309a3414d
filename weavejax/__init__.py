"""weavejax: align and generate sound with video in JAX, through three dials: when, what, where."""

__version__ = "0.1.0"
