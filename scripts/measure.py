#!/usr/bin/env python3
"""Runs a command and prints its wall seconds, CPU seconds and, with --memory, the peak memory of its process tree.

    measure.py [--memory] COMMAND ARGUMENT...

One line on standard output: wall, CPU (user and system, of all processes that were waited for) and peak KiB (0 without
--memory). Memory is the sum of the proportional set sizes of the command and everything below it, looked at about 50
times a second: looking costs time, so a run that measures memory is no measure of time. The command's own standard
output goes to standard error; its exit code is passed on.
"""

import os
import subprocess
import sys
import time


def main():
    arguments = sys.argv[1:]
    memory = arguments[:1] == ["--memory"]
    command = arguments[1:] if memory else arguments
    if not command:
        sys.exit(__doc__)
    start = time.monotonic()
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sys.stderr)
    peak = watch(child.pid) if memory else 0
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - start
    print(f"{wall:.4f} {usage.ru_utime + usage.ru_stime:.4f} {peak}")
    sys.exit(os.waitstatus_to_exitcode(status) & 0xFF)


def watch(pid):
    """The peak, in KiB, until the process has ended (it is left to be waited for)."""
    peak = 0
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        peak = max(peak, sum(proportional_set(member) for member in tree(pid)))
        time.sleep(0.02)
    return peak


def tree(root):
    """The process and everything below it."""
    children = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    parent = int(file.read().rsplit(b")", 1)[1].split()[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(name))
    found, queue = [], [root]
    while queue:
        member = queue.pop()
        found.append(member)
        queue.extend(children.get(member, []))
    return found


def proportional_set(pid):
    try:
        with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
            for line in file:
                if line.startswith(b"Pss:"):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0


main()
