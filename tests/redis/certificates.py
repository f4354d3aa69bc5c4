"""Certificates for tests of TLS, made by the `openssl` command in a directory of the test run.

One authority signs four: a server's for 127.0.0.1 and localhost, one that has expired, a client's,
and one for a host of another name. A second authority, which nobody trusts, signs a client's too.
All keys are elliptic: making them takes milliseconds.
"""

from __future__ import annotations

import shutil
import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

PASSPHRASE = "open sesame"
"""What opens the encrypted copy of the client's key."""

_CONFIG = """
[req]
distinguished_name = name
prompt = no
[name]
CN = {name}
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
subjectAltName = {also}
[ca]
default_ca = issuing
[issuing]
database = index.txt
serial = serial.txt
new_certs_dir = .
default_md = sha256
policy = any_name
x509_extensions = leaf
unique_subject = no
[any_name]
commonName = supplied
"""


class OpensslFailed(Exception):
    """The openssl command is missing or refused to do something."""


@dataclass(frozen=True)
class Pair:
    """A certificate and its private key, both PEM files."""

    certificate: Path
    key: Path


class Certificates:
    """The files, by what they are for."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory.resolve()
        self._serial = 0
        authority = self._authority("ca")
        stranger = self._authority("stranger-ca")
        self.ca = authority.certificate
        """The authority to trust."""
        self.stranger_ca = stranger.certificate
        """An authority that signed nothing the server has."""
        self.server = self._signed("server", authority, "IP:127.0.0.1, IP:::1, DNS:localhost")
        self.client = self._signed("client", authority, "DNS:client.test")
        self.elsewhere = self._signed("elsewhere", authority, "DNS:elsewhere.test")
        """A server's, for a name that is not its own."""
        self.expired = self._expired("expired", authority, "IP:127.0.0.1, DNS:localhost")
        """A server's that was good for a day of the year 2020."""
        self.stranger = self._signed("stranger", stranger, "DNS:client.test")
        """A client's that the server does not accept."""
        self.encrypted_key = self._encrypted(self.client.key)
        """The client's key, encrypted with PASSPHRASE."""

    def client_context(self, pair: Pair | None = None) -> ssl.SSLContext:
        """What a client that may come in uses; `pair` instead of its own certificate."""
        pair = pair or self.client
        context = ssl.create_default_context(cafile=str(self.ca))
        context.load_cert_chain(pair.certificate, pair.key)
        return context

    def _authority(self, name: str) -> Pair:
        pair, config = self._prepare(name, "DNS:authority.test")
        self._openssl(
            *("req", "-new", "-x509", "-sha256", "-days", "30", "-config", str(config)),
            *("-extensions", "authority", "-key", str(pair.key), "-out", str(pair.certificate)),
        )
        return pair

    def _signed(self, name: str, authority: Pair, also: str) -> Pair:
        pair, config, request = self._requested(name, also)
        self._serial += 1
        self._openssl(
            *("x509", "-req", "-sha256", "-days", "30", "-set_serial", str(self._serial)),
            *("-CA", str(authority.certificate), "-CAkey", str(authority.key)),
            *("-extfile", str(config), "-extensions", "leaf"),
            *("-in", str(request), "-out", str(pair.certificate)),
        )
        return pair

    def _expired(self, name: str, authority: Pair, also: str) -> Pair:
        """Of `openssl ca`: only that command takes both dates in every release, and `-days -1`,
        which `x509` once took, is refused since OpenSSL 3.4.
        """
        pair, config, request = self._requested(name, also)
        (self.directory / "index.txt").touch()
        (self.directory / "serial.txt").write_text("1000\n")
        self._openssl(
            *("ca", "-batch", "-notext", "-config", str(config)),
            *("-startdate", "20200101000000Z", "-enddate", "20200102000000Z"),
            *("-cert", str(authority.certificate), "-keyfile", str(authority.key)),
            *("-in", str(request), "-out", str(pair.certificate)),
        )
        return pair

    def _requested(self, name: str, also: str) -> tuple[Pair, Path, Path]:
        """A new key, the configuration of its certificate, and the request for one."""
        pair, config = self._prepare(name, also)
        request = self.directory / f"{name}.csr"
        self._openssl(
            *("req", "-new", "-config", str(config)),
            *("-key", str(pair.key), "-out", str(request)),
        )
        return pair, config, request

    def _prepare(self, name: str, also: str) -> tuple[Pair, Path]:
        """A new key, and the configuration of its certificate."""
        pair = Pair(self.directory / f"{name}.crt", self.directory / f"{name}.key")
        config = self.directory / f"{name}.cnf"
        config.write_text(_CONFIG.format(name=f"headway test {name}", also=also))
        self._openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(pair.key))
        return pair, config

    def _encrypted(self, key: Path) -> Path:
        out = key.with_suffix(".encrypted.key")
        options = ("-aes256", "-passout", f"pass:{PASSPHRASE}")
        self._openssl("ec", "-in", str(key), "-out", str(out), *options)
        return out

    def _openssl(self, *args: str) -> None:
        program = shutil.which("openssl")
        if program is None:
            raise OpensslFailed("the openssl command is not installed")
        done = subprocess.run(
            [program, *args],
            cwd=self.directory,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode != 0:
            raise OpensslFailed(f"openssl {' '.join(args)}: {done.stderr.strip()}")
