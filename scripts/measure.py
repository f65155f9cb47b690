#!/usr/bin/env python3
"""Runs a command as a user and prints its wall seconds, CPU seconds and, with --memory, the peak memory of its processes.

    measure.py [--memory] USER COMMAND ARGUMENT...

One line on standard output: wall, CPU (user and system, of all processes that were waited for) and peak KiB (0 without
--memory). The command's own standard output goes to standard error; its exit code is passed on.

To be run as root: a program that guards its secrets lets nobody else look at its memory. The peak is the greatest sum of
the proportional set sizes of all processes (what they share counts once), or the greatest high-water mark of a single
one if that is more: short-lived ones peak between two looks. There are some 100 looks a second and they cost time, so a
run that measures memory is no measure of time.
"""

import os
import pwd
import subprocess
import sys
import time


def main():
    arguments = sys.argv[1:]
    memory = arguments[:1] == ["--memory"]
    if memory:
        arguments.pop(0)
    if len(arguments) < 2:
        sys.exit(__doc__)
    user, *command = arguments
    environment = {"HOME": "/tmp", "USER": user, "LOGNAME": user, "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8"}
    start = time.monotonic()
    child = subprocess.Popen(
        command, user=user, group=group_of(user), extra_groups=[], env=environment, cwd="/",
        stdin=subprocess.DEVNULL, stdout=sys.stderr,
    )
    peak = watch(child.pid) if memory else 0
    _, status, usage = os.wait4(child.pid, 0)
    wall = time.monotonic() - start
    print(f"{wall:.4f} {usage.ru_utime + usage.ru_stime:.4f} {peak}")
    if memory and not peak:
        sys.exit("measure.py: the memory of the processes could not be read")
    sys.exit(os.waitstatus_to_exitcode(status) & 0xFF)


def group_of(user):
    return pwd.getpwnam(user).pw_gid


def watch(pid):
    """The peak, in KiB, until the process has ended (it is left to be waited for)."""
    peak = 0
    while os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        members = tree(pid)
        together = sum(field(member, "smaps_rollup", b"Pss:") for member in members)
        single = max(field(member, "status", b"VmHWM:") for member in members)
        peak = max(peak, together, single)
        time.sleep(0.005)
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


def field(pid, name, label):
    """A size from a file of /proc; 0 for a process that has just ended."""
    try:
        with open(f"/proc/{pid}/{name}", "rb") as file:
            for line in file:
                if line.startswith(label):
                    return int(line.split()[1])
    except OSError:
        pass
    return 0


main()
