"""Certificates for the tests: made once a session by openssl, else those that lie in the folder.

Those are made anew by: python tests/tls/certificates.py
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

FOLDER = Path(__file__).parent / "pem"
OPENSSL = shutil.which("openssl")

# From before any clock of a machine that runs the tests, up to a hundred years.
BEGIN, END = "20200101000000Z", "21200101000000Z"
HERE = "DNS:localhost,IP:127.0.0.1,IP:::1"

CONFIG = """
[ca]
default_ca = it
[it]
new_certs_dir = .
database = index
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = supplied
[req]
distinguished_name = nobody
[nobody]
"""


def make(folder: Path) -> None:
    """NAME.pem and NAME.key: a CA, and what it has signed; and a stranger that signs itself."""
    (folder / "config").write_text(CONFIG)
    (folder / "index").write_text("")
    one(folder, "ca", HERE, "CA:TRUE", sign=("-selfsign", "-keyfile", "ca.key"))
    one(folder, "stranger", HERE, "CA:FALSE", sign=("-selfsign", "-keyfile", "stranger.key"))
    one(folder, "server", HERE)
    one(folder, "other", "DNS:other.test")
    one(folder, "client", "DNS:client.test")
    one(folder, "expired", HERE, end="20210101000000Z")
    for path in folder.iterdir():
        if path.suffix not in (".key", ".pem") or path.stem not in NAMES:
            path.unlink()


NAMES = ("ca", "stranger", "server", "other", "client", "expired")


def one(
    folder: Path,
    name: str,
    alternatives: str,
    kind: str = "CA:FALSE",
    sign: tuple[str, ...] = ("-cert", "ca.pem", "-keyfile", "ca.key"),
    end: str = END,
) -> None:
    """With a key on P-256."""

    def openssl(*arguments: str) -> None:
        command = [OPENSSL or "openssl", *arguments]
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=20)

    (folder / "extensions").write_text(
        f"subjectAltName={alternatives}\nbasicConstraints=critical,{kind}\n"
        f"subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n"
        f"keyUsage=critical,{'keyCertSign' if kind == 'CA:TRUE' else 'digitalSignature'}\n"
    )
    openssl(
        *("req", "-new", "-config", "config", "-subj", f"/CN={name}", "-nodes"),
        *("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
        *("-keyout", f"{name}.key", "-out", "request"),
    )
    openssl(
        *("ca", "-batch", "-notext", "-config", "config", "-extfile", "extensions"),
        *("-startdate", BEGIN, "-enddate", end, "-in", "request", "-out", f"{name}.pem", *sign),
    )


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    make(FOLDER)
