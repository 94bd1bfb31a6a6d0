"""Which names a run may have. Knows no run."""

from __future__ import annotations

import re

from chatglm2.errors import RunError

LONGEST_NAME = 100
# No option of a command, no file of ours beside the runs.
SAFE_NAME = re.compile(r"\w[\w.\-]*(?<!\.json)")
# Names that a disk shared with Windows takes for devices, whatever follows a dot.
DEVICE_NAME = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\..*)?", re.IGNORECASE)


def checked_name(name: str) -> str:
    """``name``, if it can be a run's.

    Raises:
        RunError: it cannot.
    """
    if SAFE_NAME.fullmatch(name) and len(name) <= LONGEST_NAME and not DEVICE_NAME.fullmatch(name):
        return name
    raise RunError(
        f"{name!r} cannot name a run: use letters, digits, '-', '_' and '.', at most {LONGEST_NAME}, begin with a "
        "letter or digit, and take no name of a device such as CON.",
        f"{name!r} 不能作为训练名：只能用文字、数字、“-”、“_”和“.”，最多 {LONGEST_NAME} 个字符，以文字或数字开头，"
        "且不能是 CON 之类的设备名。",
    )
