"""AWS: the components of a lifecycle, importable one by one."""

from jewelhouse.aws.audit import AuditTrail, AuditTrailArgs
from jewelhouse.aws.enclave import EnclaveHost, EnclaveHostArgs
from jewelhouse.aws.endpoints import Traffic
from jewelhouse.aws.gpu import ConfidentialGpu, ConfidentialGpuArgs
from jewelhouse.aws.identity import (
    WorkloadIdentity,
    WorkloadIdentityArgs,
    WorkloadPermissions,
    WorkloadPermissionsArgs,
)
from jewelhouse.aws.key import AttestedKey, AttestedKeyArgs
from jewelhouse.aws.network import PrivateNetwork, PrivateNetworkArgs
from jewelhouse.aws.store import SealedStore, SealedStoreArgs
from jewelhouse.aws.vm import ConfidentialVm, ConfidentialVmArgs

__all__ = [
    "AttestedKey",
    "AttestedKeyArgs",
    "AuditTrail",
    "AuditTrailArgs",
    "ConfidentialGpu",
    "ConfidentialGpuArgs",
    "ConfidentialVm",
    "ConfidentialVmArgs",
    "EnclaveHost",
    "EnclaveHostArgs",
    "PrivateNetwork",
    "PrivateNetworkArgs",
    "SealedStore",
    "SealedStoreArgs",
    "Traffic",
    "WorkloadIdentity",
    "WorkloadIdentityArgs",
    "WorkloadPermissions",
    "WorkloadPermissionsArgs",
]
