# Functions that configure the network interfaces.
# shellcheck shell=sh

# As network_data.json says, or by DHCP where it says nothing.
network_up() {
    ip link set lo up
    : > /etc/resolv.conf
    if [ -s "$NETWORK" ]; then
        _network_described
    else
        for interface in /sys/class/net/e*; do
            _network_dhcp "${interface##*/}"
        done
    fi
}

_network_dhcp() {
    udhcpc -i "$1" -n -q -f -t 5 -T 1 -s /usr/share/udhcpc/default.script > /dev/null 2>&1 ||
        echo "micro: no answer to DHCP on $1"
}

_network_described() {
    number=0
    while kind=$(network_get "networks\\.$number\\.type"); do
        interface=$(_network_interface "$(network_get "networks\\.$number\\.link")") || echo "micro: network $number: no such interface"
        case $kind in
            ipv4_dhcp) _network_dhcp "$interface" ;;
            ipv4 | ipv6) _network_static "$interface" "networks\\.$number" ;;
        esac
        number=$((number + 1))
    done
    sed -n 's/^.*services\.[0-9]*\.address=/nameserver /p' "$NETWORK" | sort -u >> /etc/resolv.conf
}

# _network_interface LINK: print the interface whose MAC a link of network_data.json has, and bring it up.
_network_interface() {
    link=$(sed -n "s/^links\\.\\([0-9]*\\)\\.id=$1\$/\\1/p" "$NETWORK")
    mac=$(network_get "links\\.$link\\.ethernet_mac_address" | tr A-F a-f)
    address=$(grep -lx "$mac" /sys/class/net/*/address) || return
    address=${address%/address}
    ip link set "${address##*/}" up
    mtu=$(network_get "links\\.$link\\.mtu") && ip link set "${address##*/}" mtu "$mtu"
    echo "${address##*/}"
}

# _prefix NETMASK: print what stands after an address's slash; of IPv6, ip knows only the number of bits.
_prefix() {
    case $1 in
        *:*) echo $(($(echo "$1" | sed 's/[0:]//g; s/f/4+/g; s/e/3+/g; s/c/2+/g; s/8/1+/g; s/$/0/'))) ;;
        *) echo "$1" ;;
    esac
}

_network_static() {
    mask=$(_prefix "$(network_get "$2\\.netmask")")
    ip addr add "$(network_get "$2\\.ip_address")${mask:+/$mask}" dev "$1"
    gateway=$(network_get "$2\\.gateway") && ip route add default via "$gateway" dev "$1"
    route=0
    while target=$(network_get "$2\\.routes\\.$route\\.network"); do
        mask=$(network_get "$2\\.routes\\.$route\\.netmask")
        case $target in
            0.0.0.0 | ::) target=default ;;
            *) target=$target/$(_prefix "$mask") ;;
        esac
        ip route add "$target" via "$(network_get "$2\\.routes\\.$route\\.gateway")" dev "$1"
        route=$((route + 1))
    done
}
