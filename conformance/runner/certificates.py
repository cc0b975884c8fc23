"""Certificates for the brokers that are started here, and for their clients; made by openssl, in a broker's folder."""

import shutil
import subprocess

from .faults import Failed, Missing

DAYS = "2"
# Where the broker is, and who the client is: a user that both brokers begin with.
SERVER = ["/CN=conformance server", "subjectAltName=DNS:localhost\nextendedKeyUsage=serverAuth\n"]
CLIENT = ["/CN=guest", "extendedKeyUsage=clientAuth\n"]
# One that was over before it began.
OVER = "-1"
PASSWORD = "conformance"


def make(folder):
    """ca.pem, other.pem (an authority that signed nothing); server, client and expired (a client whose time is over), each
    with its key; client.p12 and expired.p12 as well."""
    folder.mkdir()
    for name in ["ca", "other"]:
        _openssl(folder, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", DAYS, "-subj", f"/CN=conformance {name}",
                 "-keyout", f"{name}.key", "-out", f"{name}.pem")
    pairs = {"server": (SERVER, DAYS), "client": (CLIENT, DAYS), "expired": (CLIENT, OVER)}
    for name, ((subject, extensions), days) in pairs.items():
        (folder / f"{name}.ext").write_text(extensions)
        _openssl(folder, "req", "-newkey", "rsa:2048", "-nodes", "-subj", subject,
                 "-keyout", f"{name}.key", "-out", f"{name}.csr")
        _openssl(folder, "x509", "-req", "-days", days, "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key",
                 "-CAcreateserial", "-extfile", f"{name}.ext", "-out", f"{name}.pem")
        (folder / f"{name}.key").chmod(0o600)
    for name in ["client", "expired"]:
        _openssl(folder, "pkcs12", "-export", "-in", f"{name}.pem", "-inkey", f"{name}.key", "-out", f"{name}.p12",
                 "-passout", f"pass:{PASSWORD}")


def _openssl(folder, *words):
    openssl = shutil.which("openssl")
    if not openssl:
        raise Missing("certificates: openssl is not on this machine")
    done = subprocess.run([openssl, *words], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(f"openssl {words[0]}: {done.stderr.strip()}")
