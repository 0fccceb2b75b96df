"""Certificates of an authority made for a test, as cert-manager would put them into a Secret."""

from __future__ import annotations

from pathlib import Path

import kube

KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout"]
# Python 3.13 takes no certificate that does not say what it is for.
AUTHORITY = ["-addext", "keyUsage=critical,keyCertSign,cRLSign"]
BOTH_SIDES = """
basicConstraints = critical, CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = clientAuth, serverAuth
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


def make(folder: Path) -> dict[str, str]:
    """``ca.crt``, ``tls.crt`` and ``tls.key`` of a new authority, good for a day."""

    def at(name: str) -> str:
        return str(folder / name)

    (folder / "extensions").write_text(BOTH_SIDES)
    kube.call(
        "openssl", "req", "-x509", *KEY, at("ca.key"), "-out", at("ca.crt"), "-days", "1",
        "-subj", "/CN=runs", *AUTHORITY,
    )  # fmt: skip
    kube.call(
        "openssl", "req", *KEY, at("tls.key"), "-out", at("tls.csr"), "-subj", "/CN=dask"
    )  # fmt: skip
    kube.call(
        "openssl", "x509", "-req", "-in", at("tls.csr"), "-out", at("tls.crt"), "-days", "1",
        "-CA", at("ca.crt"), "-CAkey", at("ca.key"), "-CAcreateserial",
        "-extfile", at("extensions"),
    )  # fmt: skip
    return {name: (folder / name).read_text() for name in ("ca.crt", "tls.crt", "tls.key")}
