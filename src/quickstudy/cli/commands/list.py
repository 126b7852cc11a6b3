"""`quickstudy list`: what there is to name in a configuration or on the command line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

import yaml
from tyro.conf import Positional, arg

from quickstudy.cli import sources
from quickstudy.cli.command import Command
from quickstudy.cli.terminal import Console
from quickstudy.errors import InputError, suggest_nearest


@dataclass(frozen=True)
class List(Command):
    """List methods, models, tasks, configurations, protocols, charts, losses and the benchmark's suites."""

    what: Positional[Annotated[str | None, arg(metavar="WHAT", help_behavior_hint="")]] = None
    """One of them; all when left out."""

    def run(self, console: Console, overrides: Sequence[str]) -> None:
        """Print one list, or all."""
        every = read_lists()
        if self.what is not None and self.what not in every:
            raise InputError(f"There is nothing called {self.what!r} to list. {suggest_nearest(self.what, every)}")
        chosen = {what: rows for what, rows in every.items() if self.what in (None, what)}
        if console.json:
            console.print_json(chosen)
            return
        for what, rows in chosen.items():
            console.listing(what, rows)


def read_lists() -> dict[str, dict[str, str]]:
    """Every list: names, and what each means. They are read from the source, because the objects would import torch."""
    suites = yaml.safe_load((sources.ROOT / "bench" / "suites.yaml").read_text(encoding="utf-8"))
    return {
        "methods": _first_lines("methods.registry", "METHODS"),
        "models": _first_lines("models.nets", "NETS"),
        "tasks": _first_lines("training.config.build", "TASKS"),
        "configurations": {
            path.stem: path.read_text(encoding="utf-8").partition("\n")[0].lstrip("# ")
            for path in sorted((sources.ROOT / "configs").glob("*.yaml"))
        },
        "protocols": {
            name: _describe_protocol(protocol)
            for name, protocol in sources.read_registry("evaluation.evaluate", "PROTOCOLS").items()
        },
        "charts": _first_lines("methods.wormhole", "CHARTS"),
        "losses": _first_lines("rules.criteria", "CRITERIA"),
        "metrics": {
            name: metric.arguments()[1].first_line()
            for name, metric in sources.read_registry("evaluation.metrics", "METRICS").items()
        },
        "suites": {name: suite["about"] for name, suite in suites.items()},
    }


def _first_lines(module: str, registry: str) -> dict[str, str]:
    return {name: entry.first_line() for name, entry in sources.read_registry(module, registry).items()}


def _describe_protocol(protocol: sources.Definition) -> str:
    _, tasks, *repeats = [argument.first_line() for argument in protocol.arguments()]
    return f"{tasks} tasks" + "".join(f", {count} times over" for count in repeats)
