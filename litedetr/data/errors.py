"""The one error of data that cannot be used."""


class DataError(ValueError):
    """A file of the data set is missing or wrong; the message names the file, and the id if there is one."""
