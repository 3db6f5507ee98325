"""What the kit talks about: parties, artifacts, stages, images and the lifecycle they form.

Frozen values without I/O. Names follow RFC 9334 (RATS) and the clouds' own terms. Everything here has been
checked by `jewelhouse.settings` before it reaches a cloud package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType


class Cloud(StrEnum):
    AWS = "aws"
    AZURE = "azure"
    GCP = "gcp"


class Platform(StrEnum):
    """Where a stage runs; decides which evidence it can give and which key service judges that."""

    AZURE_CVM = "azure-cvm"
    AZURE_CONTAINER = "azure-container"
    AWS_ENCLAVE = "aws-enclave"
    AWS_NITROTPM = "aws-nitrotpm"
    GCP_CONFIDENTIAL_SPACE = "gcp-confidential-space"
    GCP_CVM = "gcp-cvm"

    @property
    def cloud(self) -> Cloud:
        return Cloud(self.value.split("-")[0])


# Where GPUs come with a confidential mode, and so can be attested: MicrosoftDocs/azure-compute-docs,
# NCCads_H100_v5 series; Google Cloud, Confidential VM, supported configurations (2026-11). On AWS none does.
GPU_PLATFORMS = frozenset({Platform.AZURE_CVM, Platform.GCP_CONFIDENTIAL_SPACE, Platform.GCP_CVM})
# What NVIDIA's verifiers know, and how GPUs are passed through: one by itself (SPT), several with encrypted
# links between them (MPT). With protected PCIe the links between GPUs are in the clear and their switches
# want attestation of their own, so it is not among them. NVIDIA/attestation-sdk: nv-attestation-sdk-cpp/src/
# gpu/verify.cpp; NVIDIA/nvtrust: README of the PPCIE verifier (2026-09).
GPU_ARCHITECTURES = ("HOPPER", "BLACKWELL")
GPU_MODES = ("SPT", "MPT")
MOST_GPUS = 8


class Tee(StrEnum):
    SEV = "sev"
    SEV_SNP = "sev-snp"
    TDX = "tdx"
    NITRO = "nitro"


class ArtifactKind(StrEnum):
    DATASET = "dataset"
    RECIPE = "recipe"
    WEIGHTS = "weights"
    ADAPTER = "adapter"


class StageKind(StrEnum):
    TRAINING = "training"
    FINE_TUNING = "fine-tuning"
    EVALUATION = "evaluation"
    INFERENCE = "inference"
    AGGREGATION = "aggregation"


class Proof(StrEnum):
    """What a release can require of the code that asks for a key (matrix columns)."""

    GENUINE = "genuine"
    DEBUG_OFF = "debug-off"
    FIRMWARE = "firmware"
    IMAGE = "image"
    CONFIG = "config"
    IDENTITY = "identity"
    GPU = "gpu"
    OWNER_APART = "owner-apart"
    NO_BYPASS = "no-bypass"


@dataclass(frozen=True, kw_only=True)
class AwsAccount:
    """An AWS account. `deployer` is the role that deploys into it and administers its keys."""

    account: str
    deployer: str

    @property
    def boundary(self) -> str:
        return self.account


@dataclass(frozen=True, kw_only=True)
class AzureAccount:
    """An Azure subscription. `sealers` are object ids of service principals that may read public halves and
    write to stores. `registry` is the resource id of the private registry that containers are pulled from.

    `orchestrator` is the object id, in this tenant, of Azure's Confidential VM Orchestrator (application
    bf7b6499-ff71-4aa2-97a4-f372087be7f0), which releases the disk keys of confidential VMs. `gpu_verifier` is
    the resource id of the private link service that forwards to NVIDIA's attestation service.
    """

    subscription: str
    tenant: str
    sealers: tuple[str, ...] = ()
    orchestrator: str | None = None
    registry: str | None = None
    gpu_verifier: str | None = None

    @property
    def boundary(self) -> str:
        return self.subscription.lower()


@dataclass(frozen=True, kw_only=True)
class GcpAccount:
    """A Google Cloud project. Principal sets name it by its number, so owners of keys need one.

    `gpu_verifier` is the service attachment that forwards to NVIDIA's attestation service.
    """

    project: str
    number: str | None = None
    gpu_verifier: str | None = None

    @property
    def boundary(self) -> str:
        return self.project


Account = AwsAccount | AzureAccount | GcpAccount


@dataclass(frozen=True, kw_only=True)
class Party:
    """A model provider, data owner or platform operator: at most one account on each cloud."""

    name: str
    aws: AwsAccount | None = None
    azure: AzureAccount | None = None
    gcp: GcpAccount | None = None

    def account(self, cloud: Cloud) -> Account | None:
        return {Cloud.AWS: self.aws, Cloud.AZURE: self.azure, Cloud.GCP: self.gcp}[cloud]


@dataclass(frozen=True, kw_only=True)
class Licence:
    """One tier under which an artifact may be opened: by whose stages, of which kinds, until when."""

    tier: str
    holders: tuple[str, ...]
    kinds: tuple[StageKind, ...]
    expires: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Artifact:
    """Something that stays encrypted outside attested code.

    `supplied` says that its owner brings it; otherwise a stage seals it. `require` lists proofs that every
    gate must enforce (closed weights under strict release); empty `licences` put no tier on it.
    """

    name: str
    kind: ArtifactKind
    owner: str
    supplied: bool
    require: tuple[Proof, ...] = ()
    licences: tuple[Licence, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Measurements:
    """Reference Values of one image on one platform, by name, in lower-case hex.

    Names per platform: `PCR0`.. (aws-enclave), `PCR4`, `PCR7`, `PCR12` (aws-nitrotpm), `hostdata`
    (azure-container), `image_digest` (gcp-confidential-space, with its `sha256:` prefix).
    """

    values: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", MappingProxyType(dict(sorted(self.values.items()))))

    def __hash__(self) -> int:
        return hash(tuple(self.values.items()))

    def __getitem__(self, name: str) -> str:
        return self.values[name]

    def get(self, name: str) -> str | None:
        return self.values.get(name)


@dataclass(frozen=True, kw_only=True)
class Image:
    """What a stage runs on one platform.

    `reference` names the bytes: `registry/name@sha256:..` (containers), `sha256:..` of the EIF file,
    `ami-..`, or the versioned image of a CVM. `measurements` holds the current values first and, while
    a new image rolls out, the previous ones after it. `declared` marks values written by hand rather than
    by a build. `container_policy` is the base64 CCE policy whose SHA-256 is `hostdata`. `gpus`: how many its
    guest attests before it asks for a key.
    """

    name: str
    platform: Platform
    reference: str
    measurements: tuple[Measurements, ...] = ()
    declared: bool = False
    debug: bool = False
    size: int | None = None
    container_policy: str | None = None
    gpus: int | None = None


@dataclass(frozen=True, kw_only=True)
class Enclave:
    """Resources of a Nitro enclave: vCPUs taken from the parent and memory in MiB."""

    cpus: int
    memory: int


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The virtual machine of a stage. `run_duration` (seconds) belongs to flex-start capacity."""

    type: str
    count: int = 1
    enclave: Enclave | None = None
    provisioning: str = "on-demand"
    run_duration: int | None = None
    disk: str | None = None


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A step that opens artifacts inside a TEE and seals what it makes.

    `rewraps`: those that it opens and whose data keys it wraps to more keys, as their owners mandate.
    `gpu` names the confidential GPU model (`H100`) or is None. `authority` is the Azure attestation
    endpoint (default: the shared one of the region) and `authority_policy` the hash of its policy.
    """

    name: str
    kind: StageKind
    platform: Platform
    tee: Tee
    operator: str
    region: str
    image: str
    opens: tuple[str, ...]
    seals: tuple[str, ...] = ()
    rewraps: tuple[str, ...] = ()
    machine: Machine | None = None
    zones: tuple[str, ...] = ()
    gpu: str | None = None
    authority: str | None = None
    authority_policy: str | None = None

    @property
    def cloud(self) -> Cloud:
        return self.platform.cloud

    @property
    def writes(self) -> tuple[str, ...]:
        """Artifacts whose stores it writes to."""
        return (*self.seals, *self.rewraps)


@dataclass(frozen=True, order=True)
class AttestedKey:
    """The KEK that opens one artifact for the stages of one platform in one region.

    One key a platform, because evidence of one kind leaves the conditions for another kind unmet: a Deny on
    an enclave's PCR blocks every NitroTPM document, a flat Azure claim never matches a guest token.
    One a region, so that no private network needs a way out of its region.
    """

    artifact: str
    platform: Platform
    region: str

    @property
    def cloud(self) -> Cloud:
        return self.platform.cloud

    @property
    def name(self) -> str:
        return f"{self.artifact}-{self.platform}-{self.region}"


@dataclass(frozen=True, kw_only=True)
class Lifecycle:
    """The whole graph, by name. `destroyable` and `allow_same_owner` weaken it and are shown everywhere."""

    name: str
    parties: Mapping[str, Party]
    artifacts: Mapping[str, Artifact]
    stages: Mapping[str, Stage]
    images: Mapping[tuple[str, Platform], Image]
    allow_same_owner: bool = False
    destroyable: bool = False
    alarm_emails: tuple[str, ...] = ()

    def image(self, stage: Stage) -> Image:
        return self.images[stage.image, stage.platform]

    def owner_account(self, artifact: str, cloud: Cloud) -> Account:
        """The account that owns the artifact's keys and stores on `cloud`; checked to exist."""
        account = self.parties[self.artifacts[artifact].owner].account(cloud)
        if account is None:
            raise LookupError(f"{self.artifacts[artifact].owner} has no {cloud} account")
        return account

    def operator_account(self, stage: Stage) -> Account:
        """The account that a stage runs in; checked to exist."""
        account = self.parties[stage.operator].account(stage.cloud)
        if account is None:
            raise LookupError(f"{stage.operator} has no {stage.cloud} account")
        return account
