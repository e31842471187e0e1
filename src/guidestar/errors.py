"""Errors that a user can put right."""


class UserError(ValueError):
    """Something in the user's input is wrong; the message says what, and what would be right.

    The command line prints such an error as one message and exits with a non-zero code; library users catch it as a
    `ValueError`.

    Example:
        >>> issubclass(UserError, ValueError)
        True
    """
