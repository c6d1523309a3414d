"""Tables as Markdown."""

from weavejax.metrics.report import Table


def test_numbers_are_aligned_right_and_rounded_for_reading():
    table = Table("Recalls", ("way", "n", "R@1", "cos"), [["text→clip", 256, 92.578, -0.03456]])
    lines = table.markdown().splitlines()
    assert lines[0] == "### Recalls"
    assert lines[3] == "|---|--:|--:|--:|"
    assert lines[4] == "| text→clip | 256 | 92.6 | -0.035 |"
