"""The one error of the border: bad input, said once, in words a user can act on."""


class InputError(ValueError):
    """Tell what came, what was wanted and what to do; the command line ends with exit code 2."""


class BusyError(InputError):
    """Another process is at the same work."""


class MachineError(InputError):
    """A machine is gone, or lacks something, such as room on its disk; a run ends of it, and can be gone on with."""


class MachineLostError(MachineError):
    """A machine died with the work that was on it."""
