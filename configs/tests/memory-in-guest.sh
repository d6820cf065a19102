#!/bin/sh
# A script of an ssh entry is copied into the guest and runs there, with the same variables as a shell test.
set -eu

seen=$(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo)
# The kernel keeps some for itself.
if [ "$((seen / 1024))" -lt "$((DIBCTL_FLAVOR_RAM * 3 / 4))" ]; then
    echo "$DIBCTL_INSTANCE_NAME has $((seen / 1024)) MiB of the $DIBCTL_FLAVOR_RAM MiB of $DIBCTL_FLAVOR_NAME" >&2
    exit 1
fi
if [ "$(id -u)" != 0 ]; then
    echo "sudo: true did not make this $(id -un) root" >&2
    exit 1
fi
echo "$(uname -n) sees $((seen / 1024)) of $DIBCTL_FLAVOR_RAM MiB"
