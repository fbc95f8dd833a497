"""Errors that the user can mend: each message is one line and names the remedy."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its type if the message is empty."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class MithridateError(Exception):
    """Base of all errors that the caller can mend. The command line prints the message and exits with 2."""


class InputError(MithridateError):
    """An option, an array or a name that cannot be used. The message says which, its value and what is allowed."""


class DataError(MithridateError):
    """A data file that is missing, corrupt or unreadable. The message names the file and the remedy."""


class Interrupted(MithridateError):  # noqa: N818 (it was asked for)
    """An audit that was asked to stop and has saved its state. The command line exits with 130."""


class StorageError(MithridateError):
    """A run directory that cannot be written or read."""


class Unplanned(MithridateError):  # noqa: N818 (the audit can still be run)
    """An audit whose time and memory cannot be estimated in advance. The message says why."""
