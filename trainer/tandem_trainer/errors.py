"""What the outside can cause, told in one line."""


class UserError(Exception):
    """Bad input, a bad file, a full disk: `tandem-train` prints the message and exits with 1.

    The message names the file or field, what is there, and what was expected. Everything else that is raised is
    a defect and keeps its traceback.
    """
