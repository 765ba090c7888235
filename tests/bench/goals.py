"""Goals as ratios with a floor (ship at it) and a reach (the aim), and what a run says of them."""

import dataclasses
import statistics

from machine import spread


@dataclasses.dataclass
class Goal:
    """One line of the table. `values`: one a round; the median counts."""
    name: str
    what: str
    values: list
    floor: float | None
    reach: float | None
    at_most: bool = False  # else at least
    unit: str = ""
    detail: str = ""

    def verdict(self):
        if not self.values:
            return "not measured"
        if self.floor is None:
            return ""
        value = statistics.median(self.values)

        def holds(bound):
            return value <= bound if self.at_most else value >= bound

        return "reach met" if holds(self.reach) else "floor met" if holds(self.floor) else "MISSED"

    def row(self):
        sign = "<=" if self.at_most else ">="
        found = spread(self.values)
        digits = 1 if self.unit in ("us", "%") else 2
        text = "-" if found is None else f"{found[0]:.{digits}f} ({found[1]:.{digits}f}..{found[2]:.{digits}f})"
        bounds = "" if self.floor is None else f"{sign} {self.floor:g} / {self.reach:g}"
        return [self.name, self.what, f"{text} {self.unit}".strip(), bounds, self.verdict(), self.detail]

    def json(self):
        return dataclasses.asdict(self) | {"verdict": self.verdict()}


def show(goals):
    rows = [["goal", "what", "median (range)", "floor / reach", "verdict", ""]] + [goal.row() for goal in goals]
    widths = [max(len(row[column]) for row in rows) for column in range(5)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)) + ("  " + row[5]).rstrip())
