# SPDX-License-Identifier: Apache-2.0
"""What ends an experiment with one line instead of a traceback."""


class DataError(Exception):
    """A data file is missing or malformed; the message names it, and what was expected."""


class RecordError(Exception):
    """A stored result or checkpoint cannot be used; the message names it and says what to do."""


class UsageError(Exception):
    """The command line asks for what there is not; the message says what there is."""
