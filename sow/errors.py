"""The one exception that a user is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """Bad input, said on one line that names the value, the config key and the cure; `run.py` prints it and exits with 1."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(str(message).split()))


class Refusal(BaseException):
    """A `UserError` out of one of Hydra's callbacks, which makes warnings of other exceptions."""

    def __init__(self, error: UserError) -> None:
        super().__init__(str(error))
        self.error = error
