"""Configurations that must be refused: where the problem is, what it says, and that nothing is registered."""

from __future__ import annotations

import json
import runpy
from datetime import UTC, datetime
from typing import Any

import pulumi
import pytest
from recording import record
from samples import PROJECT, Change, changed, lock, put, stack

from jewelhouse.errors import InvalidLifecycle
from jewelhouse.model import Lifecycle
from jewelhouse.settings import parse

NOW = datetime(2026, 11, 1, tzinfo=UTC)
ONES, ZEROS = "1" * 96, "0" * 96
DIGEST = "sha256:" + "ab" * 32
PCR7_SECURE_BOOT_OFF = (
    "98441c7f7625d10058c47683aec486ce311c633235eb555593a7ee791121e3578ae72d04ecef661f272d59058b77af35"
)
PCR2_ONE_RAMDISK = (
    "21b9efbc184807662e966d34f390821309eeac6802309798826296bf3e8bec7c10edb30948c90ba67310f7b964fc500a"
)


def enclave_image(**values: Any) -> Change:
    """The image of `finetune` given in the stack; `None` leaves a setting out."""
    return _image("finetuner", "aws-enclave", {"reference": DIGEST, "measurements": {"PCR0": ONES}}, values)


def tpm_image(**values: Any) -> Change:
    good = {"reference": "ami-0123456789abcdef0", "measurements": {"PCR4": ONES, "PCR12": ZEROS}}
    return _image("server", "aws-nitrotpm", good, values)


def space_image(**values: Any) -> Change:
    good = {
        "reference": f"europe-west4-docker.pkg.dev/op-runtime/kit/server@{DIGEST}",
        "measurements": {"image_digest": DIGEST},
    }
    return _image("server", "gcp-confidential-space", good, values)


def container_image(**values: Any) -> Change:
    good = {"reference": f"registry.example/trainer@{DIGEST}", "measurements": {"hostdata": "ab" * 32}}
    return _image("trainer", "azure-container", good, values)


def vm_image(**values: Any) -> Change:
    good = {"reference": "Canonical:ubuntu-24_04-lts:cvm:24.04.202609150"}
    return _image("server", "azure-cvm", good, values)


def google_vm(**image: Any) -> Change:
    """Adds an evaluation on a confidential VM of Google Cloud, with an image of its own."""
    good = {"reference": "projects/op-images/global/images/evaluator-20261001"}

    def change(config: dict[str, Any]) -> None:
        config["stages"]["evaluate"] = {
            "kind": "evaluation",
            "platform": "gcp-cvm",
            "tee": "tdx",
            "region": "europe-west4",
            "image": "evaluator",
            "machine": {"type": "c3-standard-4"},
            "opens": ["corpus"],
        }
        config["images"] = {"evaluator": {"gcp-cvm": {**good, **image}}}

    return change


def _image(name: str, platform: str, good: dict[str, Any], values: dict[str, Any]) -> Change:
    merged = {**good, **{key.replace("_", "-"): value for key, value in values.items()}}
    return put(
        f"images.{name}", {platform: {key: value for key, value in merged.items() if value is not None}}
    )


def renamed(stage: str, name: str) -> Change:
    def change(config: dict[str, Any]) -> None:
        config["stages"][name] = config["stages"].pop(stage)

    return change


def opens(stage: str, *artifacts: str) -> Change:
    return put(f"stages.{stage}.opens", list(artifacts))


def enclave(cpus: int, memory: str, machine: str = "m7i.xlarge") -> Change:
    return put("stages.finetune.machine", {"type": machine, "enclave": {"cpus": cpus, "memory": memory}})


# stack, change, YAML path, what the problem or its remedy says
BAD: list[tuple[str, Change | list[Change], str, str]] = [
    # names
    ("dev", opens("finetune", "bse", "cases"), "stages.finetune.opens[0]", "did you mean base?"),
    ("dev", put("stages.finetune.seals", ["adaptor"]), "stages.finetune.seals[0]", "did you mean adapter?"),
    ("dev", opens("serve", "base", "adapter", "base"), "stages.serve.opens[2]", "named twice"),
    ("dev", put("artifacts.cases.owner", "data-ownr"), "artifacts.cases.owner", "did you mean data-owner?"),
    ("dev", put("stages.train.operator", "operater"), "stages.train.operator", "did you mean operator?"),
    ("dev", put("stages.serve.image", "srver"), "stages.serve.image", "did you mean server?"),
    (
        "dev",
        put("stages.train.image", "aggregator"),
        "stages.train.image",
        "it is there for gcp-confidential-space",
    ),
    (
        "dev",
        put("artifacts.open-base.licences.community.holders", ["operator", "publik"]),
        "artifacts.open-base.licences.community.holders[1]",
        "publik is not a party",
    ),
    ("dev", [put("name", "a"), renamed("serve", "s")], "stages.s", "service account would be a-s"),
    # the graph
    ("dev", put("stages", {}), "stages", "is empty"),
    ("dev", put("parties", {}), "parties", "is empty"),
    ("dev", put("artifacts", {}), "artifacts", "is empty"),
    ("dev", opens("serve"), "stages.serve.opens", "opens nothing"),
    ("dev", put("stages.train.seals", []), "artifacts.base", "nobody seals or supplies it"),
    ("dev", put("artifacts.corpus.supplied", False), "artifacts.corpus", "nobody seals or supplies it"),
    ("dev", put("artifacts.base.supplied", True), "artifacts.base.supplied", "sealed by train"),
    (
        "dev",
        put("artifacts.spare", {"kind": "dataset", "owner": "data-owner"}),
        "artifacts.spare",
        "no stage opens",
    ),
    (
        "dev",
        opens("train", "corpus", "recipe", "adapter"),
        "stages.finetune.opens",
        "finetune -> train -> finetune",
    ),
    ("dev", put("stages.finetune.seals", ["adapter", "base"]), "stages.finetune.seals[1]", "next-base"),
    # accounts
    ("dev", put("parties.idle", {}), "parties.idle", "no account on any cloud"),
    ("dev", put("parties.operator.aws", ...), "parties.operator.aws", "runs finetune"),
    ("dev", put("parties.model-provider.azure", ...), "parties.model-provider.azure", "owns corpus"),
    ("dev", put("parties.data-owner.gcp", ...), "parties.data-owner.gcp", "owns adapter"),
    (
        "dev",
        put("parties.model-provider.azure.tenant", "10000000-0000-4000-8000-0000000000bb"),
        "parties.model-provider.azure.tenant",
        "subscriptions of one tenant",
    ),
    ("dev", put("parties.data-owner.gcp.number", ...), "parties.data-owner.gcp.number", "principal sets"),
    (
        "dev",
        put("parties.operator.azure.orchestrator", ...),
        "parties.operator.azure.orchestrator",
        "is missing",
    ),
    (
        "dev",
        put("parties.operator.aws.deployer", "arn:aws:iam::999999999999:role/deployer"),
        "parties.operator.aws.deployer",
        "not a role of account 444455556666",
    ),
    ("dev", put("stages.finetune.region", "cn-north-1"), "parties.operator.aws.deployer", "arn:aws-cn:iam"),
    ("dev", put("parties.operator.aws.account", "111122223333"), "artifacts.base.owner", "the same account"),
    (
        "dev",
        put("parties.operator.azure.subscription", "10000000-0000-4000-8000-000000000001"),
        "artifacts.corpus.owner",
        "the same subscription",
    ),
    (
        "dev",
        put("parties.operator.gcp.project", "mp-strongroom-dev"),
        "artifacts.base.owner",
        "the same project",
    ),
    ("dev", put("stages.finetune.operator", "model-provider"), "artifacts.base.owner", "allow-same-owner"),
    (
        "dev",
        [put("allow-same-owner", True), put("stages.finetune.operator", "model-provider")],
        "stages.finetune.opens[0]",
        "requires proof of owner-apart",
    ),
    # licences and proofs
    (
        "dev",
        put("stages.serve-open.kind", "fine-tuning"),
        "stages.serve-open.opens[0]",
        "no licence of open-base lets operator use it for fine-tuning",
    ),
    (
        "dev",
        put("artifacts.open-base.licences.community.holders", ["model-provider"]),
        "stages.serve-open.opens[0]",
        "community (model-provider: inference, evaluation)",
    ),
    (
        "dev",
        put("artifacts.open-base.licences.community.expires", "2020-01-31"),
        "artifacts.open-base.licences.community.expires",
        "ended on 2020-01-31",
    ),
    ("gpu", put("artifacts.base.release", "strict"), "stages.serve-azure.opens[0]", "choose azure-container"),
    ("gpu", put("artifacts.base.require", ["gpu"]), "stages.serve-aws.opens[0]", "requires proof of gpu"),
    ("dev", put("artifacts.base.require", ["gpu"]), "stages.finetune.opens[0]", "the stage has none"),
    # TEE, region and zone
    ("dev", put("stages.finetune.tee", "tdx"), "stages.finetune.tee", "choose nitro"),
    ("dev", put("stages.train.tee", "tdx"), "stages.train.tee", "azure-container does not offer tdx"),
    ("dev", put("stages.serve-open.tee", "sev"), "stages.serve-open.tee", "choose sev-snp or tdx"),
    ("dev", put("stages.serve.tee", "sev-snp"), "stages.serve.tee", "UNSUPPORTED_CC_TECHNOLOGY"),
    ("dev", put("stages.serve.tee", "nitro"), "stages.serve.tee", "choose sev or tdx"),
    (
        "dev",
        put("stages.finetune.region", "eu-centrl-1"),
        "stages.finetune.region",
        "for example eu-central-1",
    ),
    ("dev", put("stages.finetune.zones", ["eu-west-1a"]), "stages.finetune.zones[0]", "eu-central-1a"),
    ("dev", put("stages.train.region", "West Europe"), "stages.train.region", "for example westeurope"),
    ("dev", put("stages.train.region", "westindia"), "stages.train.region", "no shared attestation endpoint"),
    ("dev", put("stages.serve-open.zones", ["westeurope-1"]), "stages.serve-open.zones[0]", "in quotes"),
    ("dev", put("stages.serve.region", "europe-west4-a"), "stages.serve.region", "zones go under"),
    (
        "dev",
        put("stages.serve.region", "europe-west1"),
        "stages.serve.region",
        "choose one of: asia-northeast1",
    ),
    ("dev", put("stages.serve.zones", ["us-east4-a"]), "stages.serve.zones[0]", "not a zone of europe-west4"),
    (
        "gpu",
        put("stages.serve-google.zones", ["europe-west4-a"]),
        "stages.serve-google.zones[0]",
        "europe-west4-c",
    ),
    (
        "prod-azure",
        put("stages.serve-open.region", "uksouth"),
        "stages.serve-open.region",
        "not listed for TDX",
    ),
    (
        "dev",
        put("stages.train.authority", "https://own.weu.attest.azure.net"),
        "stages.train.authority-policy",
        "could loosen its policy",
    ),
    # machines of AWS
    ("dev", put("stages.finetune.machine", ...), "stages.finetune.machine", "for example m7i.xlarge"),
    ("dev", enclave(2, "8GiB", "t3.micro"), "stages.finetune.machine.type", "cannot host a Nitro Enclave"),
    ("dev", enclave(2, "8GiB", "m7i.large"), "stages.finetune.machine.type", "stay with the parent"),
    ("dev", enclave(2, "8GiB", "m7i.metal-24xl"), "stages.finetune.machine.type", "bare metal"),
    ("dev", enclave(2, "8GiB", "m7i.5xlarge"), "stages.finetune.machine.type", "for example m7i.xlarge"),
    ("dev", enclave(2, "8GiB", "m7g.medium"), "stages.finetune.machine.type", "too few vCPUs"),
    (
        "dev",
        enclave(2, "8GiB", "m7i-flex.xlarge"),
        "stages.finetune.machine.type",
        "cannot host a Nitro Enclave",
    ),
    ("dev", put("stages.finetune.machine.enclave", ...), "stages.finetune.machine.enclave", "cpus: 2"),
    ("dev", enclave(4, "8GiB"), "stages.finetune.machine.enclave.cpus", "2 must stay with the parent"),
    (
        "dev",
        enclave(3, "8GiB", "m7i.2xlarge"),
        "stages.finetune.machine.enclave.cpus",
        "whole number of cores",
    ),
    ("dev", enclave(2, "16GiB"), "stages.finetune.machine.enclave.memory", "at most 15GiB"),
    ("dev", enclave(2, "2500MiB"), "stages.finetune.machine.enclave.memory", "for example 3GiB"),
    (
        "dev",
        [enclave_image(size=512 * 1024**2), enclave(2, "1GiB")],
        "stages.finetune.machine.enclave.memory",
        "4 times the image",
    ),
    ("dev", put("stages.finetune.gpu", "H100"), "stages.finetune.gpu", "aws-nitrotpm"),
    (
        "dev",
        put("stages.finetune.machine.provisioning", "flex-start"),
        "stages.finetune.machine.provisioning",
        "belongs to Google Cloud",
    ),
    (
        "gpu",
        put("stages.serve-aws.machine.type", "p4d.24xlarge"),
        "stages.serve-aws.machine.type",
        "no NitroTPM",
    ),
    (
        "gpu",
        put("stages.serve-aws.machine.type", "m7i.xlarge"),
        "stages.serve-aws.machine.type",
        "has no GPU",
    ),
    ("gpu", put("stages.serve-aws.gpu", "H100"), "stages.serve-aws.gpu", "p5.4xlarge"),
    (
        "gpu",
        put("stages.serve-aws.machine.type", "g6e.metal"),
        "stages.serve-aws.machine.type",
        "no NitroTPM",
    ),
    (
        "gpu",
        put("stages.serve-aws.machine.enclave", {"cpus": 2, "memory": "4GiB"}),
        "stages.serve-aws.machine.enclave",
        "choose platform: aws-enclave",
    ),
    # machines of Azure
    ("dev", put("stages.serve-open.machine", ...), "stages.serve-open.machine", "Standard_DC4as_v6"),
    (
        "dev",
        put("stages.serve-open.machine.type", "Standard_D2as_v6"),
        "stages.serve-open.machine.type",
        "for example Standard_DC2as_v6",
    ),
    (
        "dev",
        put("stages.serve-open.machine.type", "Standard_DC4s_v3"),
        "stages.serve-open.machine.type",
        "SGX enclaves",
    ),
    (
        "dev",
        put("stages.serve-open.machine.type", "Standard_DC4es_v6"),
        "stages.serve-open.machine.type",
        "has tdx, not sev-snp",
    ),
    ("dev", put("stages.serve-open.gpu", "H100"), "stages.serve-open.machine.type", "no confidential GPU"),
    ("gpu", put("stages.serve-azure.image", "server"), "stages.serve-azure.image", "nobody attests the H100"),
    ("dev", put("stages.serve-open.image", "gpu-server"), "stages.serve-open.image", "opens nothing without"),
    ("gpu", put("stages.serve-azure.tee", "tdx"), "stages.serve-azure.machine.type", "set tee: sev-snp"),
    ("gpu", put("stages.serve-azure.gpu", ...), "stages.serve-azure.gpu", "must be attested"),
    ("gpu", put("stages.serve-azure.gpu", "B200"), "stages.serve-azure.gpu", "no confidential B200"),
    ("dev", put("stages.train.machine", {"type": "Standard_DC2as_v6"}), "stages.train.machine", "remove it"),
    ("dev", put("stages.train.gpu", "H100"), "stages.train.gpu", "Standard_NCC40ads_H100_v5"),
    # machines of Google Cloud
    ("dev", put("stages.serve.machine", ...), "stages.serve.machine", "c3-standard-4"),
    (
        "dev",
        put("stages.serve.machine.type", "c3-highmem-8"),
        "stages.serve.machine.type",
        "standard machines",
    ),
    ("dev", put("stages.serve.machine.type", "c3-standard-5"), "stages.serve.machine.type", "c3-standard-"),
    ("dev", put("stages.serve.machine.type", "n2d-standard-4"), "stages.serve.machine.type", "set tee: sev"),
    ("dev", put("stages.serve.machine.type", "c4-standard-8-lssd"), "stages.serve.machine.type", "local SSD"),
    ("dev", put("stages.serve.machine.type", "c4-standard-288"), "stages.serve.machine.type", "192 vCPUs"),
    (
        "dev",
        [put("stages.serve.tee", "sev"), put("stages.serve.machine.type", "c3d-standard-360")],
        "stages.serve.machine.type",
        "SEV ends at 255 vCPUs",
    ),
    ("dev", put("stages.serve.gpu", "H100"), "stages.serve.machine.type", "choose a3-highgpu-1g"),
    ("gpu", put("stages.serve-google.gpu", ...), "stages.serve-google.gpu", "must be attested"),
    (
        "gpu",
        put("stages.serve-google.machine", {"type": "a3-highgpu-1g"}),
        "stages.serve-google.machine.provisioning",
        "not sold on demand",
    ),
    (
        "gpu",
        put("stages.serve-google.machine.type", "a3-highgpu-8g"),
        "stages.serve-google.machine.type",
        "one at a time",
    ),
    (
        "gpu",
        put("stages.serve-google.machine.run-duration", "8d"),
        "stages.serve-google.machine.run-duration",
        "604800",
    ),
    (
        "gpu",
        put("stages.serve-google.machine.run-duration", "9m"),
        "stages.serve-google.machine.run-duration",
        "540 seconds",
    ),
    (
        "gpu",
        put("stages.serve-google.machine.run-duration", ...),
        "stages.serve-google.machine.run-duration",
        "is missing",
    ),
    (
        "gpu",
        put("stages.serve-google.machine.provisioning", "spot"),
        "stages.serve-google.machine.run-duration",
        "belongs to flex-start",
    ),
    ("gpu", put("stages.serve-google.region", "europe-west1"), "stages.serve-google.region", "us-central1"),
    (
        "dev",
        [google_vm(), put("stages.evaluate.region", "europe-west1")],
        "stages.evaluate.region",
        "c3-standard-4",
    ),
    (
        "dev",
        [
            google_vm(),
            put("stages.evaluate.tee", "sev-snp"),
            put("stages.evaluate.machine.type", "n2d-standard-4"),
        ],
        "stages.evaluate.tee",
        "no hwmodel for sev-snp",
    ),
    (
        "prod-azure",
        put("artifacts.open-base.licences.community.expires", "2099-01-01"),
        "artifacts.open-base.licences",
        "Key Vault also releases expired keys",
    ),
    (
        "prod-azure",
        put(
            "parties.operator.azure.registry",
            f"/subscriptions/{'1' * 36}/resourceGroups/g/providers/"
            "Microsoft.ContainerRegistry/registries/other",
        ),
        "parties.operator.azure.registry",
        "other.azurecr.io",
    ),
    (
        "gpu",
        put("parties.operator.azure.gpu-verifier", ...),
        "parties.operator.azure.gpu-verifier",
        "forward TCP",
    ),
    (
        "gpu",
        put("parties.operator.azure.gpu-verifier", "nras"),
        "parties.operator.azure.gpu-verifier",
        "has not the form",
    ),
    (
        "dev",
        space_image(reference=f"docker.io/library/server@{DIGEST}"),
        "images.server.gcp-confidential-space.reference",
        "is not Artifact Registry",
    ),
    # references and debug images
    ("dev", enclave_image(debug=True), "images.finetuner.aws-enclave", "debug image"),
    ("dev", enclave_image(reference="finetuner.eif"), "images.finetuner.aws-enclave.reference", "no digest"),
    (
        "dev",
        space_image(reference=f"europe-west4-docker.pkg.dev/op-runtime/kit/server-debug@{DIGEST}"),
        "images.server.gcp-confidential-space.reference",
        "debug image",
    ),
    (
        "dev",
        space_image(reference="registry.example/server:1.4"),
        "images.server.gcp-confidential-space.reference",
        "registry/name@sha256:",
    ),
    (
        "dev",
        container_image(reference="registry.example/trainer:latest"),
        "images.trainer.azure-container.reference",
        "whatever is latest",
    ),
    (
        "dev",
        vm_image(reference="Canonical:ubuntu-24_04-lts:cvm:latest"),
        "images.server.azure-cvm.reference",
        "whatever is latest",
    ),
    (
        "dev",
        google_vm(reference="projects/ubuntu-os-cloud/global/images/family/ubuntu-2404-lts-amd64"),
        "images.evaluator.gcp-cvm.reference",
        "image family",
    ),
    (
        "dev",
        google_vm(
            reference="projects/confidential-space-images/global/images/confidential-space-debug-260900"
        ),
        "images.evaluator.gcp-cvm.reference",
        "debug image",
    ),
    ("gpu", tpm_image(reference="al2023-ami-latest"), "images.server.aws-nitrotpm.reference", "ami-"),
    # measurements
    ("dev", enclave_image(measurements=None), "images.finetuner.aws-enclave.measurements", "add PCR0"),
    (
        "dev",
        enclave_image(measurements={"PCR0": "1" * 95}),
        "images.finetuner.aws-enclave.measurements.PCR0",
        "has 95 digits, not 96",
    ),
    (
        "dev",
        enclave_image(measurements={"PCR0": "A" * 96}),
        "images.finetuner.aws-enclave.measurements.PCR0",
        "not lower-case hex",
    ),
    (
        "dev",
        enclave_image(measurements={"PCR0": ZEROS}),
        "images.finetuner.aws-enclave.measurements.PCR0",
        "debug enclave",
    ),
    (
        "dev",
        enclave_image(measurements={"PCR3": ONES, "PCR4": ONES}),
        "images.finetuner.aws-enclave.measurements",
        "a debug enclave keeps PCR3 and PCR4",
    ),
    (
        "dev",
        enclave_image(measurements={"PCR2": PCR2_ONE_RAMDISK}),
        "images.finetuner.aws-enclave.measurements",
        "every image with one ramdisk",
    ),
    (
        "dev",
        enclave_image(measurements={"PCR0": ONES, "PCR7": ONES}),
        "images.finetuner.aws-enclave.measurements.PCR7",
        "known: PCR0, PCR1, PCR2, PCR3, PCR4, PCR8",
    ),
    (
        "dev",
        enclave_image(previous=[{"PCR0": ONES}, {"PCR0": ZEROS}]),
        "images.finetuner.aws-enclave.previous[1].PCR0",
        "all zero",
    ),
    ("dev", enclave_image(previous=[{}]), "images.finetuner.aws-enclave.previous[0]", "is empty"),
    (
        "gpu",
        tpm_image(measurements={"PCR4": ONES}),
        "images.server.aws-nitrotpm.measurements",
        "add PCR4 and PCR12 or PCR7",
    ),
    (
        "gpu",
        tpm_image(measurements={"PCR4": ONES, "PCR7": PCR7_SECURE_BOOT_OFF}),
        "images.server.aws-nitrotpm.measurements.PCR7",
        "Secure Boot off",
    ),
    (
        "gpu",
        tpm_image(measurements={"PCR4": ZEROS, "PCR12": ZEROS}),
        "images.server.aws-nitrotpm.measurements.PCR4",
        "all zero",
    ),
    (
        "dev",
        space_image(measurements={"image_digest": "cd" * 32}),
        "images.server.gcp-confidential-space.measurements.image_digest",
        "no sha256: before it",
    ),
    (
        "dev",
        space_image(measurements={"image_digest": "sha256:" + "cd" * 32}),
        "images.server.gcp-confidential-space.measurements.image_digest",
        "not the digest in the reference",
    ),
    (
        "dev",
        container_image(container_policy="cGFja2FnZSBwb2xpY3k="),
        "images.trainer.azure-container.measurements.hostdata",
        "not the SHA-256 of container-policy",
    ),
    ("dev", container_image(), "images.trainer.azure-container.container-policy", "is missing"),
    (
        "dev",
        container_image(container_policy="package policy"),
        "images.trainer.azure-container.container-policy",
        "not base64",
    ),
    (
        "dev",
        vm_image(measurements={"PCR4": ONES}),
        "images.server.azure-cvm.measurements.PCR4",
        "not a measurement that the key service compares",
    ),
]


def bad(case: tuple[str, Change | list[Change], str, str]) -> dict[str, Any]:
    changes = case[1] if isinstance(case[1], list) else [case[1]]
    return changed(stack(case[0]), *changes)


def run_program(config: dict[str, Any]) -> list[str]:
    """Names of what the real program asked the engine for, registered or invoked; raises what it raises."""
    asked: list[str] = []

    def resource(token: str, name: str, inputs: dict[str, Any]) -> dict[str, Any]:
        asked.append(name)
        return {}

    def invoke(token: str, arguments: dict[str, Any]) -> dict[str, Any]:
        asked.append(token)
        return {}

    try:
        record(
            lambda: runpy.run_path(str(PROJECT / "__main__.py")),
            config={"jewelhouse:lifecycle": json.dumps(config, default=str)},
            outputs=resource,
            call=invoke,
        )
    except pulumi.RunError as error:
        error.add_note(f"asked: {asked}")
        raise
    return asked


def ids() -> list[str]:
    return [f"{number}-{where}" for number, (_, _, where, _) in enumerate(BAD)]


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("dev", enclave_image()),
        ("gpu", tpm_image()),
        ("dev", space_image()),
        ("dev", vm_image()),
        ("dev", google_vm()),
        ("dev", enclave(2, "8GiB")),
    ],
)
def test_what_the_cases_change_is_good_before(name, change):
    parse(changed(stack(name), change), lock(), now=NOW)


def test_there_are_at_least_sixty_different_refusals():
    assert len({(where, says) for _, _, where, says in BAD}) >= 60


@pytest.mark.parametrize("case", BAD, ids=ids())
def test_it_is_refused_with_its_path_and_a_remedy(case):
    _, _, where, says = case
    with pytest.raises(InvalidLifecycle) as caught:
        parse(bad(case), lock(), now=NOW)
    here = [problem for problem in caught.value.problems if problem.where == where]
    assert here, str(caught.value)
    assert any(says in f"{problem.what}\n{problem.remedy}" for problem in here), str(caught.value)
    assert all(problem.remedy for problem in caught.value.problems), str(caught.value)


@pytest.mark.parametrize("case", BAD, ids=ids())
def test_the_program_registers_nothing_for_it(case):
    _, _, where, _ = case
    with pytest.raises(pulumi.RunError) as caught:
        run_program(bad(case))
    assert where in str(caught.value)
    assert "Traceback" not in str(caught.value)
    assert caught.value.__notes__ == ["asked: []"]


def test_the_program_deploys_a_good_one(monkeypatch):
    """Without this, the cases above would hold for a program that never registers anything."""

    def deploy(lifecycle: Lifecycle) -> dict[str, Any]:
        pulumi.CustomResource("test:index:Reached", lifecycle.name)
        return {}

    monkeypatch.setattr("jewelhouse.deploy.deploy", deploy)
    assert run_program(stack("dev")) == ["fraud-dev"]


def test_several_at_once_are_all_reported():
    config = changed(
        stack("dev"),
        opens("finetune", "bse"),
        put("artifacts.cases.owner", "data-ownr"),
        put("stages.finetune.machine.type", "t3.micro"),
        put("stages.finetune.region", "eu-centrl-1"),
        put("stages.serve.tee", "sev-snp"),
        put("stages.serve-open.machine.type", "Standard_D2as_v6"),
        put("parties.data-owner.gcp.number", ...),
        put("stages.train.platform", "azure-contaner"),
        tpm_image(measurements={"PCR4": "1"}),
        enclave_image(measurements={"PCR0": ZEROS}),
    )
    with pytest.raises(InvalidLifecycle) as caught:
        parse(config, lock(), now=NOW)
    assert {problem.where for problem in caught.value.problems} >= {
        "stages.finetune.opens[0]",
        "artifacts.cases.owner",
        "stages.finetune.machine.type",
        "stages.finetune.region",
        "stages.serve.tee",
        "stages.serve-open.machine.type",
        "parties.data-owner.gcp.number",
        "stages.train.platform",
        "images.finetuner.aws-enclave.measurements.PCR0",
    }
    for problem in caught.value.problems:
        assert str(problem) in str(caught.value)
