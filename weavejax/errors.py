"""The one exception that users are meant to read."""


class UserError(Exception):
    """Something the user can mend: doors print its one line and leave with exit status 2."""
