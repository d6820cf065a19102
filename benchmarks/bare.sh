#!/bin/bash
# What a user would write instead of a run: boot $IMAGE in QEMU ($MACHINE), log in over ssh, run one command.
set -eu
work=$(mktemp -d)
trap 'kill $qemu 2>/dev/null || :; wait; rm -rf "$work"' EXIT
ssh-keygen -q -t ed25519 -N "" -f "$work/key"
ssh-keygen -q -t ed25519 -N "" -f "$work/host"
mkdir "$work/seed"
printf '{"instance-id": "i-1", "local-hostname": "bare", "public-keys": ["%s"]}' "$(cat "$work/key.pub")" \
    > "$work/seed/meta-data"
: > "$work/seed/user-data"
{
    printf '#cloud-config\nssh_keys:\n  ed25519_private: |\n'
    sed 's/^/    /' "$work/host"
} > "$work/seed/vendor-data"
genisoimage -quiet -joliet -rock -volid cidata -output "$work/seed.iso" "$work/seed"
qemu-img create -q -f qcow2 -b "$IMAGE.qcow2" -F qcow2 "$work/disk.qcow2" 10G
port=$((20000 + RANDOM % 20000))
# shellcheck disable=SC2086 # these are several arguments
qemu-system-x86_64 $MACHINE -m 1024 -smp 2 -nodefaults -display none \
    -device virtio-rng-pci -drive "file=$work/disk.qcow2,if=virtio" \
    -drive "file=$work/seed.iso,if=virtio,format=raw,readonly=on" \
    -netdev "user,id=net,hostfwd=tcp:127.0.0.1:$port-:22" -device virtio-net-pci,netdev=net \
    -serial "file:$work/console" -kernel "$IMAGE.vmlinuz" -initrd "$IMAGE.initrd" \
    -append "root=/dev/vda rw console=ttyS0" &
qemu=$!
echo "[127.0.0.1]:$port $(cut -d' ' -f1,2 "$work/host.pub")" > "$work/known"
# A connection that says nothing is waited for one second: the guest is not up yet, and QEMU keeps it.
banner=
until { read -r -t 1 banner < "/dev/tcp/127.0.0.1/$port"; } 2> /dev/null && [[ $banner == SSH-* ]]; do
    kill -0 $qemu
    sleep 0.1
done
ssh -q -F none -i "$work/key" -p "$port" -o UserKnownHostsFile="$work/known" -o StrictHostKeyChecking=yes \
    -o BatchMode=yes root@127.0.0.1 true
