"""The stack configuration (`jewelhouse:lifecycle`) as typed settings, and from there to the model.

Every error names the YAML path; all of them are reported at once, structural ones together with those of
the graph (`jewelhouse.checks`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictInt

from jewelhouse import checks
from jewelhouse.errors import InvalidLifecycle, Problem
from jewelhouse.images.lock import ImageLock, entries
from jewelhouse.model import (
    Artifact,
    ArtifactKind,
    AwsAccount,
    AzureAccount,
    Enclave,
    GcpAccount,
    Image,
    Licence,
    Lifecycle,
    Machine,
    Party,
    Platform,
    Proof,
    Stage,
    StageKind,
    Tee,
)
from jewelhouse.yamlpath import Settings, join, suggestion, validated

NAME = r"^[a-z]([a-z0-9-]{0,30}[a-z0-9])?$"
GUID = r"^[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}$"
STRICT = (
    Proof.GENUINE,
    Proof.DEBUG_OFF,
    Proof.IMAGE,
    Proof.CONFIG,
    Proof.IDENTITY,
    Proof.OWNER_APART,
    Proof.NO_BYPASS,
)
SUPPLIED_BY_OWNER = frozenset({ArtifactKind.DATASET, ArtifactKind.RECIPE})


def _memory(value: Any) -> Any:
    """MiB from `32GiB`, `512MiB`."""
    if not isinstance(value, str) or not (match := re.fullmatch(r"(\d+) ?(MiB|GiB|TiB)", value)):
        raise ValueError(f"{value!r} is not an amount of memory such as 32GiB or 512MiB")
    return int(match[1]) * {"MiB": 1, "GiB": 1024, "TiB": 1024 * 1024}[match[2]]


def _duration(value: Any) -> Any:
    """Seconds from `90m`, `6h`, `7d`."""
    if not isinstance(value, str) or not (match := re.fullmatch(r"(\d+) ?([smhd])", value)):
        raise ValueError(f"{value!r} is not a duration such as 90m, 6h or 7d")
    return int(match[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def _moment(value: Any) -> Any:
    """A time with its zone; a bare date is its first moment in UTC."""
    try:
        moment = datetime.fromisoformat(str(value))
    except ValueError:
        raise ValueError(f"{value!r} is not a date such as 2027-06-30 or 2027-06-30T12:00:00Z") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


Name = Annotated[str, Field(pattern=NAME)]
Guid = Annotated[str, Field(pattern=GUID)]
Memory = Annotated[int, BeforeValidator(_memory, json_schema_input_type=str)]
Duration = Annotated[int, BeforeValidator(_duration, json_schema_input_type=str)]
Moment = Annotated[datetime, BeforeValidator(_moment, json_schema_input_type=str)]


class AwsAccountSettings(Settings):
    account: Annotated[str, Field(pattern=r"^\d{12}$")]
    """The 12 digits of the AWS account, in quotes."""
    deployer: Annotated[str, Field(pattern=r"^arn:aws[a-z-]*:iam::\d{12}:role/[\w+=,.@/-]+$")] | None = None
    """Role that deploys into the account and administers its keys; default role/jewelhouse-deployer."""

    def account_value(self) -> AwsAccount:
        default = f"arn:aws:iam::{self.account}:role/jewelhouse-deployer"
        return AwsAccount(account=self.account, deployer=self.deployer or default)


REGISTRY = (
    r"^/subscriptions/[0-9a-fA-F-]{36}/resourceGroups/[^/]+"
    r"/providers/Microsoft\.ContainerRegistry/registries/\w+$"
)

LINK_SERVICE = (
    r"^/subscriptions/[0-9a-fA-F-]{36}/resourceGroups/[^/]+"
    r"/providers/Microsoft\.Network/privateLinkServices/[\w.-]+$"
)
ATTACHMENT = r"^projects/[a-z0-9:.-]+/regions/[a-z0-9-]+/serviceAttachments/[a-z0-9-]+$"


class AzureAccountSettings(Settings):
    subscription: Guid
    """Subscription id."""
    tenant: Guid
    """Tenant (directory) id."""
    sealers: tuple[Guid, ...] = ()
    """Object ids of service principals that may read public keys and write ciphertext, apart from stages'."""
    orchestrator: Guid | None = None
    """Object id of the Confidential VM Orchestrator in this tenant; confidential VM disks need it."""
    registry: Annotated[str, Field(pattern=REGISTRY)] | None = None
    """Resource id of the private registry that containers come from; default: they are pulled anonymously."""
    gpu_verifier: Annotated[str, Field(pattern=LINK_SERVICE)] | None = None
    """Resource id of a private link service that forwards TCP to port 443 of nras.attestation.nvidia.com."""

    def account_value(self) -> AzureAccount:
        return AzureAccount(
            subscription=self.subscription.lower(),
            tenant=self.tenant.lower(),
            sealers=self.sealers,
            orchestrator=self.orchestrator,
            registry=self.registry,
            gpu_verifier=self.gpu_verifier,
        )


class GcpAccountSettings(Settings):
    project: Annotated[str, Field(pattern=r"^[a-z][a-z0-9-]{4,28}[a-z0-9]$")]
    """Project id."""
    number: Annotated[str, Field(pattern=r"^\d{6,19}$")] | None = None
    """Project number, in quotes; needed where the party owns keys, since principal sets name it."""
    gpu_verifier: Annotated[str, Field(pattern=ATTACHMENT)] | None = None
    """Service attachment that forwards TCP to port 443 of nras.attestation.nvidia.com."""

    def account_value(self) -> GcpAccount:
        return GcpAccount(project=self.project, number=self.number, gpu_verifier=self.gpu_verifier)


class PartySettings(Settings):
    """A model provider, data owner or platform operator: at most one account on each cloud."""

    aws: AwsAccountSettings | None = None
    azure: AzureAccountSettings | None = None
    gcp: GcpAccountSettings | None = None

    def party(self, name: str) -> Party:
        return Party(
            name=name,
            aws=self.aws.account_value() if self.aws else None,
            azure=self.azure.account_value() if self.azure else None,
            gcp=self.gcp.account_value() if self.gcp else None,
        )


class LicenceSettings(Settings):
    """One tier under which an artifact may be opened."""

    holders: Annotated[tuple[Name, ...], Field(min_length=1)]
    """Parties whose stages may open the artifact under this tier."""
    kinds: Annotated[tuple[StageKind, ...], Field(min_length=1)]
    """What those stages may do with it: training, fine-tuning, evaluation, inference, aggregation."""
    expires: Moment | None = None
    """When releases under this tier end; enforced by the key service, not by the stage."""


class ArtifactSettings(Settings):
    kind: ArtifactKind
    """dataset, recipe (code, hyperparameters, training configuration), weights or adapter."""
    owner: Name
    """The party whose accounts hold the artifact's keys and ciphertext."""
    supplied: StrictBool | None = None
    """The owner brings it (default for datasets and recipes); otherwise a stage must seal it."""
    release: Literal["standard", "strict"] = "standard"
    """strict: every gate must enforce image, config, identity, debug-off, owner-apart and no-bypass."""
    require: tuple[Proof, ...] = ()
    """Proofs that every gate must enforce, in addition to what `release` says."""
    licences: dict[Name, LicenceSettings] = {}
    """Tiers of an open-weight licence; with any, only their holders' stages may open the artifact."""

    def artifact(self, name: str) -> Artifact:
        required = {*self.require, *(STRICT if self.release == "strict" else ())}
        return Artifact(
            name=name,
            kind=self.kind,
            owner=self.owner,
            supplied=self.kind in SUPPLIED_BY_OWNER if self.supplied is None else self.supplied,
            require=tuple(proof for proof in Proof if proof in required),
            licences=tuple(
                Licence(tier=tier, holders=value.holders, kinds=value.kinds, expires=value.expires)
                for tier, value in self.licences.items()
            ),
        )


class EnclaveSettings(Settings):
    cpus: Annotated[StrictInt, Field(ge=1)]
    """vCPUs taken from the parent; two stay with it."""
    memory: Memory
    """Memory of the enclave, for example 32GiB; at least four times the image."""


class MachineSettings(Settings):
    type: Annotated[str, Field(min_length=1)]
    """Machine type in the cloud's own words: m7i.4xlarge, Standard_DC4as_v6, c3-standard-22."""
    count: Annotated[StrictInt, Field(ge=1, le=100)] = 1
    """Number of hosts."""
    enclave: EnclaveSettings | None = None
    """Size of the Nitro enclave on each host."""
    provisioning: Literal["on-demand", "spot", "flex-start"] = "on-demand"
    """How capacity is bought; confidential H100s on Google Cloud come as spot or flex-start only."""
    run_duration: Duration | None = None
    """How long flex-start capacity is kept: 10m to 7d."""
    disk: str | None = None
    """Boot disk type, where the platform leaves a choice."""

    def machine(self) -> Machine:
        return Machine(
            type=self.type,
            count=self.count,
            enclave=Enclave(cpus=self.enclave.cpus, memory=self.enclave.memory) if self.enclave else None,
            provisioning=self.provisioning,
            run_duration=self.run_duration,
            disk=self.disk,
        )


class StageSettings(Settings):
    kind: StageKind
    """training, fine-tuning, evaluation, inference or aggregation."""
    platform: Platform
    """Where it runs, and so which evidence it can give."""
    tee: Tee | None = None
    """sev, sev-snp, tdx or nitro; AWS platforms are always nitro."""
    operator: Name = "operator"
    """The party whose account runs the stage."""
    region: Annotated[str, Field(min_length=1)]
    """Region in the cloud's own words."""
    zones: tuple[str, ...] = ()
    """Zones in that region; the kit chooses when there is a choice."""
    image: Name
    """Name of the image, in `images` here or in images.lock.yaml."""
    opens: tuple[Name, ...] = ()
    """Artifacts that are released to the stage."""
    seals: tuple[Name, ...] = ()
    """Artifacts that the stage makes."""
    rewraps: tuple[Name, ...] = ()
    """Of those that it opens, the ones that it wraps to more keys when their owners mandate so (rotation)."""
    machine: MachineSettings | None = None
    """The virtual machine; confidential containers need none."""
    gpu: Annotated[str, Field(pattern=r"^[A-Z0-9-]+$")] | None = None
    """Confidential GPU model: H100."""
    authority: Annotated[str, Field(pattern=r"^https://[a-z0-9.-]+[a-z0-9]$")] | None = None
    """Azure attestation endpoint of your own; default: the shared one of the region."""
    authority_policy: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{43}$")] | None = None
    """x-ms-policy-hash of that endpoint's policy; needed with `authority`, so nobody can loosen it."""

    def stage(self, name: str) -> Stage:
        nitro = self.platform in (Platform.AWS_ENCLAVE, Platform.AWS_NITROTPM)
        tee = self.tee or (Tee.NITRO if nitro else None)
        if tee is None:
            raise LookupError(name)
        return Stage(
            name=name,
            kind=self.kind,
            platform=self.platform,
            tee=tee,
            operator=self.operator,
            region=self.region,
            zones=self.zones,
            image=self.image,
            opens=self.opens,
            seals=self.seals,
            rewraps=self.rewraps,
            machine=self.machine.machine() if self.machine else None,
            gpu=self.gpu,
            authority=self.authority,
            authority_policy=self.authority_policy,
        )


class LockedImage(Settings):
    lock: Name
    """Name of the image in images.lock.yaml."""


class LifecycleSettings(Settings):
    """One lifecycle: parties, artifacts, stages and images."""

    name: Annotated[str, Field(pattern=NAME, max_length=20)]
    """Name of the lifecycle; part of resource names."""
    parties: dict[Name, PartySettings]
    """Who takes part, with their accounts."""
    artifacts: dict[Name, ArtifactSettings]
    """What stays encrypted outside attested code."""
    stages: dict[Name, StageSettings]
    """What opens and seals artifacts, and where."""
    images: dict[Name, LockedImage | dict[Platform, Any]] = {}
    """Images under another name in the lock file, or with values given here instead."""
    allow_same_owner: StrictBool = False
    """WEAKENS: lets keys live in the account that also runs the stage; shown in matrix and lint."""
    destroyable: StrictBool = False
    """WEAKENS: lets `pulumi destroy` remove keys and stores; for development."""
    alarm_emails: tuple[Annotated[str, Field(pattern=r"^[^@\s]+@[^@\s]+\.[^@\s]+$")], ...] = ()
    """Who is told about decrypts without attestation and about changes that could open a key."""


_PARTS = {"parties": PartySettings, "artifacts": ArtifactSettings, "stages": StageSettings}


def parse(config: Any, lock: ImageLock, *, now: datetime | None = None) -> Lifecycle:
    """The lifecycle that a stack configures, checked as a whole.

    `config` is the value of `jewelhouse:lifecycle`; `now` decides about expired licences (default: now).
    Raises InvalidLifecycle with every problem of structure and graph, each with its YAML path.
    """
    problems: list[Problem] = []
    if not isinstance(config, dict):
        raise InvalidLifecycle(
            [
                Problem(
                    where="jewelhouse:lifecycle",
                    what="is missing" if config is None else "must be a mapping",
                    remedy="docs/configuration.md shows one; `jewelhouse lifecycle schema` helps an editor",
                )
            ]
        )
    broken: set[str] = set()
    parts: dict[str, dict[str, Any]] = {}
    for part, model in _PARTS.items():
        parts[part] = _entries(config, part, model, problems, broken)
    images = {**lock.images, **_images(config, lock, problems, broken)}
    head = validated(
        LifecycleSettings,
        {**config, **{part: {} for part in _PARTS if part in config}, "images": {}},
        "",
        problems,
    )
    stages: dict[str, Stage] = {}
    for name, settings in parts["stages"].items():
        if settings.tee is None and settings.platform.cloud != "aws":
            problems.append(
                Problem(
                    where=f"stages.{name}.tee",
                    what="is missing",
                    remedy=f"{settings.platform} leaves a choice: name the TEE (sev-snp, tdx, sev)",
                )
            )
            broken.add(f"stages.{name}")
        else:
            stages[name] = settings.stage(name)
    lifecycle = Lifecycle(
        name=head.name if head else "unnamed",
        parties={name: settings.party(name) for name, settings in parts["parties"].items()},
        artifacts={name: settings.artifact(name) for name, settings in parts["artifacts"].items()},
        stages=stages,
        images=images,
        allow_same_owner=head.allow_same_owner if head else config.get("allow-same-owner") is True,
        destroyable=head.destroyable if head else False,
        alarm_emails=head.alarm_emails if head else (),
    )
    problems += checks.problems(lifecycle, broken=frozenset(broken), now=now or datetime.now(UTC))
    if problems:
        raise InvalidLifecycle(problems)
    return lifecycle


def _entries(
    config: Mapping[str, Any],
    part: str,
    model: type[Settings],
    problems: list[Problem],
    broken: set[str],
) -> dict[str, Any]:
    found: dict[str, Any] = {}
    entries_of = config.get(part)
    if entries_of is None:
        return found
    if not isinstance(entries_of, dict):
        problems.append(Problem(where=part, what="must be a mapping of names"))
        return found
    for name, value in entries_of.items():
        where = join(part, [str(name)])
        if not re.fullmatch(NAME, str(name)):
            problems.append(
                Problem(
                    where=where,
                    what=f"{str(name)!r} cannot be a name",
                    remedy="lower-case letters, digits and dashes, beginning with a letter, at most 32",
                )
            )
        entry = validated(model, value, where, problems)
        if entry is None:
            broken.add(where)
        else:
            found[str(name)] = entry
    return found


def _images(
    config: Mapping[str, Any], lock: ImageLock, problems: list[Problem], broken: set[str]
) -> dict[tuple[str, Platform], Image]:
    images = config.get("images") or {}
    if not isinstance(images, dict):
        problems.append(Problem(where="images", what="must be a mapping of names"))
        return {}
    found: dict[tuple[str, Platform], Image] = {}
    locked_names = {name for name, _ in lock.images}
    for name, value in images.items():
        where = f"images.{name}"
        before = len(problems)
        if isinstance(value, dict) and "lock" in value:
            entry = validated(LockedImage, value, where, problems)
            if entry and entry.lock not in locked_names:
                problems.append(
                    Problem(
                        where=f"{where}.lock",
                        what=f"{entry.lock} is not in images.lock.yaml",
                        remedy=suggestion(entry.lock, locked_names),
                    )
                )
            elif entry:
                found |= {
                    (name, platform): image
                    for (locked, platform), image in lock.images.items()
                    if locked == entry.lock
                }
        else:
            found |= entries({name: value}, "images", problems)
        if len(problems) > before:
            broken.add(where)
    return found


def schema() -> dict[str, Any]:
    """JSON Schema of a stack file (`Pulumi.<env>.yaml`), so that editors complete and check it."""
    lifecycle = LifecycleSettings.model_json_schema(by_alias=True)
    definitions = lifecycle.pop("$defs")
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "jewelhouse stack configuration",
        "type": "object",
        "properties": {
            "config": {
                "type": "object",
                "required": ["jewelhouse:lifecycle"],
                "properties": {"jewelhouse:lifecycle": {"$ref": "#/$defs/Lifecycle"}},
            }
        },
        "$defs": {**definitions, "Lifecycle": lifecycle},
    }
