"""The command line: composed settings, sweeps, errors in one line, exit codes.

To be imported before torch, whose threads read their settings once.
"""

from litedetr.threads import limit_spinning

limit_spinning()
