"""Watching a training: callbacks after steps and rows, and a flag that asks it to stop."""

from typing import Any


class Watcher:
    """Does nothing. Subclasses override what they need."""

    stopping = False
    """Whether training should save and stop. Training reads it after every step."""

    def step(self, step: int, loss: float) -> None:
        """Called after every outer step."""

    def row(self, row: dict[str, Any]) -> None:
        """Called with every row that is added to the metrics."""
