#!/bin/sh
# A script of an image entry runs on this machine too, and sees the image's files under $DIBCTL_IMAGE_ROOT,
# read-only, before anything is booted. Absolute links in there lead astray: they are meant for the guest.
set -eu

resolv="$DIBCTL_IMAGE_ROOT/etc/resolv.conf"
if [ -e "$resolv" ] && [ ! -L "$resolv" ]; then
    echo "$DIBCTL_IMAGE_LABEL would ask the name servers of the machine it was built on:" >&2
    cat "$resolv" >&2
    exit 1
fi
# $DIBCTL_IMAGE_CHROOT runs a command of the image itself.
"$DIBCTL_IMAGE_CHROOT" /usr/bin/test -x /lib/systemd/systemd-resolved
echo "$DIBCTL_IMAGE_LABEL gets its name servers from the network"
