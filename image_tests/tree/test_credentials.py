"""No program in the image can log in somewhere: everybody who may boot the image could do the same.

Names of files that are there on purpose go, as patterns between blanks, into SECRETS_ALLOWED in
``environment_variables`` of the image or the environment.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

from .findings import Sign, content, find, find_in_homes, plain_files

if TYPE_CHECKING:
    from pytest_dibctl import ImageTree

pytestmark = pytest.mark.usefixtures("image_tree")

VALUE = rb"[ \t]*[=:][ \t]*(?!['\"]?[ \t]*(?:[$#<]|$))['\"]?[^\s'\"]"
"""A setting's sign of equality and a value that is neither empty nor a variable."""

LOGIN = "logs in with the account of the image's builder; remove it in a finalise.d script"

DOCKER = rb'"(?:auth|identitytoken|registrytoken|password)"[ \t]*:[ \t]*"[^"]'

KUBERNETES = rb"^[ \t-]*(?:client-key-data|token|password|id-token|refresh-token)" + VALUE

OF_USERS = (
    Sign(
        names=(
            *(
                "/.netrc",
                "/.pgpass",
                "/.git-credentials",
                "/.vault-token",
                "/.mylogin.cnf",
                "/.smbcredentials",
            ),
            *("/.config/gcloud/credentials.db", "/.config/gcloud/access_tokens.db"),
            *("/gcloud/application_default_credentials.json", "/.azure/accessTokens.json"),
            *("/.azure/msal_token_cache.json", "/.azure/msal_token_cache.bin"),
            *("/.azure/service_principal_entries.json", "/.azure/service_principal_entries.bin"),
            *("/.terraform.d/credentials.tfrc.json", "/.gem/credentials", "/.passwd-s3fs"),
            *("/.config/pypoetry/auth.toml", "/.composer/auth.json", "/.config/composer/auth.json"),
            *("/.cache/huggingface/token", "/.kaggle/kaggle.json", "/.vault_pass", "/.vault_pass.txt"),
        ),
        what=LOGIN,
    ),
    Sign(
        names=("/.my.cnf", "/.pypirc", "/.fetchmailrc"),
        pattern=rb"(?i)^[^#\n]*\bpass(?:word)?\b[ \t=:]+\S",
        what=LOGIN,
    ),
    Sign(
        names=("/.aws/credentials", "/.aws/config"),
        pattern=rb"(?i)^[ \t]*aws_(?:secret_access_key|session_token)" + VALUE,
        what=LOGIN,
    ),
    Sign(
        names=("/.docker/config.json", "/.dockercfg", "/containers/auth.json", "/helm/registry/config.json"),
        pattern=DOCKER,
        what=LOGIN,
    ),
    Sign(names=("/.kube/config",), pattern=KUBERNETES, what=LOGIN),
    Sign(
        names=("openstack/clouds.yaml", "openstack/secure.yaml", "/clouds.yaml"),
        pattern=rb"^[^#\n]*\b(?:password|application_credential_secret|token|client_secret)['\"]?" + VALUE,
        what=LOGIN,
    ),
    Sign(
        names=("/openrc", "openrc.sh"),
        pattern=rb"\bOS_(?:PASSWORD|TOKEN|APPLICATION_CREDENTIAL_SECRET)" + VALUE,
        what=LOGIN,
    ),
    Sign(
        names=("/.config/gh/hosts.yml", "/.config/glab-cli/config.yml", "/.config/hub"),
        pattern=rb"^[ \t-]*(?:oauth_)?token" + VALUE,
        what=LOGIN,
    ),
    Sign(
        names=("/.npmrc", "/.yarnrc.yml"),
        pattern=rb"(?i)^[^#;\n]*(?:_authToken|npmAuthToken|npmAuthIdent|_auth|_password)['\"]?" + VALUE,
        what=LOGIN,
    ),
    Sign(
        names=(
            "/.cargo/credentials",
            "/.cargo/credentials.toml",
            "/.terraformrc",
            "/hcloud/cli.toml",
            "/doctl/config.yaml",
        ),
        pattern=rb"^[ \t]*(?:access-)?token" + VALUE,
        what=LOGIN,
    ),
    Sign(
        names=("/rclone.conf", "/.s3cfg", "/.boto", "/etc/boto.cfg"),
        pattern=rb"^[ \t]*(?:pass|password2?|token|client_secret|secret_key|\w*secret_access_key"
        rb"|gs_oauth2_refresh_token)" + VALUE,
        what=LOGIN,
    ),
    Sign(
        names=("/.m2/settings.xml", "/NuGet.Config"),
        pattern=rb"(?i)<password>[^<$\s]|ClearTextPassword\"[ \t]+value=\"[^\"%]",
        what=LOGIN,
    ),
)
"""What programs keep in home directories when somebody logs in, by the ends of names."""

TOKEN = re.compile(
    rb"\b(?:gh[opsru]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60}|glpat-[\w-]{20}|npm_[A-Za-z0-9]{36}\b"
    rb"|xox[abpr]-\d+-[\w-]{20}|pypi-AgEIcHlwaS5vcmc[\w-]{50}|hvs\.[\w-]{24}|dckr_pat_[\w-]{20}"
    rb"|AGE-SECRET-KEY-1[0-9A-Z]{58})"
    rb"|(?i:aws_?secret_?access_?key)['\"]?[ \t]*[=:][ \t]*['\"]?(?![\w/+]{0,33}EXAMPLE)[A-Za-z0-9/+]{40}\b"
)
"""Tokens told by their form: of GitHub, GitLab, npm, Slack, PyPI, Vault, Docker, age and AWS."""

URL_WITH_PASSWORD = rb"(?i:\b[a-z][a-z0-9+.-]{0,20}://[^/\s:@]{1,256}:(?!(?:pass|passwd|password|\*+|x+)@)(?![$<{])[^/\s:@]+@)"

SECRET_SETTING = (
    rb"(?i:^[^#;\n]*(?<![^\W_])(?:password|passwd|secret|token|api_?key)[ \t]*[=:][ \t]*['\"]?[^\s'\"]{6,})"
)
"""A line of an apt, pip or proxy configuration that holds a password, by that name or as proxy_password."""

IN_SOURCE = "an address or a setting with a password; take it from the build machine, and leave it out here"

SOURCES = (
    Sign(
        names=("/etc/apt/auth.conf", "/etc/apt/auth.conf.d/*"),
        pattern=rb"^[^#\n]*(?<!\S)password[ \t]+\S",
        what=IN_SOURCE,
    ),
    Sign(
        names=("/root/.curlrc",),
        pattern=rb"^[ \t]*(-u|-U|(--)?(proxy-)?user(?![-\w]))[ \t:=]*['\"]?[^\s:'\"]+:[^\s'\"]",
        what=IN_SOURCE,
    ),
    Sign(
        names=(
            *(
                "/etc/apt/sources.list",
                "/etc/apt/sources.list.d/*",
                "/etc/apt/auth.conf",
                "/etc/apt/auth.conf.d/*",
            ),
            *("/etc/apt/apt.conf", "/etc/apt/apt.conf.d/*", "/etc/yum.repos.d/*", "/etc/dnf/dnf.conf"),
            *("/etc/yum.conf", "/etc/zypp/repos.d/*", "/etc/zypp/services.d/*", "/etc/zypp/credentials.d/*"),
            *("/etc/apk/repositories", "/etc/pip.conf", "/root/.config/pip/pip.conf", "/root/.pip/pip.conf"),
            *("/etc/environment", "/etc/wgetrc", "/root/.curlrc", "/root/.gitconfig", "/etc/gitconfig"),
            *("/etc/dib-manifests/dib_environment", "/etc/dib-manifests/dib_arguments"),
        ),
        pattern=URL_WITH_PASSWORD + b"|" + SECRET_SETTING,
        what=IN_SOURCE,
    ),
    Sign(
        names=(
            *(
                "/etc/profile.d/*",
                "/etc/sysconfig/proxy",
                "/etc/systemd/system.conf.d/*",
                "/etc/docker/daemon.json",
            ),
            *("/etc/systemd/system/*.d/*.conf", "/etc/containers/registries.conf.d/*", "/etc/rhsm/rhsm.conf"),
            *("/home/*/.config/pip/pip.conf", "/home/*/.gitconfig", "/home/*/.curlrc", "/etc/crontab"),
        ),
        pattern=URL_WITH_PASSWORD,
        what=IN_SOURCE,
    ),
)
"""Files that build scripts write addresses into, of mirrors, proxies and package indexes."""

WIREGUARD = rb"[A-Za-z0-9+/]{43}="

NETWORK = "opens the network that the image was made in; remove it, and configure it on the first boot"

NETWORKS = (
    Sign(
        names=("/etc/NetworkManager/system-connections/*",),
        pattern=rb"^(?:psk|password|secret|pin|wep-key\d|leap-password|client-key-password|private-key-password"
        rb"|cert-pass|(?:Xauth|IPSec) (?:password|secret))=\S|^(?:private-key|preshared-key)=" + WIREGUARD,
        what=NETWORK,
    ),
    Sign(
        names=("/etc/netplan/*.yaml",),
        pattern=rb"^[^#\n]*\b(?:password|client-key-password|psk)['\"]?:[ \t]*['\"]?[^\s'\"#{]"
        rb"|^[^#\n]*\b(?:key|private|shared)['\"]?:[ \t]*['\"]?" + WIREGUARD,
        what=NETWORK,
    ),
    Sign(
        names=("/etc/wpa_supplicant.conf", "/etc/wpa_supplicant/*.conf", "/etc/hostapd/*.conf"),
        pattern=rb"^[ \t]*(?:psk|password|sae_password|wep_key\d|private_key_passwd"
        rb"|wpa_passphrase|wpa_psk)[ \t]*=[ \t]*\S",
        what=NETWORK,
    ),
    Sign(
        names=("/var/lib/iwd/*.psk", "/var/lib/iwd/*.8021x"),
        pattern=rb"^(?:Passphrase|PreSharedKey|EAP-\S*Password)=\S",
        what=NETWORK,
    ),
    Sign(
        names=("/etc/network/interfaces", "/etc/network/interfaces.d/*"),
        pattern=rb"^[ \t]*(?:wpa-psk|wpa-password|wireless-key\d?)[ \t]+\S",
        what=NETWORK,
    ),
    Sign(
        names=("/etc/sysconfig/network-scripts/keys-*", "/etc/sysconfig/network/ifcfg-*"),
        pattern=rb"^[ \t]*(?:WPA_PSK|WPA_PASSWORD|KEY\d?|KEY_PASSPHRASE\d|WIRELESS_WPA_PSK)=['\"]?[^\s'\"]",
        what=NETWORK,
    ),
    Sign(
        names=(
            "/etc/wireguard/*.conf",
            "/etc/systemd/network/*.netdev",
            "/etc/systemd/network/*.netdev.d/*.conf",
        ),
        pattern=rb"^[ \t]*(?:PrivateKey|Pre[sS]haredKey)[ \t]*=[ \t]*" + WIREGUARD,
        what=NETWORK,
    ),
    Sign(
        names=("/etc/wireguard/*private*", "/etc/wireguard/*.key", "/etc/wireguard/*psk*"),
        pattern=rb"\A\s*" + WIREGUARD + rb"\s*\Z",
        what=NETWORK,
    ),
    Sign(
        names=("/etc/ppp/chap-secrets", "/etc/ppp/pap-secrets", "/etc/ppp/srp-secrets"),
        pattern=rb"^[ \t]*[^#\s]\S*[ \t]+\S+[ \t]+(?!\"\*?\"|\*?(?:\s|$))\S",
        what=NETWORK,
    ),
    Sign(
        names=("/etc/ipsec.secrets", "/etc/ipsec.d/*.secrets"),
        pattern=rb"^[^#\n]*:[ \t]*(?:PSK|EAP|XAUTH|NTLM)[ \t]+\S",
        what=NETWORK,
    ),
    Sign(
        names=("/etc/swanctl/swanctl.conf", "/etc/swanctl/conf.d/*.conf"),
        pattern=rb"^[ \t]*secret[ \t]*=[ \t]*\S",
        what=NETWORK,
    ),
)

ACCOUNT = "the account of one machine or site; have it written on the first boot"

MADE = "a secret that all instances would share; remove it, and have it made on the first boot"

SERVICES = (
    Sign(
        names=("/etc/krb5.keytab", "/etc/*.keytab", "/etc/*/*.keytab"),
        pattern=rb"\A\x05[\x01\x02]",
        what=ACCOUNT,
    ),
    Sign(
        names=("/etc/sssd/sssd.conf", "/etc/sssd/conf.d/*.conf"),
        pattern=rb"^[ \t]*ldap_default_authtok[ \t]*=[ \t]*\S",
        what=ACCOUNT,
    ),
    Sign(
        names=("/etc/nslcd.conf", "/etc/ldap.conf", "/etc/pam_ldap.conf", "/etc/libnss-ldap.conf"),
        pattern=rb"^[ \t]*(?:bindpw|rootbindpw)[ \t]+\S",
        what=ACCOUNT,
    ),
    Sign(names=("/etc/ldap.secret", "/etc/pam_ldap.secret", "/etc/libnss-ldap.secret"), what=ACCOUNT),
    Sign(
        names=("/etc/postfix/sasl_passwd", "/etc/postfix/sasl/sasl_passwd"),
        pattern=rb"^[^#\s]\S*[ \t]+[^\s:]+:\S",
        what=ACCOUNT,
    ),
    Sign(names=("/etc/postfix/sasl_passwd.*db", "/etc/postfix/sasl/sasl_passwd.*db"), what=ACCOUNT),
    Sign(names=("/etc/exim4/passwd.client",), pattern=rb"^[^#:\s][^:\s]*:[^:\s]+:\S", what=ACCOUNT),
    Sign(names=("/etc/msmtprc", "/root/.msmtprc"), pattern=rb"^[ \t]*password[ \t]+\S", what=ACCOUNT),
    Sign(names=("/etc/ssmtp/ssmtp.conf",), pattern=rb"^[ \t]*AuthPass[ \t]*=[ \t]*\S", what=ACCOUNT),
    Sign(
        names=("/etc/snmp/snmpd.conf", "/etc/snmp/snmpd.conf.d/*"),
        pattern=rb"^[ \t]*(?:(?:r[ow]community6?)[ \t]+(?!public\b|private\b)\S"
        rb"|com2sec6?[ \t]+\S+[ \t]+\S+[ \t]+(?!public\b|private\b)\S|createUser[ \t]+\S+[ \t]+\S+[ \t]+\S)",
        what=ACCOUNT,
    ),
    Sign(
        names=(
            *("/etc/kubernetes/*.conf", "/etc/rancher/k3s/k3s.yaml", "/var/lib/kubelet/kubeconfig"),
            "/var/lib/kubelet/bootstrap-kubeconfig",
        ),
        pattern=KUBERNETES,
        what=ACCOUNT,
    ),
    Sign(names=("/var/lib/kubelet/config.json", "/run/containers/0/auth.json"), pattern=DOCKER, what=ACCOUNT),
    Sign(names=("/etc/ceph/*.keyring",), pattern=rb"^[ \t]*key[ \t]*=[ \t]*\S", what=ACCOUNT),
    Sign(names=("/etc/gitlab-runner/config.toml",), pattern=rb"^[ \t]*token" + VALUE, what=ACCOUNT),
    Sign(names=("/etc/cloudflared/*.json",), pattern=rb'"TunnelSecret"[ \t]*:[ \t]*"[^"]', what=ACCOUNT),
    Sign(
        names=("/etc/landscape/client.conf",),
        pattern=rb"^[ \t]*registration_key[ \t]*=[ \t]*\S",
        what=ACCOUNT,
    ),
    Sign(
        names=("/etc/fstab",),
        pattern=rb"^[^#\n]*[\s,]pass(?:word)?=[^\s,]",
        what="a password of a network drive; keep it in a file that is written on the first boot",
    ),
    Sign(names=("/etc/passwd-s3fs",), what=ACCOUNT),
    Sign(names=("/etc/mysql/debian.cnf",), pattern=rb"^[ \t]*password[ \t]*=[ \t]*\S", what=MADE),
    Sign(names=("/etc/dbconfig-common/*.conf",), pattern=rb"^[ \t]*dbc_dbpass=['\"][^'\"]", what=MADE),
    Sign(names=("/etc/bind/rndc.key", "/etc/rndc.key"), pattern=rb"^[ \t]*secret[ \t]+\"[^\"]", what=MADE),
    Sign(
        names=("/etc/munge/munge.key", "/etc/corosync/authkey", "/var/lib/rabbitmq/.erlang.cookie"), what=MADE
    ),
    Sign(names=("/etc/chrony.keys", "/etc/chrony/chrony.keys"), pattern=rb"^[ \t]*\d+[ \t]+\S", what=MADE),
    Sign(
        names=("/etc/cryptsetup-keys.d/*", "/etc/keys/*.key"),
        what="a key that opens an encrypted disk; " + MADE,
    ),
)


def test_no_credentials(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No home directory holds a login, of a cloud, a registry or a database.

    If this fails, a build script logged in somewhere with its own home directory as the image's: remove the
    file in a finalise.d script.
    """
    refuse("credentials are in the image", find_in_homes(image_tree, OF_USERS), "SECRETS_ALLOWED")


def test_no_tokens(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No file holds a token that is known by its form, whatever the file is.

    If this fails, revoke the token: the image may have been copied. Give it to the build in an environment
    variable, and see that no script writes it down.
    """
    names = [item.name for item in plain_files(image_tree)]
    found = [f"{name}: a token; revoke it" for name in names if TOKEN.search(content(image_tree, name))]
    refuse("tokens are in the image", found, "SECRETS_ALLOWED")


def test_no_passwords_in_sources(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No address of a mirror, proxy or package index carries a password, nor does what DIB wrote down.

    If this fails, give the build its password in another way than by an address (a proxy on the build
    machine, apt's auth.conf.d removed in finalise.d), and keep it out of DIB_* variables.
    """
    refuse("passwords are in the image", find(image_tree, SOURCES), "SECRETS_ALLOWED")


def test_no_passwords_of_networks(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No password or key of a wireless network, a VPN or a dial-up is there.

    If this fails, the image was made on a machine that used this network. Hand keys over on the first boot.
    """
    refuse("passwords of networks are in the image", find(image_tree, NETWORKS), "SECRETS_ALLOWED")


def test_no_passwords_of_services(image_tree: ImageTree, refuse: Callable[..., None]) -> None:
    """No service has a password already, neither for another service nor one that it made for itself.

    If this fails, hand the password over on the first boot. What Debian's packages make while they are
    installed (mysql, bind9, munge, rabbitmq-server) has to be removed in finalise.d, and made anew.
    """
    refuse("passwords of services are in the image", find(image_tree, SERVICES), "SECRETS_ALLOWED")
