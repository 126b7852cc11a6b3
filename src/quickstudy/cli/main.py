"""The command line: verbs over run directories. Exit code 0 is done, 1 is failed, 2 is wrong usage or input.

    quickstudy demo                                    four methods on handwritten digits, a table and a report
    quickstudy train sine-mtnet --train.steps 5000     a shipped configuration by name, or your own YAML file
    quickstudy train --resume runs/sine-mtnet          goes on where it stopped, bit for bit
    quickstudy sweep sine-maml --search.method.inner_lr log:0.001..0.5
    quickstudy evaluate runs/sine-mtnet --evaluate.tasks 5000
    quickstudy compare runs/sine-maml runs/sine-mtnet
    quickstudy report runs/sine-maml runs/sine-mtnet
    quickstudy data list                               which image sets are here, and how to get the others
    quickstudy bench                                   what a step costs here, beside other ways of computing it

Every setting of a configuration can be overridden as --key.sub value.
"""

import os
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import fields, replace
from functools import reduce
from operator import or_
from pathlib import Path
from typing import Annotated, Any

import tyro

from quickstudy.cli import dispatch as commands
from quickstudy.cli.command import GROUPS, OVERRIDABLE, POSITIONAL, SHARED, VERBS, DataPrepare, Output, Sweep
from quickstudy.cli.terminal import error_line, note_warnings
from quickstudy.engine.distributed import join_world, speaks_to_user
from quickstudy.engine.launch import launch, without_workers
from quickstudy.errors import InputError, RunError, suggest_nearest
from quickstudy.training.config import Config
from quickstudy.training.config.messages import suggest_setting


def main(args: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code."""
    words = list(sys.argv[1:] if args is None else args)
    as_json = "--json" in words
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a terminal that cannot show a ± gets a ?, not an error
            stream.reconfigure(errors="replace")
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # package.module:factory finds the user's own files
    try:
        verb, overrides = _parsed(words)
        if isinstance(verb, SHARED) and verb.workers != 1:
            return launch(verb.workers, without_workers(words))
        with warnings.catch_warnings(), _data_root(verb):
            if isinstance(verb, SHARED):
                _share(verb, overrides)
            elif speaks_to_user():  # of several workers one is enough for what they do not share
                note_warnings(verb.quiet or verb.json)
                commands.run(verb, overrides)
            sys.stdout.flush()  # here, where a reader that has gone can still be dealt with
            return 0
    except InputError as error:
        _say(error, as_json)
        return 2
    except RunError as error:
        _say(error, as_json)
        return 1
    except KeyboardInterrupt as error:
        _say(error, as_json)
        return 1
    except BrokenPipeError:  # the reader of our output has gone, as in `quickstudy list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        _say(RunError(f"{error.filename or 'A file'}: {error.strerror or error}."), as_json)
        return 1


def _share(verb: Any, overrides: Sequence[str]) -> None:
    """Do what workers may share. The first one shows it; the others keep their terminal for what nobody foresaw."""
    with join_world() as world, open(os.devnull, "w") as nowhere:
        if not world.first:
            verb = replace(verb, quiet=True, json=False)
        note_warnings(verb.quiet or verb.json)
        with nullcontext() if world.first else redirect_stdout(nowhere):
            commands.run(verb, overrides, world)


def _say(error: BaseException, as_json: bool) -> None:
    if speaks_to_user(error):
        error_line("Interrupted." if isinstance(error, KeyboardInterrupt) else error, as_json)


@contextmanager
def _data_root(verb: Any) -> Iterator[None]:
    """--data-root is QUICKSTUDY_DATA for this command: where pictures are is no part of what a run was."""
    given, before = getattr(verb, "data_root", None), os.environ.get("QUICKSTUDY_DATA")
    if given is None:
        yield
        return
    root = Path(given).expanduser().absolute()
    if not root.is_dir() and not isinstance(verb, DataPrepare):  # which makes it
        raise InputError(f"--data-root: there is no directory {given}. Give the one that holds the image sets.")
    os.environ["QUICKSTUDY_DATA"] = str(root)
    try:
        yield
    finally:
        os.environ.pop("QUICKSTUDY_DATA")
        if before is not None:
            os.environ["QUICKSTUDY_DATA"] = before


def _parsed(
    words: list[str], prog: str = "quickstudy", about: str | None = __doc__, verbs: Mapping[str, type[Output]] = VERBS
) -> tuple[Any, list[str]]:
    """The verb with its own options, and the overrides: every other --key with its value, wherever it stands."""
    if not words:
        raise InputError(f"Say what to do: {prog} {', '.join(verbs)}. For more: {prog} --help")
    name = words[0]
    if verbs is VERBS and name in GROUPS:
        return _parsed(words[1:], f"{prog} {name}", VERBS[name].__doc__, GROUPS[name])
    overrides: list[str] = []
    if name in verbs:
        words, overrides = _apart(f"{prog} {name}", verbs[name], words[1:])
        words = [name, *words]
    elif name not in ("-h", "--help"):
        if name.startswith("-") and set(words) & set(verbs):
            raise InputError(f"The verb comes first, then its options: {prog} VERB {name}.")
        raise InputError(f"There is no verb {name!r}. {suggest_nearest(name, verbs)} For more: {prog} --help")
    every: Any = reduce(or_, (Annotated[kind, tyro.conf.subcommand(verb)] for verb, kind in verbs.items()))
    parsed = tyro.cli(every, prog=prog, description=about, args=words, config=(tyro.conf.FlagCreatePairsOff,))
    return parsed, overrides


def _apart(verb: str, kind: type[Output], words: Sequence[str]) -> tuple[list[str], list[str]]:
    """What belongs to the verb, and what goes into the configuration."""
    named = [field for field in fields(kind) if field.name not in POSITIONAL]
    takes_value = {field.name.replace("_", "-"): field.default is not False for field in named} | {"help": False}
    own: list[str] = []
    overrides: list[str] = []
    alone: list[str] = []
    rest = list(words)
    while rest:
        word = rest.pop(0)
        option, equals, _ = word.partition("=")
        key = option.removeprefix("--").replace("_", "-")
        if word == "-h":
            own.append(word)
        elif not word.startswith("-"):
            alone.append(word)
        elif word.startswith("--") and key in takes_value:
            own += [word, *([] if equals or not takes_value[key] else [_value(option, rest)])]
        elif issubclass(kind, OVERRIDABLE) and key.partition(".")[0].replace("-", "_") in _settings(kind):
            overrides += [word, *([] if equals else [_value(option, rest)])]
        else:
            raise _unknown(option, verb, kind, list(takes_value))
    wanted = {field.name for field in fields(kind)} & set(POSITIONAL)
    if "runs" not in wanted and len(alone) > len(wanted):
        raise InputError(
            f"`{verb}` takes {'one ' + wanted.pop().replace('_', ' ') if wanted else 'nothing more'}; given: "
            f"{' '.join(alone)}. An override is written --key.sub value."
        )
    return own + alone, overrides


def _settings(kind: type[Output]) -> list[str]:
    """The words that can begin an override of this verb."""
    return [*Config.model_fields, *(["search"] if kind is Sweep else [])]


def _value(option: str, rest: list[str]) -> str:
    if not rest or rest[0].startswith("--"):
        raise InputError(f"{option} has no value; write {option} VALUE.")
    return rest.pop(0)


def _unknown(option: str, verb: str, kind: type[Output], own: Sequence[str]) -> InputError:
    if not issubclass(kind, OVERRIDABLE):
        return InputError(
            f"`{option}` is no option of `{verb}`. {suggest_nearest(option, [f'--{name}' for name in own])}"
        )
    known = [f"--{name}" for name in (*own, *_settings(kind))]
    return InputError(f"`{option}` is no option of `{verb}` and no setting. {suggest_setting(option, known)}")
