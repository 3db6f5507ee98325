"""AWS on loopback for a guest: keys with compiled policies, a role's credentials, a security module."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding, rsa

from jewelhouse.evidence.verdict import Kind
from jewelhouse.guest.opening import Asked, Closed, Opener, opener
from jewelhouse.guest.settings import Endpoints, Opens, Stage
from jewelhouse.model import AttestedKey, AwsAccount, Measurements, Platform, Tee
from jewelhouse.rehearsal import http, tpm
from jewelhouse.rehearsal.ec2 import Metadata
from jewelhouse.rehearsal.kms import Kms
from jewelhouse.rehearsal.minting_nitro import Authority, registers
from jewelhouse.rehearsal.nsm import Nsm
from jewelhouse.rehearsal.sigv4 import Credentials
from jewelhouse.release import aws
from jewelhouse.release.policy import Gate, ReleasePolicy

REGION = "eu-central-1"
OWNER, OPERATOR = "111122223333", "444455556666"
KEY = f"arn:aws:kms:{REGION}:{OWNER}:key/1234abcd-12ab-34cd-56ef-1234567890ab"
OTHER_KEY = f"arn:aws:kms:{REGION}:{OWNER}:key/9999abcd-12ab-34cd-56ef-1234567890ab"
ROLE = f"arn:aws:iam::{OPERATOR}:role/flow-finetune"
DEK = bytes(range(32))
PLATFORMS = {Platform.AWS_ENCLAVE: Kind.NITRO_ENCLAVE, Platform.AWS_NITROTPM: Kind.NITRO_TPM}
PINNED = {Platform.AWS_ENCLAVE: (0, 1, 2), Platform.AWS_NITROTPM: (4, 12)}
_OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


@cache
def rsa_key(number: int) -> rsa.RSAPrivateKey:
    """Different keys by number; made once, for they take their time."""
    return rsa.generate_private_key(public_exponent=65537, key_size=4096)


def credentials(role: str = "flow-finetune", account: str = OPERATOR, **changes: Any) -> Credentials:
    """What the metadata service gives an instance with a role."""
    made = Credentials(
        key_id=f"ASIA{role.replace('-', '').upper()[-12:]:X<12}{account[-4:]}",
        secret=f"secret of {role} {account}",
        token=f"token of {role} {account}",
        principal=f"arn:aws:sts::{account}:assumed-role/{role}/i-0123456789abcdef0",
    )
    return replace(made, **changes)


def policy(platform: Platform) -> dict[str, Any]:
    """The key policy that the kit compiles for one stage on a platform."""
    kind = PLATFORMS[platform]
    image = {f"PCR{index}": registers(kind)[index].hex() for index in PINNED[platform]}
    gate = Gate(
        stage="finetune",
        platform=platform,
        tee=Tee.NITRO,
        account=AwsAccount(account=OPERATOR, deployer=f"arn:aws:iam::{OPERATOR}:role/deployer"),
        measurements=(Measurements(values=image),),
        identity=ROLE,
    )
    return aws.compile(
        ReleasePolicy(
            key=AttestedKey("base", platform, REGION),
            owner=AwsAccount(account=OWNER, deployer=f"arn:aws:iam::{OWNER}:role/deployer"),
            gates=(gate,),
        )
    )


def wrapped(dek: bytes = DEK, number: int = 0) -> bytes:
    return rsa_key(number).public_key().encrypt(dek, _OAEP)


def asked(**changes: Any) -> Asked:
    return Asked(**{"artifact": "base", "key": KEY, "wrapped": wrapped(), "bound": b"b" * 32, **changes})


def stage(platform: Platform = Platform.AWS_ENCLAVE, **changes: Any) -> Stage:
    given = {"opens": {"base": Opens(key=KEY, store="s3://base-bucket")}, "seals": {}, "region": REGION}
    return Stage(lifecycle="flow", stage="finetune", platform=platform, **{**given, **changes})


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """boto's pauses before it tries again, left out."""
    monkeypatch.setattr("botocore.retries.standard.ExponentialBackoff.delay_amount", lambda *_: 0)


def closed(attempt: Callable[[], object]) -> str:
    """What a door says that stays closed, after a look that it gives no secret away."""
    with pytest.raises(Closed) as caught:
        attempt()
    text = f"{caught.value} {caught.value!r}"
    for secret in (DEK.hex(), base64.b64encode(DEK).decode(), repr(DEK)[2:-1], "secret of", "token of"):
        assert secret not in text
    return str(caught.value)


@dataclass(kw_only=True)
class Place:
    """What runs: the services, and what a guest there is told about them."""

    kms: Kms
    nsm: Nsm
    authority: Authority
    endpoints: Endpoints
    platform: Platform

    def opener(self, **endpoints: Any) -> Opener:
        return opener(stage(self.platform), replace(self.endpoints, **endpoints))


@cache
def authority(name: str = "throw-away root") -> Authority:
    return Authority.new(datetime.now(UTC), name)


@contextmanager
def place(
    platform: Platform = Platform.AWS_ENCLAVE,
    *,
    role: Credentials | None = None,
    signed_by: Authority | None = None,
    believed: Authority | None = None,
    secure: http.Identity | None = None,
    trusted: http.Authority | None = None,
    meddle: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    policies: Mapping[str, Any] | None = None,
    callers: tuple[Credentials, ...] = (),
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    **module: Any,
) -> Iterator[Place]:
    """A machine and the services that it reaches. `role`: whose credentials the machine has; `signed_by` and
    `believed`: who signs its evidence, whom KMS believes; `module`: what else differs about its module."""
    own = role or credentials()
    with ExitStack() as stack:
        # A guest sets some of it for the clients in its process.
        stack.enter_context(mock.patch.dict(os.environ))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jh-")))
        service = stack.enter_context(
            Kms(
                {KEY: rsa_key(0), OTHER_KEY: rsa_key(1)},
                policies or dict.fromkeys((KEY, OTHER_KEY), policy(platform)),
                roots=(believed or authority()).roots,
                callers=(own, *callers),
                region=REGION,
                identity=secure,
                clock=clock,
                meddle=meddle,
            )
        )
        metadata = stack.enter_context(Metadata(own))
        device = stack.enter_context(
            Nsm(signed_by or authority(), directory / "nsm", kind=PLATFORMS[platform], **module)
        )
        certificates = None
        if trusted is not None:
            certificates = directory / "authority.pem"
            certificates.write_bytes(trusted.pem)
        yield Place(
            kms=service,
            nsm=device,
            authority=authority(),
            platform=platform,
            endpoints=Endpoints(
                kms=service.url,
                imds=metadata.url,
                nsm=str(device.path),
                tpm=str(tpm.program(directory, device.path)),
                certificates=str(certificates) if certificates else None,
            ),
        )
