"""The verbs, one file each: its options as a dataclass, and its `run`."""
