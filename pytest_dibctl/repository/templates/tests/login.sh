#!/bin/sh
# A test that runs on this machine: a `shell` entry of images.yaml. Exit code 0 is success.
set -eu
echo "$DIBCTL_INSTANCE_NAME answers at $DIBCTL_SSH_IP, port $DIBCTL_SSH_PORT"
test "$($DIBCTL_SSH echo hello)" = hello
