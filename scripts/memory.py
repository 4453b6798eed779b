"""The peak memory of this process, for scripts that measure it."""

import resource
import sys
from pathlib import Path


def peak_megabytes() -> float:
    """The largest resident size so far, in MB.

    Linux hands `ru_maxrss` of a parent on to its child; the status file starts afresh.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return float(line.split()[1]) / 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)
