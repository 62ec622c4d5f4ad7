"""`fault_launcher.py SOCKET NUMBERS COMMAND…` runs the command so that those of its system calls wait for a word.

It puts the calls under seccomp (SECCOMP_RET_USER_NOTIF, seccomp_unotify(2)) and hands the descriptor by which they are
answered to who listens on the socket. A program of its own: what it does may be done by no process with threads.
"""

import ctypes
import os
import socket
import struct
import sys

SYS_SECCOMP = 317
PR_SET_NO_NEW_PRIVS = 38
SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER = 1, 8
ALLOW, NOTIFY = 0x7FFF0000, 0x7FC00000
LOAD_NUMBER, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06


def listener(numbers):
    """The filter is a classic BPF program: the call's number is compared with each."""
    code = [struct.pack("<HBBI", LOAD_NUMBER, 0, 0, 0)]
    for left, number in zip(range(len(numbers), 0, -1), numbers, strict=True):
        code.append(struct.pack("<HBBI", JUMP_IF_EQUAL, left, 0, number))
    code += [struct.pack("<HBBI", RETURN, 0, 0, ALLOW), struct.pack("<HBBI", RETURN, 0, 0, NOTIFY)]
    instructions = ctypes.create_string_buffer(b"".join(code))
    program = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", len(code), ctypes.addressof(instructions)))
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    descriptor = libc.syscall(SYS_SECCOMP, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_NEW_LISTENER, program)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    return descriptor


def main(path, numbers, *command):
    with socket.socket(socket.AF_UNIX) as handover:
        handover.connect(path)
        socket.send_fds(handover, [b"x"], [listener([int(number) for number in numbers.split(",")])])
    os.execv(command[0], command)


main(*sys.argv[1:])
