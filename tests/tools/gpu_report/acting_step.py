"""In place of litedetr.tools.gpu_report.step_process: a step that ends well, crashes, hangs or goes on, by its name."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

from litedetr.tools.gpu_report.child_process import end_with_parent
from litedetr.tools.gpu_report.rows_file import Rows

ACTS = {
    "machine": "well",
    "attention": "crash",
    "suite": "hang",
    "host": "raise",
    "detectors": "on",
    "step": "well",
    "training": "print",
    "tools": "keep Python's lock",
    "autotune": "end by a signal without a name",
}


def main(name: str, folder: str, report: str, **_: object) -> None:
    end_with_parent()
    rows = Rows(Path(folder), report, name)
    rows.append({"kind": "act", "pid": os.getpid()})
    match ACTS[name]:
        case "crash":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "hang":
            own = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            rows.append({"kind": "act", "pid": own.pid})
            time.sleep(600)
        case "raise":
            raise ValueError("no such thing")
        case "on":
            for number in range(10**6):
                rows.append({"kind": "act", "number": number})
        case "print":
            while True:
                print("on and on " * 100)
        case "keep Python's lock":
            re.match(r"(a+)+b", "a" * 100)
        case "end by a signal without a name":
            os.kill(os.getpid(), 40)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
