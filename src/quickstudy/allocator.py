"""How glibc keeps freed memory: an opt-in for programs that run convolutions on a CPU.

By default glibc maps every large block anew and gives it back when it is freed, so each activation of a convolution is
paid for a second time in page faults. Kept, it is reused. The price is that the process holds on to its peak.
"""

import ctypes

M_MMAP_MAX = -4
M_TRIM_THRESHOLD = -1


def tune() -> bool:
    """Have freed memory kept, for this whole process; whether the C library is one that can.

    A program decides this for itself, so importing quickstudy never does. The command line does.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):  # another C library, or another system
        return False
    return bool(mallopt(M_MMAP_MAX, 0)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
