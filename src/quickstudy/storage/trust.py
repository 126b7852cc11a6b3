"""Which code a configuration names, and which configurations this user has made or allowed.

A configuration may name a factory as `package.module:factory`, and building it runs that code. The user's own runs are
remembered: the state folder of the user holds a key, and one empty file for each configuration, named by the
keyed hash of the parts of it that name code. A run from elsewhere cannot bring such a file, and cannot know its name.
"""

import hmac
import os
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from platformdirs import user_state_path

from quickstudy.storage.files import dumps, write_atomic

FACTORY = re.compile(r"(?<![\w.])[^\W\d]\w*(?:\.[^\W\d]\w*)*:[^\W\d]\w*")
"""`package.module:factory`. Nothing else is ever imported for a configuration.

A name begins where no name can go on before it: searched from each letter of a long word, a text of a megabyte would
take hours.
"""

SHOWN = 100
"""Characters of a part's options that are shown beside its name."""


def state_root() -> Path:
    """`QUICKSTUDY_STATE`, or else the user's state folder of this operating system."""
    given = os.environ.get("QUICKSTUDY_STATE")
    return Path(given) if given else user_state_path("quickstudy")


def named_code(settings: Any) -> list[str]:
    """What of other packages a configuration names, anywhere in it, with its place and options.

    >>> named_code({"model": {"name": "os:system", "command": "ls"}, "method": "quickstudy.methods.maml:maml"})
    ['model is os:system, with {"command": "ls"}']
    """
    return list(dict.fromkeys(_find_code(settings, "", "")))


def _find_code(value: Any, place: str, options: str) -> Iterator[str]:
    if isinstance(value, str):
        # Anywhere in the text: a list may be written as a text, with commas.
        for name in FACTORY.findall(value):
            if not name.startswith(("quickstudy.", "quickstudy:")):
                yield f"{place} is {name}{options}"
    elif isinstance(value, Mapping):
        rest = dumps({key: item for key, item in value.items() if key != "name"}) if "name" in value else "{}"
        shown = rest if len(rest) <= SHOWN else f"{rest[:SHOWN]}..."
        for key, item in value.items():
            own = key == "name" and bool(place)
            where = place if own else f"{place}.{key}".lstrip(".")
            yield from _find_code(item, where, f", with {shown}" if own and rest != "{}" else "")
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _find_code(item, place, "")


def code_parts(blueprint: Mapping[str, Any]) -> dict[str, Any]:
    """The parts of a saved learner's description that may name code of others."""
    return {name: blueprint[name] for name in ("factory", "model", "method") if blueprint.get(name) is not None}


def remember(settings: Mapping[str, Any]) -> None:
    """Remember a configuration that this user made or allowed. Where that fails, the user is asked again."""
    if named_code(settings):
        with suppress(OSError):
            entry = _entry(settings)
            entry.parent.mkdir(exist_ok=True)
            entry.touch()


def is_remembered(settings: Mapping[str, Any]) -> bool:
    """Whether this user has made or allowed a configuration."""
    with suppress(OSError):
        return _entry(settings).is_file()
    return False


def _entry(settings: Mapping[str, Any]) -> Path:
    root = state_root()
    root.mkdir(parents=True, exist_ok=True, mode=0o700)
    if not (root / "key").exists():
        write_atomic(root / "key", secrets.token_bytes(32))
    # Only what names code: a run that is edited to train longer stays the user's own. Sorted, so that it has one text.
    text = dumps(_sort({key: value for key, value in settings.items() if named_code({key: value})}))
    return root / "trusted" / hmac.new((root / "key").read_bytes(), text.encode(), "sha256").hexdigest()


def _sort(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _sort(item) for key, item in sorted(value.items(), key=lambda pair: str(pair[0]))}
    return [_sort(item) for item in value] if isinstance(value, list | tuple) else value
