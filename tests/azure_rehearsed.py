"""A guest on Azure and the services around it, for the tests of container groups and confidential VMs."""

from __future__ import annotations

import base64
import os
import tempfile
from collections.abc import Callable, Iterator
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

from jewelhouse.guest import azure_container
from jewelhouse.guest.opening import Asked, Closed, Opener, opener
from jewelhouse.guest.settings import Endpoints, Opens, Stage
from jewelhouse.model import AttestedKey, AzureAccount, Measurements, Platform, Tee
from jewelhouse.rehearsal import http, minting_snp, vtpm
from jewelhouse.rehearsal.azure_imds import Identity, Metadata
from jewelhouse.rehearsal.maa import Maa
from jewelhouse.rehearsal.maa_evidence import Quotes
from jewelhouse.rehearsal.minting_tokens import MAA_ISSUER, MaaAuthority
from jewelhouse.rehearsal.snp_guest import DEBUG_POLICY, POLICY, SnpGuest
from jewelhouse.rehearsal.vault import Vault
from jewelhouse.rehearsal.vtpm import Vtpm
from jewelhouse.release import azure
from jewelhouse.release.policy import Gate, ReleasePolicy

REGION = "westeurope"
TENANT = "10000000-0000-4000-8000-0000000000aa"
HOSTDATA = bytes.fromhex("fe" * 32)
KEY = "https://jh-base.vault.azure.net/keys/base-key-0123456789ab"
OTHER_KEY = "https://jh-base.vault.azure.net/keys/cases-key-0123456789ab"
VERSION = "0123456789abcdef0123456789abcdef"
DEK = bytes(range(32))
CLIENT = "aaaaaaaa-0000-4000-8000-000000000001"
TRAIN = Identity(client=CLIENT, principal="train", token="token-of-train")
_OAEP = padding.OAEP(mgf=padding.MGF1(hashes.SHA256()), algorithm=hashes.SHA256(), label=None)


@cache
def rsa_key(number: int) -> rsa.RSAPrivateKey:
    """Different keys by number; made once, for they take their time."""
    return rsa.generate_private_key(public_exponent=65537, key_size=4096)


@cache
def certificates() -> http.Authority:
    return http.Authority()


@cache
def signer(name: str = "maa", issuer: str = MAA_ISSUER) -> MaaAuthority:
    return MaaAuthority.new(issuer, name=name, root=f"{name} root")


def machine(name: str = "amd", **changes: Any) -> minting_snp.Machine:
    """A processor; `name` is its root's."""
    return minting_snp.Machine(name=name, **changes)


def policy(platform: Platform, **changes: Any) -> dict[str, Any]:
    """The release policy that the kit compiles for one stage on a platform."""
    measured = (Measurements(values={"hostdata": HOSTDATA.hex()}),)
    gate = Gate(
        stage="train",
        platform=platform,
        tee=changes.pop("tee", Tee.SEV_SNP),
        account=AzureAccount(subscription="s-run", tenant=TENANT),
        measurements=measured if platform is Platform.AZURE_CONTAINER else (),
        **changes,
    )
    return azure.compile(
        ReleasePolicy(
            key=AttestedKey("base", platform, REGION),
            owner=AzureAccount(subscription="s-own", tenant=TENANT),
            gates=(gate,),
        )
    )


def wrapped(dek: bytes = DEK, number: int = 0) -> bytes:
    return rsa_key(number).public_key().encrypt(dek, _OAEP)


def asked(**changes: Any) -> Asked:
    return Asked(**{"artifact": "base", "key": KEY, "wrapped": wrapped(), "bound": b"b" * 32, **changes})


def stage(platform: Platform = Platform.AZURE_CONTAINER, **changes: Any) -> Stage:
    given = {
        "opens": {"base": Opens(key=KEY, store="abfs://base@store")},
        "seals": {},
        "region": REGION,
        "client_id": CLIENT,
        "authority": MAA_ISSUER,
    }
    return Stage(lifecycle="flow", stage="train", platform=platform, **{**given, **changes})


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clients' pauses before they try again, left out; what they would have been."""
    pauses: list[float] = []
    monkeypatch.setattr(
        "azure.core.pipeline.transport.RequestsTransport.sleep", lambda _, time: pauses.append(time)
    )
    return pauses


def closed(attempt: Callable[[], object]) -> str:
    """What a door says that stays closed, after a look that it gives no secret away."""
    with pytest.raises(Closed) as caught:
        attempt()
    text = f"{caught.value} {caught.value!r}"
    for secret in (DEK.hex(), base64.b64encode(DEK).decode(), repr(DEK)[2:-1], TRAIN.token):
        assert secret not in text
    return str(caught.value)


@dataclass(kw_only=True)
class Place:
    """What runs: the services, and what a guest there is told about them. `device`: the group's or VM's."""

    maa: Maa
    vault: Vault
    metadata: Metadata
    device: Any
    endpoints: Endpoints
    stage: Stage

    def opener(self, *, stage: dict[str, Any] | None = None, **endpoints: Any) -> Opener:
        return opener(replace(self.stage, **(stage or {})), replace(self.endpoints, **endpoints))


@contextmanager
def place(
    platform: Platform = Platform.AZURE_CONTAINER,
    *,
    hardware: minting_snp.Machine | None = None,
    believed: minting_snp.Machine | None = None,
    signed_by: MaaAuthority | None = None,
    vault_believes: MaaAuthority | None = None,
    debug: bool = False,
    policies: dict[str, Any] | None = None,
    keys: dict[str, rsa.RSAPrivateKey] | None = None,
    releasers: dict[str, set[str]] | None = None,
    identities: tuple[Identity, ...] = (TRAIN,),
    vault_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    maa_clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    change: Callable[[dict[str, Any]], dict[str, Any]] = lambda claims: claims,
    meddle: Callable[[dict[str, Any]], dict[str, Any]] | None = None,
    forge: Callable[[bytes], bytes] | None = None,
    quotes: Quotes | None = None,
    quote: Callable[[bytes], bytes] | None = None,
    trusted: http.Authority | None = None,
    **device: Any,
) -> Iterator[Place]:
    """A machine and the services that it reaches. `hardware` and `believed`: whose root signs the evidence,
    and whose attestation believes; `device`: what else differs about the group or VM."""
    own = hardware or machine()
    held = keys or {KEY: rsa_key(0), OTHER_KEY: rsa_key(1)}
    tls = certificates()
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jh-")))
        if platform is Platform.AZURE_CONTAINER:
            given = {"host_data": HOSTDATA, "debug": debug, **device}
            around: Any = stack.enter_context(SnpGuest(own, folder, **given))
            os.environ[azure_container.CONTEXT] = str(around.context)
            endpoints = {"snp": str(around.path)}
            thim = around.thim
        else:
            if not vtpm.available():
                pytest.skip("swtpm is not installed")
            made = device.pop("report", None) or (
                lambda data: minting_snp.report(
                    own, report_data=data, host_data=b"", policy=DEBUG_POLICY if debug else POLICY
                )
            )
            around = stack.enter_context(Vtpm(folder, made, **device))
            endpoints = {"tpm": str(around.path), "event_log": str(around.event_log)}
            thim = minting_snp.thim(*own.chain)
        metadata = stack.enter_context(Metadata(*identities, thim=thim, quote=quote))
        maa = stack.enter_context(
            Maa(
                signed_by or signer(),
                amd=(believed or machine()).roots,
                authority=tls,
                quotes=quotes,
                clock=maa_clock,
                change=change,
            )
        )
        issuer = vault_believes or signer()
        vault = stack.enter_context(
            Vault(
                held,
                policies or dict.fromkeys(held, policy(platform)),
                releasers=releasers or {key: {TRAIN.principal} for key in held},
                identities=identities,
                issuers=issuer.endorsements,
                roots=issuer.roots,
                authority=tls,
                clock=vault_clock,
                meddle=meddle,
                forge=forge,
            )
        )
        roots = folder / "authority.pem"
        roots.write_bytes((trusted or tls).pem)
        yield Place(
            maa=maa,
            vault=vault,
            metadata=metadata,
            device=around,
            stage=stage(platform),
            endpoints=Endpoints(
                maa=maa.url, vault=vault.url, imds=metadata.url, certificates=str(roots), **endpoints
            ),
        )
