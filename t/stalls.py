# SPDX-License-Identifier: BSD-3-Clause
"""stalls - notices when the machine stands still, so that what a test of time-outs says then is not held against it.

Environment: TIMEOUT_SCALE (1).
"""

import os
import threading
import time

SCALE = float(os.environ.get("TIMEOUT_SCALE", "1"))


class Stalls(threading.Thread):
    """Notices when nothing runs: the machine, or the whole virtual one, stood still for a while."""

    PAUSE, LATE = 0.1, 0.5 * SCALE

    def __init__(self):
        super().__init__(daemon=True)
        self.num, self.longest = 0, 0.0
        self.turned = threading.Event()
        self.start()

    def run(self):
        last = time.monotonic()
        while True:
            time.sleep(self.PAUSE)
            now = time.monotonic()
            if now - last > self.LATE:
                self.num += 1
                self.longest = max(self.longest, now - last)
            last = now
            self.turned.set()

    def count(self):
        """How often so far, the moment of the call included."""
        self.turned.clear()
        self.turned.wait()
        return self.num
