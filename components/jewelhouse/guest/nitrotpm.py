"""Releases on an instance with a NitroTPM: evidence by AWS's own program, KMS over the network."""

from __future__ import annotations

import os
import secrets
import subprocess
import tempfile
from pathlib import Path

from jewelhouse.evidence.nitro_document import LIMIT
from jewelhouse.evidence.verdict import Kind
from jewelhouse.guest import kms
from jewelhouse.guest.opening import Asked, Closed, Opened, Opener
from jewelhouse.guest.settings import Endpoints, Stage

# Package aws-nitro-tpm-tools: docs.aws.amazon.com/AWSEC2/latest/UserGuide/attestation-get-doc.html.
PROGRAM = "/usr/bin/nitro-tpm-attest"
TIMEOUT = 60


def opener(stage: Stage, endpoints: Endpoints) -> Opener:
    """Opens keys by attestation documents of this instance. Raises Closed without a region."""
    program = endpoints.tpm or PROGRAM
    client = kms.client(stage, endpoints)
    # For stores: fsspec's S3 takes the region from here.
    os.environ.setdefault("AWS_DEFAULT_REGION", kms.region_of(stage))

    def opened(asked: Asked) -> Opened:
        return kms.release(
            client,
            asked,
            lambda public, nonce: attestation(program, public_key=public, nonce=nonce, user_data=asked.bound),
            Kind.NITRO_TPM,
            secrets.token_bytes(kms.NONCE),
        )

    return opened


def attestation(program: str, *, public_key: bytes, nonce: bytes, user_data: bytes) -> bytes:
    """A fresh attestation document. Raises Closed when the program is not there or fails."""
    with tempfile.TemporaryDirectory(prefix="jewelhouse-") as directory:
        # aws/NitroTPM-Tools: nitro-tpm-attest/README.md: each is the name of a file.
        command = [program]
        for option, content in (("public-key", public_key), ("nonce", nonce), ("user-data", user_data)):
            if content:
                path = Path(directory, option)
                path.write_bytes(content)
                command += [f"--{option}", str(path)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=TIMEOUT, check=False)
        except FileNotFoundError as error:
            raise Closed(
                "is not in the image", where=program, remedy="put AWS's NitroTPM tools into the recipe"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise Closed(f"gives no document within {TIMEOUT} s", where=program) from error
        except OSError as error:
            raise Closed(f"cannot be started: {error.strerror}", where=program) from error
    if done.returncode or not 0 < len(done.stdout) <= LIMIT:
        said = done.stderr.decode("utf-8", "replace").strip()[-300:]
        words = "".join(letter if letter.isprintable() else " " for letter in said)
        raise Closed(
            f"ended with {done.returncode} and {len(done.stdout)} bytes: {words}",
            where=program,
            remedy="the instance needs an AMI with TPM support v2.0, and the guest /dev/tpmrm0",
        )
    return done.stdout
