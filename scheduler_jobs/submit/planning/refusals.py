"""A parameter's value that a model can't render."""


class Refused(Exception):
    """Why a row can't be planned: the column, what was found in it, and what is allowed."""

    def __init__(self, column: str, found: str, allowed: str) -> None:
        super().__init__(f"{column}: {found}; {allowed}")
        self.column = column
        self.found = found
        self.allowed = allowed
