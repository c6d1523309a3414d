"""Features without chance, of which reference values are known."""

import numpy as np


def sines(rows, columns, a, b):
    """F[i, j] = sin(a·i·j + b·j) + 0.1 cos(0.7 i + 0.3 j), both from 1."""
    i, j = np.arange(1, rows + 1)[:, None], np.arange(1, columns + 1)[None]
    return np.sin(a * i * j + b * j) + 0.1 * np.cos(0.7 * i + 0.3 * j)
