"""The words of a command line: which verb they name, its options, and the overrides of a configuration.

tyro parses a verb's own options and prints `--help`. It is imported only when the verb is known.
"""

from __future__ import annotations

import io
import os
import re
from collections import deque
from collections.abc import Collection, Mapping, Sequence
from contextlib import redirect_stderr
from dataclasses import fields, replace
from functools import reduce
from importlib import import_module
from itertools import dropwhile, takewhile
from operator import not_, or_
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, get_type_hints

import quickstudy
from quickstudy.cli import sources
from quickstudy.cli.commands import VERBS
from quickstudy.errors import InputError, suggest_nearest, suggest_setting

if TYPE_CHECKING:
    from quickstudy.cli.command import Command, Group

NAMED_ALONE = ("evaluate", "train")
"""Parts of a configuration whose settings are often given without it: `--steps` for `--train.steps`.

Where two parts have a setting of one name, that of the later part is suggested.
"""


def read_words(words: Sequence[str], about: str | None) -> tuple[Command, list[str]] | None:
    """The verb with its options, and the overrides; None when help or the version was asked for, which is printed.

    Args:
        words: The command line after `quickstudy`.
        about: What `quickstudy --help` says first.
    """
    if words and words[0] in ("-V", "--version"):
        print(f"quickstudy {quickstudy.__version__}")
        return None
    try:
        return _read_verb(list(words), "quickstudy", about, VERBS)
    except SystemExit:  # how tyro ends when it has printed the help
        return None


def load_verb(path: str) -> type[Command] | type[Group]:
    """The class of a verb from `module:Class`, relative to `cli.commands`."""
    module, _, name = path.partition(":")
    kind: type[Command] | type[Group] = getattr(import_module(f"quickstudy.cli.commands.{module}"), name)
    return kind


def _read_verb(words: list[str], prog: str, about: str | None, verbs: Mapping[str, str]) -> tuple[Command, list[str]]:
    if not words:
        raise InputError(f"Say what to do: {prog} {', '.join(verbs)}. For more: {prog} --help")
    name, *rest = words
    if name in ("-h", "--help"):
        _print_help(prog, about, verbs)
    if name not in verbs:
        if name.startswith("-") and set(words) & set(verbs):
            raise InputError(f"The verb comes first, then its options: {prog} VERB {name}.")
        known = [*verbs, *(["--help", "--version"] if name.startswith("-") else [])]
        raise InputError(f"There is no verb {name!r}. {suggest_nearest(name, known)} For more: {prog} --help")
    from quickstudy.cli.command import ConfigCommand, Group

    kind = load_verb(verbs[name])
    prog = f"{prog} {name}"
    if issubclass(kind, Group):
        return _read_verb(rest, prog, kind.__doc__, kind.verbs)
    settings = kind.settings() if issubclass(kind, ConfigCommand) else []
    valued = [f"--{f.name.replace('_', '-')}" for f in fields(kind) if f.default is not False]
    own, overrides = _split_overrides(rest, settings, valued)
    verb, unknown = _parse_options(kind, prog, own)
    verb = _with_paths(verb)
    if unknown:
        _refuse_unknown(unknown, verb, prog, settings)
    return verb, overrides


def _print_help(prog: str, about: str | None, verbs: Mapping[str, str]) -> NoReturn:
    import tyro

    every: Any = reduce(or_, (Annotated[load_verb(path), tyro.conf.subcommand(verb)] for verb, path in verbs.items()))
    tyro.cli(every, prog=prog, description=about, args=["--help"])
    raise SystemExit(0)  # as tyro does when it has printed


def _split_overrides(
    words: Sequence[str], settings: Collection[str], valued: Collection[str]
) -> tuple[list[str], list[str]]:
    """The words of the verb itself, and `--key.sub value` for the configuration.

    tyro's `return_unknown_args` does not give the overrides: tyro cannot know that an unknown option takes a value, so
    of `--train.steps 6 sine.yaml` it returns all three words, and the verb is left without its configuration.

    Args:
        words: The command line after the verb.
        settings: The words that an override may begin with.
        valued: The verb's options that take a value.

    >>> _split_overrides(["--train.steps", "6", "sine.yaml", "--no_tensorboard"], ["train"], [])
    (['sine.yaml', '--no-tensorboard'], ['--train.steps', '6'])
    """
    own: list[str] = []
    overrides: list[str] = []
    rest = deque(words)
    while rest:
        word = rest.popleft()
        option, equals, value = word.partition("=")
        if not word.startswith("--"):
            own.append(word)
        elif option[2:].partition(".")[0].replace("-", "_") not in settings:
            own.append(option.replace("_", "-") + equals + value)  # one spelling: tyro refuses two for one option
        elif own and own[-1] in valued:  # its value would have to come now
            raise InputError(f"{own[-1]} has no value; write {own[-1]} VALUE.")
        elif equals:
            overrides.append(word)
        elif rest and not rest[0].startswith("--"):
            overrides += [word, rest.popleft()]
        else:
            raise InputError(f"{option} has no value; write {option} VALUE.")
    return own, overrides


def _parse_options(kind: type[Command], prog: str, words: Sequence[str]) -> tuple[Command, list[str]]:
    """The verb, and the words that tyro has no use for."""
    import tyro

    box = io.StringIO()
    try:
        with redirect_stderr(box):
            return tyro.cli(
                kind, prog=prog, args=words, return_unknown_args=True, config=(tyro.conf.FlagCreatePairsOff,)
            )
    except SystemExit as leaving:
        if not leaving.code:
            raise
        raise InputError(_read_box(box.getvalue(), prog)) from None


def _with_paths(verb: Command) -> Command:
    """The verb, with the home of the user in place of a ~ in its directories; one without a name is refused."""
    from quickstudy.cli.command import Folder, RunFolder

    hints: dict[str, Any] = get_type_hints(type(verb), include_extras=True)
    read: dict[str, Any] = {}
    for name in (f.name for f in fields(verb) if hints[f.name] in (Folder, RunFolder)):
        value = getattr(verb, name)
        if value is not None and not value.strip():
            option = f"--{_spelling(hints[name], name)}"
            raise InputError(f"{option} is empty: give a path, or leave it out. Is a variable of your shell unset?")
        if value is not None and value.startswith("~"):
            read[name] = os.path.expanduser(value)
    return replace(verb, **read)


def _read_box(box: str, prog: str) -> str:
    """The message in one of tyro's error boxes, which tyro has no public way to give as a value.

    A box begins with its title. The message follows, up to the next ruled line.
    """
    text = re.sub(r"\x1b\[[\d;]*m", "", box)  # colours
    lines = [line.strip(" │─-╭╮╰╯") for line in text.splitlines()[1:]]
    message = " ".join(takewhile(bool, dropwhile(not_, lines)))
    if missing := re.match(r"Missing value for argument '([^' ]+)", message):
        return f"{missing[1]} has no value; write {missing[1]} VALUE."
    if wrong := re.match(r"Error parsing (\S+): no type matching \S*(FLOAT|INT)\S* .*\['(.*)'\]", message):
        kind = "a number, such as 0.9" if wrong[2] == "FLOAT" else "a whole number"
        return f"{wrong[1]} takes {kind}; given: {wrong[3]!r}. For more: {prog} --help"
    return f"{message.removeprefix('Error parsing ').rstrip('.')}. For more: {prog} --help"


def _spelling(hint: Any, field: str) -> str:
    """How an option is written: by the name that it is given, such as `from`, which no field can have."""
    given = [str(extra.name) for extra in getattr(hint, "__metadata__", ()) if getattr(extra, "name", None)]
    return (given or [field.replace("_", "-")])[0]


def _refuse_unknown(unknown: Sequence[str], verb: Command, prog: str, settings: Sequence[str]) -> NoReturn:
    """Say which word has no meaning here: an option with the nearest one that there is, or a word too many."""
    from tyro.conf import Positional

    marker = Positional[str].__metadata__[0]  # type: ignore[attr-defined]  # what Positional adds to a type
    hints: dict[str, Any] = get_type_hints(type(verb), include_extras=True)
    alone = [f.name for f in fields(verb) if marker in getattr(hints[f.name], "__metadata__", ())]
    option = next((word.partition("=")[0] for word in unknown if word.startswith("-")), None)
    if option is None:
        given = [str(getattr(verb, name)) for name in alone if getattr(verb, name) is not None]
        takes = " and ".join(f"one {name.replace('_', ' ')}" for name in alone) or "nothing more"
        advice = " An override is written --key.sub value." if settings else ""
        raise InputError(f"`{prog}` takes {takes}; given: {' '.join([*given, *unknown])}.{advice}")
    own = [f"--{_spelling(hints[f.name], f.name)}" for f in fields(verb) if f.name not in alone]
    if Path(option).exists():
        raise InputError(f"`{option}` is no option of `{prog}`. For the file of that name write ./{option}")
    if not settings:
        raise InputError(f"`{option}` is no option of `{prog}`. {suggest_nearest(option, own)}")
    paths = {
        name: f"{part}.{name}"
        for part in NAMED_ALONE
        for name in sources.read_fields("training.config.schema", f"{part.capitalize()}Settings")
    }
    known = [*own, *(f"--{name}" for name in settings)]
    raise InputError(f"`{option}` is no option of `{prog}` and no setting. {suggest_setting(option, known, paths)}")
