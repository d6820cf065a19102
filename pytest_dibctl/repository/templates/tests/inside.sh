#!/bin/sh
# A test that is copied into the instance and runs there: an `ssh` entry of images.yaml.
set -eu
test "$(id -u)" = 0
test "$(uname -n)" = "$DIBCTL_INSTANCE_NAME"
df -h /
