"""The one exception a user may cause: it carries one line that says what was found, expected and to do."""


class DiffaugError(RuntimeError):
    """Something the user can mend. Its message is one line: the file, what was found, what was expected, what to do.

    The command line prints the message alone and exits with code 2; `--debug` adds the traceback.
    """
