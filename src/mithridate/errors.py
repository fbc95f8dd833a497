"""What goes wrong in a way the user can mend: one type, one line, the remedy in the message."""


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says, or its type where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class MithridateError(Exception):
    """Base of every error that is the caller's to mend; the command line prints it and exits with 2."""


class InputError(MithridateError):
    """An option, an array or a name that cannot be used; says which, its value, what is allowed."""


class DataError(MithridateError):
    """A data file that is missing, corrupt or unreadable; names the file and the remedy."""


class Interrupted(MithridateError):  # noqa: N818 (it was asked for)
    """An audit that was asked to stop, and has saved what there is; the command line exits with 130."""


class StorageError(MithridateError):
    """A run directory that cannot be written or read."""


class Unplanned(MithridateError):  # noqa: N818 (the audit can still be run)
    """An audit whose time and memory cannot be told in advance; says why."""
