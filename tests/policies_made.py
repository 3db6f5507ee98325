"""Release policies of every kind, for property tests."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import strategies as st

from jewelhouse.model import (
    Account,
    AttestedKey,
    AwsAccount,
    AzureAccount,
    Cloud,
    GcpAccount,
    Measurements,
    Platform,
    Tee,
)
from jewelhouse.release.policy import Gate, ReleasePolicy

TEES = {
    Platform.AZURE_CVM: (Tee.SEV_SNP, Tee.TDX),
    Platform.AZURE_CONTAINER: (Tee.SEV_SNP,),
    Platform.AWS_ENCLAVE: (Tee.NITRO,),
    Platform.AWS_NITROTPM: (Tee.NITRO,),
    Platform.GCP_CONFIDENTIAL_SPACE: (Tee.TDX, Tee.SEV),
    Platform.GCP_CVM: (Tee.TDX, Tee.SEV),
}
REGIONS = {Cloud.AWS: "eu-central-1", Cloud.AZURE: "westeurope", Cloud.GCP: "europe-west4"}
names = st.from_regex(r"[a-z][a-z0-9]{1,6}(-[a-z0-9]{1,4})?", fullmatch=True)
digits = "0123456789abcdef"


def digest(length: int) -> st.SearchStrategy[str]:
    """Hex digests that are never a constant of their format, such as all zeros."""
    return st.text(digits, min_size=8, max_size=8).map(lambda head: "1f" + head + "a" * (length - 10))


def measurements(platform: Platform) -> st.SearchStrategy[Measurements]:
    if platform is Platform.AWS_ENCLAVE:
        values = st.fixed_dictionaries({"PCR0": digest(96), "PCR1": digest(96), "PCR2": digest(96)})
    elif platform is Platform.AWS_NITROTPM:
        values = st.fixed_dictionaries({"PCR4": digest(96), "PCR12": st.just("0" * 96)})
    elif platform is Platform.AZURE_CONTAINER:
        values = st.fixed_dictionaries({"hostdata": digest(64)})
    else:
        values = st.fixed_dictionaries({"image_digest": digest(64).map("sha256:{}".format)})
    return values.map(lambda found: Measurements(values=found))


def account(cloud: Cloud, number: int) -> Account:
    if cloud is Cloud.AWS:
        owner = f"{number:012d}"
        return AwsAccount(account=owner, deployer=f"arn:aws:iam::{owner}:role/jewelhouse-deployer")
    if cloud is Cloud.AZURE:
        return AzureAccount(
            subscription=f"00000000-0000-0000-0000-{number:012d}",
            tenant="11111111-0000-0000-0000-000000000000",
        )
    return GcpAccount(project=f"project-{number}", number=str(number + 100000000000))


@st.composite
def gates(draw: st.DrawFn, platform: Platform, stage: str, *, ends: bool) -> Gate:
    cloud = platform.cloud
    number = draw(st.integers(2, 4))
    bound = platform not in (Platform.AZURE_CVM, Platform.GCP_CVM)
    found = draw(st.lists(measurements(platform), min_size=1, max_size=2, unique=True)) if bound else []
    where = account(cloud, number)
    identity = None
    if isinstance(where, AwsAccount):
        identity = f"arn:aws:iam::{where.account}:role/flow-{stage}"
    elif isinstance(where, GcpAccount):
        identity = f"flow-{stage}@{where.project}.iam.gserviceaccount.com"
    end = draw(st.none() | st.sampled_from([2027, 2028])) if ends and cloud is not Cloud.AZURE else None
    space = platform is Platform.GCP_CONFIDENTIAL_SPACE
    tee = draw(st.sampled_from(TEES[platform]))
    return Gate(
        stage=stage,
        platform=platform,
        tee=tee,
        account=where,
        measurements=tuple(found),
        identity=identity,
        gpu=draw(st.sampled_from([None, "H100"])) if space and tee is Tee.TDX else None,
        not_after=datetime(end, 1, 1, tzinfo=UTC) if end else None,
    )


@st.composite
def policies(
    draw: st.DrawFn, platforms: tuple[Platform, ...] = tuple(Platform), *, ends: bool = True
) -> ReleasePolicy:
    """Policies that compile: one to four gates of one platform, roll-outs, licences that end."""
    platform = draw(st.sampled_from(platforms))
    stages = draw(st.lists(names, min_size=1, max_size=4, unique=True))
    return ReleasePolicy(
        key=AttestedKey(draw(names), platform, REGIONS[platform.cloud]),
        owner=account(platform.cloud, 1),
        gates=tuple(draw(gates(platform, stage, ends=ends)) for stage in sorted(stages)),
    )
