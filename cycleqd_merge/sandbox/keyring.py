"""A session keyring for every box: a process that inherits one can read the keys in it."""

from __future__ import annotations

import functools
import platform
import shutil
import sys

_KEYCTL = {"x86_64": 250, "aarch64": 219}
_ERROR = "sandbox: cannot create a session keyring"
_PERL = f"""
syscall({{}}, 1, 0) >= 0 || $! == 38 || die "{_ERROR}: $!\\n";
$SIG{{{{$_}}}} = "DEFAULT" for keys %SIG;
exec {{{{$ARGV[0]}}}} @ARGV;
die "$ARGV[0]: $!\\n";
"""
_PYTHON = f"""
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
if libc.syscall({{}}, 1, None) < 0 and ctypes.get_errno() != 38:
    sys.exit("{_ERROR}: " + os.strerror(ctypes.get_errno()))
for each in signal.valid_signals() - {{{{signal.SIGKILL, signal.SIGSTOP}}}}:
    signal.signal(each, signal.SIG_DFL)
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""Join a new keyring (1: KEYCTL_JOIN_SESSION_KEYRING), if the kernel has any (38: ENOSYS), then run a command.

Signals that this process ignores, such as SIGHUP under `nohup`, end programs in a box as usual.
"""


@functools.cache
def new_keyring_prefix() -> tuple[str, ...]:
    """Command prefix that runs a command in a session keyring of its own: by Perl, which starts faster than Python."""
    number = _KEYCTL[platform.machine()]
    if shutil.which("perl"):
        return ("perl", "-e", _PERL.format(number), "--")
    return (getattr(sys, "_base_executable", sys.executable), "-I", "-S", "-c", _PYTHON.format(number))
