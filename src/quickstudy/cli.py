"""The command line: verbs over run directories. Exit code 0 is done, 1 is failed, 2 is wrong usage or input.

    quickstudy demo                                    four methods on handwritten digits, a table and a report
    quickstudy train sine-mtnet --train.steps 5000     a shipped configuration by name, or your own YAML file
    quickstudy train --resume runs/sine-mtnet          goes on where it stopped, bit for bit
    quickstudy evaluate runs/sine-mtnet --evaluate.tasks 5000
    quickstudy compare runs/sine-maml runs/sine-mtnet
    quickstudy report runs/sine-maml runs/sine-mtnet

Every setting of a configuration can be overridden as --key.sub value.
"""

import os
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from functools import reduce
from operator import or_
from typing import Annotated, Any

import tyro

from quickstudy import commands
from quickstudy.config import Config, near
from quickstudy.errors import InputError, RunError, nearest
from quickstudy.terminal import error_line, note_warnings
from quickstudy.verbs import OVERRIDABLE, POSITIONAL, VERBS, Output


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
        with warnings.catch_warnings():
            note_warnings(verb.quiet or verb.json)
            commands.run(verb, overrides)
            sys.stdout.flush()  # here, where a reader that has gone can still be dealt with
            return 0
    except InputError as error:
        error_line(error, as_json)
        return 2
    except RunError as error:
        error_line(error, as_json)
        return 1
    except KeyboardInterrupt:
        error_line("Interrupted.", as_json)
        return 1
    except BrokenPipeError:  # the reader of our output has gone, as in `quickstudy list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        error_line(f"{error.filename or 'A file'}: {error.strerror or error}.", as_json)
        return 1


def _parsed(words: list[str]) -> tuple[Any, list[str]]:
    """The verb with its own options, and the overrides: every other --key with its value, wherever it stands."""
    if not words:
        raise InputError(f"Say what to do: quickstudy {', '.join(VERBS)}. For more: quickstudy --help")
    name = words[0]
    overrides: list[str] = []
    if name in VERBS:
        words, overrides = _apart(name, VERBS[name], words[1:])
        words = [name, *words]
    elif name not in ("-h", "--help"):
        if name.startswith("-") and set(words) & set(VERBS):
            raise InputError(f"The verb comes first, then its options: quickstudy VERB {name}.")
        raise InputError(f"There is no verb {name!r}. {nearest(name, VERBS)} For more: quickstudy --help")
    every: Any = reduce(or_, (Annotated[kind, tyro.conf.subcommand(verb)] for verb, kind in VERBS.items()))
    parsed = tyro.cli(every, prog="quickstudy", description=__doc__, args=words, config=(tyro.conf.FlagCreatePairsOff,))
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
        elif issubclass(kind, OVERRIDABLE) and key.partition(".")[0].replace("-", "_") in Config.model_fields:
            overrides += [word, *([] if equals else [_value(option, rest)])]
        else:
            raise _unknown(option, verb, kind, list(takes_value))
    wanted = {field.name for field in fields(kind)} & set(POSITIONAL)
    if "runs" not in wanted and len(alone) > len(wanted):
        raise InputError(
            f"`quickstudy {verb}` takes {'one ' + wanted.pop() if wanted else 'nothing more'}; given: "
            f"{' '.join(alone)}. An override is written --key.sub value."
        )
    return own + alone, overrides


def _value(option: str, rest: list[str]) -> str:
    if not rest or rest[0].startswith("--"):
        raise InputError(f"{option} has no value; write {option} VALUE.")
    return rest.pop(0)


def _unknown(option: str, verb: str, kind: type[Output], own: Sequence[str]) -> InputError:
    if not issubclass(kind, OVERRIDABLE):
        return InputError(
            f"`{option}` is no option of `quickstudy {verb}`. {nearest(option, [f'--{name}' for name in own])}"
        )
    known = [f"--{name}" for name in (*own, *Config.model_fields)]
    return InputError(f"`{option}` is no option of `quickstudy {verb}` and no setting. {near(option, known)}")
