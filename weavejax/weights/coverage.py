"""What became of every key of a published file, for people."""

from typing import NamedTuple


class Group(NamedTuple):
    """Keys that belong together.

    Attributes:
        name: for people.
        keys: how many; copies count.
        parameters: numbers in them; copies do not count again.
    """

    name: str
    keys: int
    parameters: int


class Coverage(NamedTuple):
    """What became of every key of a file, and of every parameter.

    Attributes:
        used: groups that are parameters here.
        kept: groups kept for writing the file again.
        unused: keys that nothing knows.
        missing: keys that parameters need.
        misfits: arrays of another shape and copies that differ, one line each.
    """

    used: list[Group]
    kept: list[Group]
    unused: list[str]
    missing: list[str]
    misfits: list[str]

    @property
    def problems(self) -> list[str]:
        """Everything that stands against using the file, one line each."""
        unused = [f"unused {key}" for key in self.unused]
        return unused + [f"missing {key}" for key in self.missing] + self.misfits

    def summary(self) -> str:
        """One line."""
        used, kept = (sum(group.keys for group in groups) for groups in (self.used, self.kept))
        total = used + kept + len(self.unused)
        words = f"{used + kept:,} of {total:,} keys accounted for: {used:,} used, {kept:,} kept"
        wrong = {"unused": self.unused, "missing": self.missing, "mis-shaped": self.misfits}
        counts = [f"{len(lines):,} {name}" for name, lines in wrong.items() if lines]
        return ", ".join([words, *counts])

    def page(self) -> str:
        """A Markdown table of the groups, the summary, and every problem."""
        rows = [("used", group) for group in self.used] + [("kept", group) for group in self.kept]
        lines = ["| | what | keys | parameters |", "|---|---|--:|--:|"]
        lines += [f"| {how} | {g.name} | {g.keys:,} | {g.parameters:,} |" for how, g in rows]
        used = sum(group.parameters for group in self.used)
        lines += ["", f"{self.summary()}; {used:,} parameters used."]
        if self.kept:
            lines += ["Kept: not used here, written again by `--back`."]
        return "\n".join([*lines, "", *(f"- {problem}" for problem in self.problems)]).rstrip()
