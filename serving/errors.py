"""Everything onecard refuses, as one small tree. Each leaf has an exit code of its own, so that scripts can branch on it.

OnecardError                     exit
├── UsageError                      2   a flag or argument that makes no sense
├── DoesNotFitError                 3   the plan needs more memory than there is
├── ConfigError                     4   a profile or model file: unknown name, unknown key, wrong value
├── CheckpointError                 5   a model folder: missing, broken, not a vision-language model, no weights
├── HubError                        6   a model hub: not reachable, unknown model, no permission
├── HardwareError                   7   no GPU for a GPU profile, or a driver that is too old
├── PortInUseError                  8   another program listens there
├── NotInstalledError               9   vLLM (or what it needs) is not installed
├── DiskFullError                  10   no room for what must be written
├── NotRunningError                11   a command that needs a running server, and none is there
├── EngineArgsError                12   vLLM does not take an argument that the plan depends on
├── GaveUpError                    13   the server crashed again and again; the reason is in the message
├── IncompleteError                14   `batch`, a table or a book is done, and some of it could not be answered
└── QualityError                   15   `quantize`, `evaluate`: more answers were lost than the gate allows
"""

import errno


class OnecardError(Exception):
    """A refusal in one paragraph: what happened, why, and what to do next. Printed without a traceback."""

    exit_code = 1


class UsageError(OnecardError):
    exit_code = 2


class DoesNotFitError(OnecardError):
    exit_code = 3


class ConfigError(OnecardError):
    exit_code = 4


class CheckpointError(OnecardError):
    exit_code = 5


class HubError(OnecardError):
    exit_code = 6


class HardwareError(OnecardError):
    exit_code = 7


class PortInUseError(OnecardError):
    exit_code = 8


class NotInstalledError(OnecardError):
    exit_code = 9


class DiskFullError(OnecardError):
    """`numbers` are the `errno` of such a write: the disk's, a quota's, and that of a file system or process whose files cannot
    be so large (FAT, `ulimit -f`)."""

    exit_code = 10
    numbers = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class NotRunningError(OnecardError):
    exit_code = 11


class EngineArgsError(OnecardError):
    exit_code = 12


class GaveUpError(OnecardError):
    exit_code = 13


class IncompleteError(OnecardError):
    exit_code = 14


class QualityError(OnecardError):
    exit_code = 15
