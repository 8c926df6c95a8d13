"""Runs a program alone: in a root of its own that nobody can write to, as a user that is nobody.

    alone.py ROOT DATA PROGRAM ARGUMENT...

ROOT is what the program finds at `/`, read-only; DATA is mounted at its /var/lib/latchkey, and may
be written. The user and group are 65532, without capabilities and without a way to get any, as a
container's are by the chart. Who is not root does it in a user namespace, as far as the machine lets
anybody make one; 65532 is then what the program takes itself for.
"""

import ctypes
import os
import pathlib
import sys

NOBODY = 65532
CLONE_NEWUSER = 0x10000000
CLONE_NEWNS, MS_RDONLY, MS_REMOUNT, MS_BIND, MS_REC, MS_PRIVATE = 0x20000, 1, 32, 4096, 16384, 1 << 18
PR_CAPBSET_DROP, PR_SET_NO_NEW_PRIVS, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4
# Of mounts and of `statvfs` alike: no set-uid, no devices, no programs, no times of access.
FORBIDDEN = 2 | 4 | 8 | 1024 | 2048

libc = ctypes.CDLL(None, use_errno=True)


def done(result, what):
    if result != 0:
        error = ctypes.get_errno()
        sys.exit(f"alone.py: {what}: {os.strerror(error)}")


def mount(source, target, flags):
    arguments = (os.fsencode(source), os.fsencode(target), None, ctypes.c_ulong(flags), None)
    done(libc.mount(*arguments), f"mounting {source} at {target}")


def own_namespace():
    """In which we are 65532, and may mount and change the root."""
    user, group = os.geteuid(), os.getegid()
    if libc.unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0:
        sys.exit("alone.py: neither root nor allowed a user namespace: run the tests as root")
    proc = pathlib.Path("/proc/self")
    proc.joinpath("setgroups").write_text("deny")
    proc.joinpath("uid_map").write_text(f"{NOBODY} {user} 1")
    proc.joinpath("gid_map").write_text(f"{NOBODY} {group} 1")


def main(root, data, program, *arguments):
    is_root = os.geteuid() == 0
    if is_root:
        done(libc.unshare(CLONE_NEWNS), "a mount namespace")
    else:
        own_namespace()
    mount("none", "/", MS_REC | MS_PRIVATE)
    mount(root, root, MS_BIND)
    mount(data, f"{root}/var/lib/latchkey", MS_BIND)
    # What a mount of somebody else's forbids, a namespace cannot allow again.
    mount(root, root, MS_BIND | MS_REMOUNT | MS_RDONLY | os.statvfs(root).f_flag & FORBIDDEN)
    os.chroot(root)
    os.chdir("/")
    last = int(CAPABILITIES)
    for capability in range(last + 1):
        done(libc.prctl(PR_CAPBSET_DROP, capability, 0, 0, 0), f"dropping capability {capability}")
    done(libc.prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0), "ambient capabilities")
    if is_root:
        os.setgroups([])
    os.setresgid(NOBODY, NOBODY, NOBODY)
    os.setresuid(NOBODY, NOBODY, NOBODY)
    done(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), "no new privileges")
    os.execve(program, [program, *arguments], dict(os.environ))


if __name__ == "__main__":
    if len(sys.argv) < 4:
        sys.exit(__doc__)
    # Read before there is no /proc any more.
    CAPABILITIES = pathlib.Path("/proc/sys/kernel/cap_last_cap").read_text()
    main(*sys.argv[1:])
