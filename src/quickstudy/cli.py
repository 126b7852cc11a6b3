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
from typing import Any

import tyro

from quickstudy import commands
from quickstudy.errors import InputError, RunError
from quickstudy.terminal import error_line, note_warnings
from quickstudy.verbs import OVERRIDABLE, Verb


def main(args: Sequence[str] | None = None) -> int:
    """Run one verb; the exit code."""
    sys.path.insert(0, os.getcwd())  # package.module:factory finds the user's own files
    parsed: Any = tyro.cli(
        Verb,
        prog="quickstudy",
        description=__doc__,
        args=list(sys.argv[1:] if args is None else args),
        return_unknown_args=True,
        config=(tyro.conf.FlagCreatePairsOff,),
    )
    verb, rest = parsed
    try:
        with warnings.catch_warnings():
            note_warnings(verb.quiet or verb.json)
            if rest and not isinstance(verb, OVERRIDABLE):
                raise InputError(
                    f"`{' '.join(rest)}` is not understood here. See `quickstudy {type(verb).__name__.lower()} --help`."
                )
            commands.run(verb, rest)
            return 0
    except InputError as error:
        error_line(error, verb.json)
        return 2
    except RunError as error:
        error_line(error, verb.json)
        return 1
    except KeyboardInterrupt:
        error_line("Interrupted.", verb.json)
        return 1
    except BrokenPipeError:  # the reader of our output has gone, as in `quickstudy list | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
