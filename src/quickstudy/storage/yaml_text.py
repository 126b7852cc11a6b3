"""YAML as plain values: numbers, texts, lists and mappings, bounded in size and depth.

A short text can stand for very much: an alias repeats what its anchor holds, and aliases of aliases multiply. So values
are counted as if each alias were written out. Tags that make other objects (bytes, dates, sets) are refused.
"""

import re
from typing import Any

import yaml

from quickstudy.storage.files import MAX_DIGITS, MAX_LEVELS

MAX_YAML_BYTES = 2**20
"""Of a configuration. Those that ship have less than 1000."""
MAX_YAML_VALUES = 50_000
"""In a configuration, with every alias written out."""


class SavedYaml(yaml.SafeLoader):
    """YAML that a program wrote, as in the `config.yaml` of a run."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.levels = 0
        self.values: dict[int, int] = {}  # by the id of a node: how many it stands for

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """Read one node, and count it. Of an alias, what it repeats has been counted."""
        repeats = self.check_event(yaml.AliasEvent)
        self.levels += 1
        if self.levels > MAX_LEVELS:
            raise ValueError(f"values are nested more than {MAX_LEVELS} deep")
        node = super().compose_node(parent, index)
        self.levels -= 1
        if repeats and id(node) not in self.values:
            raise ValueError("an alias stands inside of what it repeats")
        if node is not None and not repeats:
            inner: list[Any] = node.value if isinstance(node, yaml.CollectionNode) else []
            parts = [part for item in inner for part in (item if isinstance(item, tuple) else (item,))]
            self.values[id(node)] = 1 + sum(self.values[id(part)] for part in parts)
            if self.values[id(node)] > MAX_YAML_VALUES:
                raise ValueError(f"it stands for more than {MAX_YAML_VALUES} values")
        return node

    def construct_number(self, node: yaml.ScalarNode) -> int | float:
        """A number of at most `MAX_DIGITS` digits."""
        whole = node.tag.endswith(":int")
        if len(node.value) > 4 * MAX_DIGITS:  # a power of two in binary, a number with all its decimals
            raise ValueError(f"a number has {len(node.value)} digits")
        value: int | float = self.construct_yaml_int(node) if whole else self.construct_yaml_float(node)
        if whole and len(str(value)) > MAX_DIGITS:
            raise ValueError(f"{node.value} is too large a number")
        return value


SavedYaml.yaml_constructors = {
    tag: make
    for tag, make in yaml.SafeLoader.yaml_constructors.items()
    if tag is None or tag.rpartition(":")[2] in ("null", "bool", "str", "seq", "map")
}
for _kind in ("int", "float"):
    SavedYaml.add_constructor(f"tag:yaml.org,2002:{_kind}", SavedYaml.construct_number)
SavedYaml.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith(":timestamp")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


class TypedYaml(SavedYaml):
    """YAML that a person typed, without its traps: 1e-3 is a number, 010 is ten, and a key given twice is an error."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """A mapping as it was typed, before `<<` puts the keys of others into it."""
        node = super().compose_mapping_node(anchor)
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    raise yaml.constructor.ConstructorError(None, None, f"{key.value!r} is given twice", key.start_mark)
                seen.add(key.value)
        return node

    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        """A whole number. YAML 1.1 reads 010 as eight."""
        digits = node.value.replace("_", "")
        return int(digits) if digits.lstrip("+-").isdecimal() else int(super().construct_yaml_int(node))


# YAML 1.1 reads 1e-3 and 1.5e3 as texts (it wants a point before an exponent, and a sign in it), and 1:30 as ninety.
TypedYaml.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":int", ":float"))]
    for first, resolvers in SavedYaml.yaml_implicit_resolvers.items()
}
for _tag, _pattern in (
    ("int", r"[-+]?([0-9][0-9_]*|0b[01_]+|0x[0-9a-fA-F_]+)$"),
    ("float", r"[-+]?(([0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)([eE][-+]?[0-9]+)?|\.(inf|Inf|INF))$|\.(nan|NaN|NAN)$"),
):
    TypedYaml.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list("-+0123456789."))


def parse_yaml(text: str, kind: type[SavedYaml] = TypedYaml) -> Any:
    """The value of a YAML text. Whatever is wrong with the text is a ValueError of one line, with the place in it.

    >>> parse_yaml("{lr: 1e-3, hidden: [40, 40], since: 2020-01-01}")
    {'lr': 0.001, 'hidden': [40, 40], 'since': '2020-01-01'}
    """
    try:
        return yaml.load(text, kind)
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError) as error:
        raise ValueError(" ".join(str(error).replace(' in "<unicode string>",', " in").split())) from None
