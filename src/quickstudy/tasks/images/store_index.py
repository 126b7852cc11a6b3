"""The shape of an index of the cache of decoded pictures."""

from pydantic import BaseModel, ConfigDict, model_validator


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

    @model_validator(mode="after")
    def check_numbers(self) -> "StoreIndex":
        """Every number of a class or a picture must be that of one."""
        count = self.shape[0]
        if min(self.shape) < 1 or not len(self.labels) == len(self.names) == count:
            raise ValueError("it does not have a label and a name for each picture")
        if not all(0 <= label < len(self.classes) for label in self.labels):
            raise ValueError("it has a label of no class")
        if not all(0 <= number < count for numbers in self.splits.values() for number in numbers):
            raise ValueError("it has a split with a number of no picture")
        return self
