"""A guest on Google Cloud and the services around it, for the tests of Confidential Space and plain VMs."""

from __future__ import annotations

import base64
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from google_cases import DIGEST, POOL, SPACE, VM, Body, compiled, gate

from jewelhouse.guest.opening import Asked, Closed, Opener, opener
from jewelhouse.guest.settings import Endpoints, Opens, Seals, Stage
from jewelhouse.model import Platform, Tee
from jewelhouse.rehearsal import gce_vm, http, vtpm
from jewelhouse.rehearsal.cloud_kms import OAEP, CloudKms, Held
from jewelhouse.rehearsal.gce_metadata import Instance
from jewelhouse.rehearsal.launcher import Claims, Launcher, eat_nonce
from jewelhouse.rehearsal.minting_claims import space_claims
from jewelhouse.rehearsal.minting_tokens import GoogleAuthority
from jewelhouse.rehearsal.services import Wrong
from jewelhouse.rehearsal.sts import Sts

RING = "projects/mp-keys/locations/europe-west4/keyRings/ring/cryptoKeys"
KEY, OTHER_KEY = f"{RING}/base/cryptoKeyVersions/1", f"{RING}/cases/cryptoKeyVersions/1"
POOLS = {KEY: POOL, OTHER_KEY: POOL.replace("jh-base", "jh-cases")}
AUDIENCE = f"//{POOL}/providers/attestation"
ACCOUNT = "flow-serve@mp-run.iam.gserviceaccount.com"
DEK = bytes(range(32))
PERMISSION = "cloudkms.googleapis.com/cryptoKeyVersions.useToDecrypt"
RUN = Instance(project="mp-run", number="724467010559", account=ACCOUNT, access="access-of-serve")


@cache
def rsa_key(number: int) -> rsa.RSAPrivateKey:
    """Different keys by number; made once, for they take their time."""
    return rsa.generate_private_key(public_exponent=65537, key_size=4096)


@cache
def certificates() -> http.Authority:
    return http.Authority()


@cache
def signer(name: str = "google") -> GoogleAuthority:
    return GoogleAuthority.new(name=name)


def deployed(document: Body, key: str = KEY) -> Body:
    """A compiled document with its members as they are deployed, in the key's own pool."""
    bindings = [
        {**one, "members": [f"principalSet://{POOLS[key]}/{member}" for member in one["members"]]}
        for one in document["bindings"]
    ]
    return {**document, "bindings": bindings}


@cache
def _policy(platform: Platform, tee: Tee) -> Body:
    return compiled(gate(platform=platform, tee=tee))


def policies(platform: Platform = SPACE, tee: Tee = Tee.TDX) -> dict[str, Body]:
    """Documents of both keys, as the kit compiles and deploys them for stage serve."""
    return {key: deployed(_policy(platform, tee), key) for key in POOLS}


def denial(*pools: str, **changes: Any) -> Body:
    """The deny policy of the keys' project, but for some pools."""
    rule = {
        "deniedPrincipals": ["principalSet://goog/public:all"],
        "deniedPermissions": [PERMISSION],
        "exceptionPrincipals": [f"principalSet://{pool}/*" for pool in pools or POOLS.values()],
        **changes,
    }
    parent = "cloudresourcemanager.googleapis.com%2Fprojects%2Fmp-keys"
    return {"name": "mp-keys-deny", "parent": parent, "rules": [{"denyRule": rule}]}


def wrapped(dek: bytes = DEK, number: int = 0) -> bytes:
    return rsa_key(number).public_key().encrypt(dek, OAEP)


def external_account(**changes: Any) -> dict[str, Any]:
    """What the stack tells a stage to exchange its token with."""
    account = {
        "type": "external_account",
        "audience": AUDIENCE,
        "subject_token_type": "urn:ietf:params:oauth:token-type:jwt",
        "token_url": "https://sts.googleapis.com/v1/token",
        "credential_source": {"file": "/run/container_launcher/attestation_verifier_claims_token"},
        **changes,
    }
    return {name: value for name, value in account.items() if value is not ...}


def asked(**changes: Any) -> Asked:
    given = {
        "artifact": "base",
        "key": KEY,
        "wrapped": wrapped(),
        "credentials": external_account(),
        "bound": b"b" * 32,
    }
    return Asked(**{**given, **changes})


def stage(platform: Platform = SPACE, **changes: Any) -> Stage:
    given = {
        "opens": {"base": Opens(key=KEY, store="gs://base", credentials=external_account())},
        "seals": {"adapter": Seals(store="gs://adapter")},
    }
    return Stage(lifecycle="flow", stage="serve", platform=platform, **{**given, **changes})


@pytest.fixture
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The clients' pauses before they try again, left out; the clock that they look at goes on by as much."""
    pauses: list[float] = []
    clock = SimpleNamespace(sleep=pauses.append, monotonic=lambda: time.monotonic() + sum(pauses))
    for module in ("retry_unary", "retry_base"):
        monkeypatch.setattr(f"google.api_core.retry.{module}.time", clock)
    monkeypatch.setattr("jewelhouse.guest.confidential_space.time", clock)
    monkeypatch.setattr(
        "urllib3.util.retry.Retry.sleep", lambda self, reply=None: pauses.append(self.get_backoff_time())
    )
    return pauses


def closed(attempt: Callable[[], object]) -> str:
    """What a door says that stays closed, after a look that it gives no secret away."""
    with pytest.raises(Closed) as caught:
        attempt()
    text = f"{caught.value} {caught.value!r}"
    for secret in (DEK.hex(), base64.b64encode(DEK).decode(), repr(DEK)[2:-1], RUN.access, "ya29.d."):
        assert secret not in text
    return str(caught.value)


def claims(change: Callable[[Body], Body] = lambda found: found, **more: Any) -> Claims:
    """Claims of stage serve's container."""

    def made(audience: str, nonces: list[str]) -> Body:
        given = {"issued": _now(), "audience": audience, "digest": DIGEST, "account": ACCOUNT, **more}
        return change(space_claims(nonce=eat_nonce(nonces), **given))

    return made


def _now() -> datetime:
    return datetime.now(UTC).replace(microsecond=0)


@dataclass(kw_only=True)
class Place:
    """What runs: the services, and what a guest there is told. `machine`: launcher, or all of a VM."""

    sts: Sts
    kms: CloudKms
    machine: Any
    endpoints: Endpoints
    stage: Stage

    def opener(self, *, stage: dict[str, Any] | None = None, **endpoints: Any) -> Opener:
        return opener(replace(self.stage, **(stage or {})), replace(self.endpoints, **endpoints))


@contextmanager
def place(
    platform: Platform = SPACE,
    *,
    tee: Tee = Tee.TDX,
    signed_by: GoogleAuthority | None = None,
    container: Claims | None = None,
    replay: bytes | None = None,
    documents: Mapping[str, Body] | None = None,
    keys: Mapping[str, rsa.RSAPrivateKey] | None = None,
    disabled: bool = False,
    denials: Sequence[Body] | None = None,
    accounts: Mapping[str, str] | None = None,
    ahead: timedelta = timedelta(),
    meddle: Callable[[Body], Body] = lambda body: body,
    meddle_sts: Callable[[Body], Body] = lambda body: body,
    trusted: http.Authority | None = None,
    wrong: Wrong = Wrong.NOTHING,
    instance: Instance = RUN,
) -> Iterator[Place]:
    """A machine and the services that it reaches. `signed_by` makes its tokens; `ahead`: by how much the
    clock of the token service is."""
    held = keys or {KEY: rsa_key(0), OTHER_KEY: rsa_key(1)}
    found = documents or policies(platform, tee)
    tls = certificates()
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="jh-")))
        clock = lambda: datetime.now(UTC) + ahead  # noqa: E731
        providers = {f"//{POOLS[key]}/providers/attestation": body for key, body in found.items()}
        sts = stack.enter_context(
            Sts(providers, attestation=signer(), authority=tls, clock=clock, meddle=meddle_sts)
        )
        kms = stack.enter_context(
            CloudKms(
                [
                    Held(name=name, private=key, document=found[name], enabled=not disabled)
                    for name, key in held.items()
                ],
                who=sts.who,
                authority=tls,
                denials=[denial()] if denials is None else denials,
                accounts=accounts,
                clock=clock,
                meddle=meddle,
            )
        )
        if platform is VM:
            if not vtpm.available():
                pytest.skip("swtpm is not installed")
            around = gce_vm.Around(
                folder=folder, signer=signed_by or signer(), tls=tls, wrong=wrong, replay=replay
            )
            kind = gate(platform=VM, tee=tee)
            machine: Any = gce_vm.attesting(kind.tee, instance, around, stack)
            endpoints: dict[str, Any] = machine.endpoints
        else:
            machine = stack.enter_context(
                Launcher(signed_by or signer(), folder / "tee.sock", container or claims(), replay=replay)
            )
            endpoints = {"launcher": str(machine.path)}
        roots = folder / "authority.pem"
        roots.write_bytes((trusted or tls).pem)
        yield Place(
            sts=sts,
            kms=kms,
            machine=machine,
            stage=stage(platform),
            endpoints=Endpoints(sts=sts.url, kms=kms.url, certificates=str(roots), **endpoints),
        )
