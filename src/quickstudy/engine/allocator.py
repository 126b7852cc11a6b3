"""How glibc keeps freed memory: an opt-in for programs that run convolutions on a CPU.

By default glibc maps every large block anew and gives it back when it is freed, so each activation of a convolution is
paid for a second time in page faults. Kept, it is reused. The price is that the process holds on to its peak.
"""

import ctypes

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD, M_MMAP_MAX = -1, -3, -4


def keep_freed_memory() -> bool:
    """Have freed memory kept, for this whole process; whether the C library is one that can.

    A program decides this for itself, so importing quickstudy never does. The command line does.
    """
    return _set({M_MMAP_MAX: 0, M_TRIM_THRESHOLD: 2**31 - 1})


def return_freed_memory() -> bool:
    """Have every block from 64 KB on given back when it is freed: slower, and nothing is lost between blocks that stay.

    For steps that are recomputed, where each leaves its parameters behind among what it frees.
    """
    return _set({M_MMAP_MAX: 2**16, M_MMAP_THRESHOLD: 2**16, M_TRIM_THRESHOLD: 2**17})


def _set(options: dict[int, int]) -> bool:
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library, or another system
        return False
    return all([bool(mallopt(option, value)) for option, value in options.items()])
