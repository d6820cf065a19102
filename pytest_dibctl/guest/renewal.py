"""Renewal of a guest that goes on from a saved state: new keys, names, random numbers and time.

Before the state is saved, a shell is left in the guest that reads from its second serial line. Only QEMU's
starter reaches that line, so the state needs no secret, and no port of the guest need be open. The shell
receives the new values, renews the guest and ends.
"""

from __future__ import annotations

import dataclasses
import hashlib
import secrets
import shlex
from collections.abc import Callable, Mapping
from typing import Final

from pytest_dibctl.errors import DibctlError
from pytest_dibctl.system import process
from pytest_dibctl.system.text import visible_line

LINE: Final = "/dev/ttyS1"
SETTLE: Final = 120
"""Seconds that systemd has to come to the end of its boot before the state is saved."""
PREPARE_PATIENCE: Final = SETTLE + 60.0
PINGS: Final = 4
_END: Final = "dibctl-end"
_PING, _HERE = "dibctl-ping", "dibctl-here"
_DONE, _FAILED = "dibctl-renewed", "dibctl-failed"

Ask = Callable[[str, float], str]
"""Sends text over the line, and returns the line that the guest answers within some seconds."""

_MACHINE_CODE: Final = bytes.fromhex(
    # mov eax, 16 (ioctl); xor edi, edi; mov esi, 0x5207 (RNDRESEEDCRNG); xor edx, edx; syscall
    "b810000000 31ff be07520000 31d2 0f05"
    # mov edi, eax; neg edi; mov eax, 60 (exit); syscall
    "89c7 f7df b83c000000 0f05"
)


def reseeding_program() -> bytes:
    """Return a program for x86-64 that has the kernel reseed its random numbers; stdin is /dev/urandom.

    No command of a usual guest does that, and without it two clones would draw the same numbers for a minute.
    """
    base, size = 0x400000, 64 + 56 + len(_MACHINE_CODE)
    header = b"\x7fELF\x02\x01\x01" + bytes(9) + bytes.fromhex("02003e0001000000")
    header += (base + 120).to_bytes(8, "little") + (64).to_bytes(8, "little") + bytes(8) + bytes(4)
    header += bytes.fromhex("4000 3800 0100 0000 0000 0000")
    segment = bytes.fromhex("01000000 05000000") + bytes(8) + base.to_bytes(8, "little") * 2
    segment += size.to_bytes(8, "little") * 2 + (0x1000).to_bytes(8, "little")
    return header + segment + _MACHINE_CODE


# Processes cost a guest without KVM most, so the shell does as much as it can by itself.
_RENEW: Final = r"""
fail() { echo "@FAILED@ $1"; exit 1; }
put() { printf '%s\n' "$2" > "$1"; } 2> /dev/null
[ "$renewed" != no ] || rm -f "$reseed"
date -u -s "@$now" > /dev/null 2>&1 || fail "the clock"
if [ "$renewed" = no ]; then
    echo "@DONE@ $nonce"
    exit
fi
printf '%s' "$noise" > /dev/urandom && "$reseed" < /dev/urandom || fail "the random numbers"
[ ! -f /var/lib/systemd/random-seed ] || put /var/lib/systemd/random-seed "$noise"
for file in /etc/machine-id /var/lib/dbus/machine-id; do
    [ ! -s $file ] || put $file "$machine_id" || fail "$file"
done
put /proc/sys/kernel/hostname "$name" || fail "the hostname"
[ ! -e /etc/hostname ] || put /etc/hostname "$name" || fail /etc/hostname
umask 077

# replace FILE OLD NEW TEXT: put NEW in place of OLD, and TEXT in place of what follows it in its line
replace() {
    lines= found=
    while IFS= read -r line || [ -n "$line" ]; do
        case $line in
            *"$2"*) line=${line%%"$2"*}$3${4-${line#*"$2"}} found=yes ;;
        esac
        lines="$lines$line
"
    done < "$1"
    [ -z "$found" ] || printf '%s' "$lines" > "$1"
    [ -n "$found" ]
}
[ ! -f /etc/hosts ] || for time in 1 2 3; do replace /etc/hosts "$old_name" "$name"; done
for file in $key_files; do
    replace $file "$old_key" "$key" "" || fail "the login key in $file"
done
if [ "$server" = dropbear ]; then
    printf '%s' "$host_key" > /etc/dropbear/dibctl
    rm -f /etc/dropbear/dropbear_*_host_key
    dropbearconvert openssh dropbear /etc/dropbear/dibctl \
        /etc/dropbear/dropbear_ed25519_host_key > /dev/null 2>&1 || fail "the host key"
    rm -f /etc/dropbear/dibctl
    kill $(pidof dropbear) || fail "the ssh server"
else
    [ -z "$other_host_keys" ] || rm -f $other_host_keys
    printf '%s' "$host_key" > /etc/ssh/ssh_host_ed25519_key || fail "the host key"
    (umask 022; put /etc/ssh/ssh_host_ed25519_key.pub "$public_host_key")
    read -r pid < /run/sshd.pid && kill -HUP "$pid" || fail "the ssh server"
fi
lease() {
    rm -f "$reseed"
    for path in /sys/class/net/*/device; do
        interface=${path%/device}; interface=${interface##*/}
        ! pidof systemd-networkd || networkctl renew "$interface"
        ! pidof NetworkManager || nmcli device reapply "$interface"
    done
    ! pidof udhcpc || kill -USR1 $(pidof udhcpc)
    ! pidof dhcpcd || dhcpcd -n
    for pid in $(pidof dhclient); do
        tr '\0' '\n' < /proc/$pid/cmdline > /run/dibctl-dhclient
        set --
        while IFS= read -r word; do set -- "$@" "$word"; done < /run/dibctl-dhclient
        rm -f /run/dibctl-dhclient
        kill $pid
        "$@"
    done
}
(sleep 2; lease) > /dev/null 2>&1 < /dev/null &
echo "@DONE@ $nonce"
""".replace("@DONE@", _DONE).replace("@FAILED@", _FAILED)

WAITING: Final = (
    (
        r"""
renewed=yes values=
while IFS= read -r word; do
    case $word in
        @PING@) values=; echo @HERE@ ;;
        @END@) break ;;
        *) values="$values$word
" ;;
    esac
done
[ "$word" = @END@ ] || exit
eval "$values"
"""
        + _RENEW
    )
    .replace("@PING@", _PING)
    .replace("@HERE@", _HERE)
    .replace("@END@", _END)
)

_PREPARE: Final = (
    r"""
PATH=/usr/sbin:/sbin:/usr/bin:/bin:$PATH; export PATH
fail() { echo "$1"; exit 1; }
# Open from here on: what is sent to a closed line is lost.
{ [ -c @LINE@ ] && stty raw -echo < @LINE@; } 2> /dev/null || fail "it has no second serial line (@LINE@)"
exec 3<> @LINE@
stty raw -echo <&3
if [ -d /run/systemd/system ]; then
    timeout @SETTLE@ systemctl is-system-running --wait > /dev/null 2>&1
fi
key_files=
for home in $(cut -d : -f 6 /etc/passwd | sort -u); do
    for file in $home/.ssh/authorized_keys $home/.ssh/authorized_keys2; do
        [ -f $file ] && grep -qF '@KEY@' $file && key_files="$key_files $file"
    done
done
[ -n "$key_files" ] || fail "its login key is in no user's authorized_keys"
server=openssh
if [ -s /run/sshd.pid ] && kill -0 "$(cat /run/sshd.pid)"; then
    other_host_keys=$(ls -d /etc/ssh/ssh_host_*_key* 2> /dev/null | grep -v _ed25519_key)
    sshd -T 2> /dev/null | grep '^hostkey ' | grep -qv '^hostkey /etc/ssh/ssh_host_[a-z0-9]*_key$' &&
        fail "its ssh server has host keys in unusual places"
elif server=dropbear && pidof dropbear > /dev/null && [ -d /etc/dropbear ]; then
    command -v dropbearconvert > /dev/null || fail "it has no dropbearconvert"
else
    fail "its ssh server is neither OpenSSH's with /run/sshd.pid nor dropbear"
fi
date -u -s "@$(date +%s)" > /dev/null 2>&1 || fail "its clock cannot be set"
reseed=
for folder in /run /var/tmp /tmp /root; do
    file=$folder/.dibctl-reseed
    (umask 077; printf '@PROGRAM@' > $file) 2> /dev/null && chmod 700 $file &&
        $file < /dev/urandom 2> /dev/null && reseed=$file && break
    rm -f $file
done
[ -n "$reseed" ] || fail "its kernel's random numbers cannot be renewed"
export reseed key_files server other_host_keys
setsid sh -c @WAITING@ <&3 >&3 2> /dev/null 3>&- &
""".replace("@LINE@", LINE)
    .replace("@SETTLE@", str(SETTLE))
    .replace("@PROGRAM@", "".join(f"\\{byte:03o}" for byte in reseeding_program()))
    .replace("@WAITING@", shlex.quote(WAITING))
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Renewal:
    """The new values of a guest: ``host_key`` is the text of a private key file; ``old_*`` are former values.

    ``key`` and ``old_key`` are lines of authorized_keys.
    """

    name: str
    old_name: str
    key: str
    old_key: str
    host_key: str
    public_host_key: str

    def values(self, *, now: float, nonce: str) -> str:
        """Return the input of the waiting shell; ``now`` is the time in seconds since the epoch.

        It fits into the 4096 bytes that a terminal's line keeps for a reader.
        """
        values = {
            "now": f"{now:.0f}",
            "nonce": nonce,
            "noise": secrets.token_hex(64),
            "machine_id": secrets.token_hex(16),
            "name": self.name,
            "old_name": self.old_name,
            "key": self.key,
            "old_key": _without_comment(self.old_key),
            "host_key": self.host_key,
            "public_host_key": self.public_host_key,
        }
        return _assigned(values)


def renew(ask: Ask, renewal: Renewal, *, now: float, timeout: float) -> None:
    """Renew a guest that has just gone on from its state; raises DibctlError that names the failed part."""
    nonce = secrets.token_hex(16)
    answer = ask(f"{renewal.values(now=now, nonce=nonce)}{_END}\n", timeout)
    if answer == f"{_DONE} {nonce}":
        return
    # The guest's answer is only shown, and never used in any other way.
    reason = answer.removeprefix(f"{_FAILED} ")
    raise DibctlError(f"the guest could not renew {visible_line(reason)[:200] or 'itself'}")


def prepare(run: Callable[..., process.Result], *, public_key: str) -> None:
    """Leave the waiting shell in a guest; ``run`` runs a command in it, as its ``SshAccess`` does.

    ``public_key`` is the line of the key that logs in.

    The guest has come to the end of its boot when this returns, or to the end of our patience. Raises
    DibctlError with the reason why its state could not be renewed.
    """
    as_root = 'if [ "$(id -u)" = 0 ]; then exec sh -s; else exec sudo -n sh -s; fi'
    script = _PREPARE.replace("@KEY@", _without_comment(public_key))
    result = run(as_root, stdin=script, timeout=PREPARE_PATIENCE)
    if result.returncode != 0:
        lines = (result.output or result.errors).strip().splitlines() or ["the login may not become root"]
        raise DibctlError(visible_line(lines[-1])[:200])


def ping(ask: Ask) -> None:
    """See that the waiting shell outlives the login that has started it; raises DibctlError."""
    if not any(ask(f"{_PING}\n", 5.0) == _HERE for _ in range(PINGS)):
        raise DibctlError("the guest ends all processes of a login")


def dismiss(ask: Ask, *, now: float) -> None:
    """End the waiting shell of a guest that is not renewed, and set the guest's clock."""
    ask(f"{_assigned({'renewed': 'no', 'now': f'{now:.0f}', 'nonce': 'x'})}{_END}\n", 20.0)


def version() -> str:
    """Return a digest of the program left in a guest: a state with another program cannot be renewed."""
    return hashlib.sha256(_PREPARE.encode()).hexdigest()


def _assigned(values: Mapping[str, str]) -> str:
    return "".join(f"{name}={shlex.quote(value)}\n" for name, value in values.items())


def _without_comment(public_key: str) -> str:
    return " ".join(public_key.split()[:2])
