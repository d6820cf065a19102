#!/bin/sh
# A test that is copied into the instance and runs there: an `ssh` entry of images.yaml.
set -eu
. /etc/os-release
echo "$DIBCTL_INSTANCE_NAME runs $PRETTY_NAME"
test "$(id -u)" = 0
