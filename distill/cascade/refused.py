"""A request that is refused, and why."""


class Refused(Exception):
    """A request that gets an error: its HTTP status, what is wrong, and with which parameter."""

    def __init__(
        self, status: int, message: str, param: str | None = None, code: str | None = None
    ):
        super().__init__(message)
        self.status = status
        self.message = message
        self.param = param
        self.code = code
