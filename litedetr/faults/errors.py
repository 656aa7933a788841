"""The errors of a run that are no mistake in the code."""


class UserError(Exception):
    """Its message is for the user, who reads it as one line: what happened, and what to do."""
