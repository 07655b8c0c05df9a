"""The one exception that a user is meant to read."""


class InputError(ValueError):
    """Something given from outside cannot be used.

    The message is one sentence that names the file or config key and says what to do; the tools
    print it without a traceback and exit with status 1.
    """
