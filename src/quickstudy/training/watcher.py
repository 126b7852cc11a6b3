"""What training tells while it runs, and how it is asked to stop."""

from typing import Any


class Watcher:
    """Does nothing unless overridden: a run without one is as good."""

    stopping = False
    """Whether training should save where it stands and stop; asked after every step."""

    def step(self, step: int, loss: float) -> None:
        """After every outer step."""

    def row(self, row: dict[str, Any]) -> None:
        """With every row that goes into the metrics."""
