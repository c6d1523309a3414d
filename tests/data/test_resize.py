"""Resizing against literal implementations; Pillow's bits are held in parity tests."""

import numpy as np
import pytest

from weavejax.data.resize import FILTERS, bicubic, bilinear, centre_window


def literal(image: np.ndarray, height: int, width: int) -> np.ndarray:
    """Two loops, straight from the definition (half-pixel centres, edges repeated)."""
    rows, columns = image.shape[:2]
    result = np.zeros((height, width, image.shape[2]))
    for y in range(height):
        for x in range(width):
            v = max((y + 0.5) * rows / height - 0.5, 0.0)
            u = max((x + 0.5) * columns / width - 0.5, 0.0)
            y0, x0 = int(v), int(u)
            y1, x1 = min(y0 + 1, rows - 1), min(x0 + 1, columns - 1)
            top = image[y0, x0] * (1 - (u - x0)) + image[y0, x1] * (u - x0)
            bottom = image[y1, x0] * (1 - (u - x0)) + image[y1, x1] * (u - x0)
            result[y, x] = top * (1 - (v - y0)) + bottom * (v - y0)
    return result


@pytest.mark.parametrize("size", [(7, 5), (20, 31), (9, 13), (1, 1)])
def test_matches_the_definition(size: tuple[int, int]) -> None:
    image = np.random.default_rng(0).integers(0, 256, (9, 13, 3), np.uint8)
    resized = bilinear(image, size)
    assert resized.shape == (*size, 3)
    assert resized.dtype == np.uint8
    np.testing.assert_array_less(np.abs(resized - literal(image, *size)), 0.5 + 1e-3)


def test_does_not_antialias() -> None:
    stripes = np.zeros((8, 80, 1), np.uint8)
    stripes[:, 4::10] = 255  # each fifth pair of samples falls on a stripe, none on an average
    reduced = bilinear(stripes, (8, 8))
    assert set(np.unique(reduced)) <= {0, 127, 128, 255}
    assert reduced.max() >= 127


def test_same_size_is_untouched() -> None:
    image = np.random.default_rng(1).integers(0, 256, (6, 6, 3), np.uint8)
    assert np.array_equal(bilinear(image, (6, 6)), image)


def test_window_is_a_part_of_the_whole() -> None:
    image = np.random.default_rng(2).integers(0, 256, (30, 40, 3), np.uint8)
    whole = bilinear(image, (15, 21))
    assert np.array_equal(bilinear(image, (15, 21), (3, 5, 7, 9)), whole[3:10, 5:14])


@pytest.mark.parametrize(
    ("shape", "size", "window"),
    [
        ((360, 640), (112, 199), (0, 44, 112, 112)),
        ((640, 360), (199, 112), (44, 0, 112, 112)),
        ((50, 50), (112, 112), (0, 0, 112, 112)),
    ],
)
def test_centre_window(
    shape: tuple[int, int], size: tuple[int, int], window: tuple[int, ...]
) -> None:
    assert centre_window(shape, 112) == (size, window)


def test_bicubic_averages_what_it_makes_smaller() -> None:
    stripes = np.zeros((8, 80, 1), np.uint8)
    stripes[:, ::2] = 200
    inner = bicubic(stripes, (8, 8))[:, 1:-1]
    assert np.abs(inner.astype(int) - 100).max() <= 2
    ramp = np.tile(np.arange(0, 250, 5, np.uint8)[:, None, None], (1, 4, 1))
    assert np.abs(np.diff(bicubic(ramp, (100, 4))[6:-6, 0, 0].astype(int)) - 2.5).max() <= 0.5


@pytest.mark.parametrize("name", FILTERS)
def test_a_window_is_a_part_of_the_whole(name: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (19, 23, 3), np.uint8)
    whole = FILTERS[name](image, (31, 11))
    part = FILTERS[name](image, (31, 11), (4, 2, 9, 5))
    np.testing.assert_array_equal(part, whole[4:13, 2:7])
    np.testing.assert_array_equal(FILTERS[name](image, (19, 23)), image)
