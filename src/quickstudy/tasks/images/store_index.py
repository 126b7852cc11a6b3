"""The shape of an index of the cache of decoded pictures."""

from pydantic import BaseModel, ConfigDict


class StoreIndex(BaseModel):
    """The `index.json` of an entry."""

    model_config = ConfigDict(extra="forbid")

    format: int
    stamp: str
    shape: tuple[int, int, int, int]
    labels: list[int]
    classes: list[str]
    names: list[str]
    splits: dict[str, list[int]]
    layout: str
    skipped: list[tuple[str, str]]
    changed: dict[str, int]
    digest: str
