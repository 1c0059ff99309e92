"""Credentials of the embedded stack: created once per installation, readable by their owner only."""

import datetime
import json
import os
import secrets
from pathlib import Path

from vitseg.errors import AccessError
from vitseg.storage.atomic import part_of

_FILE = "credentials.json"


def exist(folder: Path) -> bool:
    """Return whether credentials are stored in the stack's folder."""
    return (folder / _FILE).exists()


def read(folder: Path) -> dict[str, str]:
    """Return the credentials stored in the stack's folder.

    Raises:
        AccessError: there are none, or the file can't be read.
    """
    try:
        return json.loads((folder / _FILE).read_text())
    except (OSError, ValueError) as error:
        raise AccessError(
            f"{folder / _FILE} can't be read ({error}): run `vitseg stack down`, remove it, run `vitseg stack up`"
        ) from error


def read_or_make(folder: Path) -> dict[str, str]:
    """Return the stored credentials, or create new ones, with 256 random bits per secret."""
    if not exist(folder):
        made = {
            "s3_access_key": "vitseg" + secrets.token_hex(8),
            "s3_secret_key": secrets.token_urlsafe(32),
            "mlflow_username": "vitseg",
            "mlflow_password": secrets.token_urlsafe(32),
            "mlflow_session_key": secrets.token_urlsafe(32),
            "prefect_auth": f"vitseg:{secrets.token_urlsafe(32)}",
        }
        # MLflow keeps the hash of the first password it is given: with a new one its users start afresh.
        (folder / "mlflow" / "basic_auth.db").unlink(missing_ok=True)
        write_private(folder / _FILE, json.dumps(made, indent=1).encode())
    return read(folder)


def write_private(path: Path, data: bytes) -> None:
    """Write a file atomically that only its owner may read."""
    with part_of(path) as part:
        with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(data)
        part.replace(path)


def write_certificate(certificate: Path, key: Path) -> None:
    """Write a key and a certificate that is its own authority: a process that holds both is one of our servers."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "vitseg stack")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now - datetime.timedelta(days=1))  # clocks differ
    builder = builder.not_valid_after(now + datetime.timedelta(days=36_500))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pem, form = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    write_private(key, private.private_bytes(pem, form, serialization.NoEncryption()))
    write_private(certificate, builder.sign(private, hashes.SHA256()).public_bytes(pem))
