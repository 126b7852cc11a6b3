"""Whether the code that a configuration names may be run.

The library's own names need no trust, and neither does what a user types: a word of the command line, a file of
his own. A run directory may come from somebody else. What its configuration names is run only if this user has made the
run (see `storage.trust`), or says so.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quickstudy.errors import InputError
from quickstudy.storage.trust import is_remembered, named_code

MARKS = ("versions.json", "metrics.jsonl", "checkpoints", ".lock")
"""What a run directory holds beside its config.yaml, and a user's own directory does not."""


class UntrustedCodeError(InputError):
    """A configuration from a run names code that this user has not allowed.

    Args:
        place: The run, or the file in it.
        settings: Its configuration.
    """

    def __init__(self, place: str, settings: Mapping[str, Any]) -> None:
        self.place, self.settings, self.code = place, settings, "; ".join(named_code(settings))
        own = "" if Path(place).name != "config.yaml" else " (A file of your own needs another name than config.yaml.)"
        super().__init__(
            f"{place} was not made by you here, and it would run code that is not quickstudy's: {self.code}. If "
            f"you know this code and trust the run, add --trust-code (in Python: trust=True).{own}"
        )


def check_trust(place: Path | str, settings: Mapping[str, Any], trust: bool = False) -> None:
    """Refuse a run's configuration that names other code than the library's, unless the user trusts it or made it."""
    if not trust and named_code(settings) and not is_remembered(settings):
        raise UntrustedCodeError(str(place), settings)


def belongs_to_run(path: Path) -> bool:
    """Whether a file is a run's config.yaml, or lies in a run directory."""
    places = {path.absolute(), path.resolve()}
    folders = {folder for place in places for folder in place.parents}
    return any(place.name == "config.yaml" for place in places) or any(
        (folder / "config.yaml").is_file() and any((folder / mark).exists() for mark in MARKS) for folder in folders
    )
