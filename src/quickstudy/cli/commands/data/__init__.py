"""`quickstudy data`: the verbs about image sets, one file each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from quickstudy.cli.command import Group


@dataclass(frozen=True)
class Data(Group):
    """Image sets: list them, check one, download one."""

    verbs: ClassVar[dict[str, str]] = {
        "list": "data.list:DataList",
        "check": "data.check:DataCheck",
        "prepare": "data.prepare:DataPrepare",
    }
