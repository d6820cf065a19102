#!/bin/sh
# A shell test runs on this machine and reaches the instance through variables; exit code 0 is success.
# $DIBCTL_SSH is a whole ssh command line: key, user, port and pinned host key are in it.
set -eu

sent="$DIBCTL_INSTANCE_NAME $$"
back=$(printf '%s\n' "$sent" | $DIBCTL_SSH cat)

if [ "$sent" != "$back" ]; then
    echo "sent '$sent' to $DIBCTL_MAIN_IP through $DIBCTL_SSH_IP:$DIBCTL_SSH_PORT, got '$back'" >&2
    exit 1
fi
echo "$DIBCTL_SSH_USERNAME@$DIBCTL_INSTANCE_NAME ($DIBCTL_FLAVOR_NAME) repeats what it is told"
