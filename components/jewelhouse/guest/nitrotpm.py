"""NitroTPM hosts: documents from the TPM by AWS's own program; KMS as for enclaves.

docs.aws.amazon.com/AWSEC2/latest/UserGuide/attestation-get-doc.html; aws/NitroTPM-Tools: nitro-tpm-attest.
"""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from jewelhouse.guest import kms
from jewelhouse.guest.opening import Closed, Opener
from jewelhouse.guest.settings import Endpoints, Stage

PROGRAM = "nitro-tpm-attest"
TIMEOUT = 60
LIMIT = 64 * 1024


def opener(stage: Stage, endpoints: Endpoints) -> Opener:
    """Opens by KMS for this instance's boot measurements."""

    def attest(public_key: bytes, nonce: bytes, bound: bytes) -> bytes:
        return document(endpoints.tpm or PROGRAM, public_key=public_key, nonce=nonce, user_data=bound)

    return kms.opener(kms.client(stage, endpoints), attest, "aws-nitrotpm")


def document(program: str, *, public_key: bytes, nonce: bytes, user_data: bytes) -> bytes:
    """An attestation document over these fields. Raises Closed when the program is missing or fails."""
    with tempfile.TemporaryDirectory() as directory:
        command = [program]
        for option, value in (("public-key", public_key), ("nonce", nonce), ("user-data", user_data)):
            file = Path(directory) / option
            file.write_bytes(value)
            command += [f"--{option}", str(file)]
        try:
            done = subprocess.run(command, capture_output=True, timeout=TIMEOUT)
        except FileNotFoundError as error:
            raise Closed(
                "is not in this image", where=program, remedy="put AWS's NitroTPM tools into the recipe"
            ) from error
        except subprocess.TimeoutExpired as error:
            raise Closed(f"says nothing for {TIMEOUT} seconds", where=program) from error
    if done.returncode or not done.stdout or len(done.stdout) > LIMIT:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise Closed(
            f"gives no document: {ascii(said[-1][:200]) if said else done.returncode}", where=program
        )
    return done.stdout
