"""How glibc keeps freed memory: an opt-in for programs that run convolutions on a CPU.

By default glibc asks the system for every large block and returns it when it is freed. Each activation of a convolution
then costs page faults again. A block that is kept is used again without them. The price is that the process keeps its
peak of memory.
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4


def keep_freed_memory() -> bool:
    """Keep freed memory, in this whole process; returns whether the C library can.

    Importing quickstudy does not call this: it is the decision of a program. The command line calls it.
    """
    return _set_malloc_options({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1})


def return_freed_memory() -> bool:
    """Return every block of 64 KB or more to the system when it is freed; returns whether the C library can.

    It is slower, but leaves no gaps between blocks that stay in use. For `recompute`: the parameters of each step stay
    there among blocks that are freed.
    """
    return _set_malloc_options({M_MMAP_MAX: 2**16, M_MMAP_THRESHOLD: 2**16, M_TRIM_THRESHOLD: 2**17})


def _set_malloc_options(options: dict[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library, or another system
        return False
    accepted = [bool(mallopt(option, value)) for option, value in options.items()]  # a list: every option is set
    return all(accepted)
