# Functions that read what the cloud gave: a NoCloud seed or an OpenStack config drive.
# shellcheck shell=sh

SEED=/run/micro          # this boot's copy of the seed
FLAT=$SEED/flat          # hostname, keys and cloud-config as "path=value" lines
NETWORK=$SEED/network    # network_data.json likewise

# Print the last value of the first of the named paths that has one.
seed_get() {
    for path; do
        value=$(sed -n "s/^$path=//p" $FLAT | tail -n 1)
        if [ -n "$value" ]; then
            printf '%b\n' "$value"
            return
        fi
    done
    return 1
}

# Print a value of network_data.json; null counts as none.
network_get() {
    value=$(sed -n "s/^$1=//p" $NETWORK | tail -n 1)
    [ -n "$value" ] && [ "$value" != null ] && printf '%b\n' "$value"
}

# Print the keys that may log in.
seed_public_keys() {
    printf '%b\n' "$(sed -n 's/^\(public[-_]keys\|ssh_authorized_keys\)[^=]*=//p' $FLAT)" | grep -E '^(ssh|ecdsa|sk)-'
}

# Copy the seed to $SEED and read it. Fails when there is none.
seed_load() {
    mkdir -p $SEED
    : > $FLAT
    : > $NETWORK
    # A container has its seed among its files, as cloud-init has it there.
    if [ -d /var/lib/cloud/seed/nocloud ]; then
        _seed_copy /var/lib/cloud/seed/nocloud/ meta-data vendor-data user-data
        return
    elif [ -d /var/lib/cloud/seed/config_drive ]; then
        _seed_copy /var/lib/cloud/seed/config_drive/openstack/latest/ meta_data.json vendor_data.json user_data
        return
    fi
    device=$(_seed_device) || return
    mount -t iso9660 -o ro "$device" /mnt || return
    case $(echo /mnt/*) in
        */openstack*) _seed_copy /mnt/openstack/latest/ meta_data.json vendor_data.json user_data ;;
        *) _seed_copy /mnt/ meta-data vendor-data user-data ;;
    esac
    umount /mnt
}

# Disks of a virtio bus are there at once, others take a moment to be found.
_seed_device() {
    tries=0
    while [ $tries -lt 10 ]; do
        for label in cidata config-2 CIDATA CONFIG-2; do
            findfs LABEL=$label 2>/dev/null && return
        done
        tries=$((tries + 1))
        sleep 0.1
    done
    return 1
}

# _seed_copy DIRECTORY META VENDOR USER
_seed_copy() {
    _flatten < "$1$2" >> $FLAT
    [ -f "$1network_data.json" ] && _flatten < "$1network_data.json" > $NETWORK
    if [ -f "$1$3" ]; then
        _flatten < "$1$3" > $SEED/vendor
        # In OpenStack the vendor's cloud-config is a string, alone or under "cloud-init".
        printf '%b\n' "$(sed -n 's/^\(cloud-init\)\{0,1\}=//p' $SEED/vendor)" | _flatten >> $FLAT
        cat $SEED/vendor >> $FLAT
    fi
    [ -f "$1$4" ] || return 0
    case $(head -c 13 "$1$4") in
        '#!'*) cp "$1$4" /var/lib/micro/user-data && chmod 700 /var/lib/micro/user-data ;;
        '#cloud-config') _flatten < "$1$4" >> $FLAT ;;
    esac
}

_flatten() {
    awk -f /usr/lib/micro/flatten.awk
}
