"""The one error of the border: bad input, said once, in words a user can act on."""


class InputError(ValueError):
    """Tell what came, what was wanted and what to do; the command line ends with exit code 2."""
