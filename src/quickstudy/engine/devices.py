"""The device of a run: choosing it, listing what the machine has, and the memory that is free.

Tasks are always drawn on the CPU, so that they are the same on every device; learners and pictures are moved.
"""

import os
import re
from pathlib import Path

import torch

from quickstudy.errors import InputError

UNITS = {"B": 1, "KB": 1e3, "MB": 1e6, "GB": 1e9, "TB": 1e12}
CGROUP_FILES = (
    # The files of the limit and of the use, and the line of memory.stat with the part that the system can free.
    ("memory.max", "memory.current", "inactive_file"),
    ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
)


def choose_device(name: str) -> torch.device:
    """A device by name: "cpu", "cuda:1", "cuda", or "auto", which is a GPU if there is one and the CPU otherwise.

    Under torchrun, "auto" and "cuda" are the GPU with the number LOCAL_RANK: one for each process of a machine.
    """
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "cpu" or (name == "auto" and not count):
        return torch.device("cpu")
    numbered = re.fullmatch(r"cuda(?::(\d+))?", "cuda" if name == "auto" else name)
    if numbered is None:
        raise InputError(f"There is no device {name!r}. {_devices_in_words(count)} `auto` takes a GPU if there is one.")
    number = int(numbered[1] or os.environ.get("LOCAL_RANK", "0"))
    if number >= count:
        asked = f"`compute.device` is {name!r}" + ("" if numbered[1] else f" in the process of LOCAL_RANK {number}")
        raise InputError(f"{asked if count else f'`compute.device` is {name!r}'}. {_devices_in_words(count)}")
    return torch.device("cuda", number)


def _devices_in_words(count: int) -> str:
    names = ["cpu", *(f"cuda:{number}" for number in range(count))]
    built = "" if count or torch.version.cuda else " (this build of torch has no CUDA)"
    return f"Devices here: {', '.join(names)}{built}."


def list_devices() -> dict[str, str]:
    """The devices of this machine, with their free memory."""
    found = {"cpu": f"{torch.get_num_threads()} threads, {_describe_free_memory(free_bytes(torch.device('cpu')))}"}
    for number in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        device = torch.device("cuda", number)
        found[str(device)] = f"{torch.cuda.get_device_name(device)}, {_describe_free_memory(free_bytes(device))}"
    return found


def _describe_free_memory(number: int | None) -> str:
    return "free memory unknown" if number is None else f"{format_bytes(number)} free"


def free_bytes(device: torch.device) -> int | None:
    """Bytes that a process could still take; None where the system does not say."""
    if device.type == "cuda":
        unused, _ = torch.cuda.mem_get_info(device)  # torch keeps what it has freed: that is free to us
        return int(unused) + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return _free_on_machine(Path("/proc/meminfo"), Path("/sys/fs/cgroup"))


def _free_on_machine(meminfo: Path, cgroup: Path) -> int | None:
    """The free memory of the machine, or what the limit of a container leaves, whichever is less."""
    try:
        found = re.search(r"^MemAvailable:\s+(\d+) kB", meminfo.read_text(), re.MULTILINE)
    except OSError:
        return None
    known = [int(found[1]) * 1024] if found else []
    for limit, used, given_up in CGROUP_FILES:
        try:
            most = (cgroup / limit).read_text().strip()
            spent = int((cgroup / used).read_text())
            stat = ((cgroup / limit).parent / "memory.stat").read_text()
        except (OSError, ValueError):
            continue
        cached = re.search(rf"^{given_up} (\d+)", stat, re.MULTILINE)
        if most.isdecimal():  # "max" is no limit
            known.append(max(int(most) - spent + (int(cached[1]) if cached else 0), 0))
    return min(known, default=None)


def parse_amount(given: int | float | str) -> float:
    """A number of bytes from "6 GB" or "500MB"; a fraction is returned as it is.

    >>> parse_amount("1.5 GB"), parse_amount(0.5)
    (1500000000.0, 0.5)
    """
    if isinstance(given, str):
        found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?B)\s*", given.upper())
        if found and float(found[1]) > 0:
            return float(found[1]) * UNITS[found[2]]
    elif 0 < given <= 1:
        return float(given)
    raise ValueError("give the fraction of what is free that may be used (0.5), or an amount ('6 GB')")


def memory_budget(device: torch.device, given: float | str) -> int | None:
    """The bytes that a run may use: an amount, or a fraction of the free memory; None if that is unknown."""
    asked = parse_amount(given)
    if asked > 1:
        return int(asked)
    unused = free_bytes(device)
    return None if unused is None else int(asked * unused)


def format_bytes(number: int | float) -> str:
    """Bytes as people write them.

    >>> format_bytes(1536), format_bytes(2.5e9)
    ('1.54 KB', '2.5 GB')
    """
    unit = max((name for name in UNITS if UNITS[name] <= max(number, 1)), key=lambda name: UNITS[name])
    return f"{number / UNITS[unit]:.3g} {unit}"
