"""A made-up training without torch, for the ladder `environment`: its environment decides its pace.

Each step takes 30 ms, half of that where glibc keeps its pages; its loss is another one with other
threads. It starts a process in a session of its own, as torchrun does, and notes both in the folder
of its argument.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

if len(sys.argv) > 1:
    beside = subprocess.Popen(["sleep", "600"], start_new_session=True)
    note = Path(sys.argv[1], str(os.getpid()))
    note.write_text(f"{os.getpid()} {beside.pid}\n")
kept = "MALLOC_TOP_PAD_" in os.environ
wait_s, off = 0.015 if kept else 0.03, 0.1 * ("OMP_NUM_THREADS" in os.environ)
print("path", os.environ.get("PYTHONPATH"), "events", os.environ.get("LADDER_EVENTS"))
for step in range(1000):
    time.sleep(wait_s)
    print(f"step {step}: loss {4 - step / 100 + off:.4f}, {1 / wait_s:,.1f} tok/s")
