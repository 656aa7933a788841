"""What can go wrong."""


class ExportError(ValueError):
    """A file that could not be made or does not compute what PyTorch computes; the message says what to do."""
