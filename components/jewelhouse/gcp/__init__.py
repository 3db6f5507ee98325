"""Google Cloud components: `from jewelhouse.gcp import AttestedKey, EnclaveHost, PrivateNetwork`."""

from jewelhouse.gcp.audit import AuditTrail, AuditTrailArgs
from jewelhouse.gcp.enclave import EnclaveHost, EnclaveHostArgs
from jewelhouse.gcp.gpu import ConfidentialGpu, ConfidentialGpuArgs
from jewelhouse.gcp.identity import Repository, WorkloadIdentity, WorkloadIdentityArgs
from jewelhouse.gcp.key import AttestedKey, AttestedKeyArgs, AttestedOnly, AttestedOnlyArgs, Principal
from jewelhouse.gcp.network import PrivateNetwork, PrivateNetworkArgs
from jewelhouse.gcp.store import SealedStore, SealedStoreArgs
from jewelhouse.gcp.verifier import GpuVerifierLink, GpuVerifierLinkArgs
from jewelhouse.gcp.vm import ConfidentialVm, ConfidentialVmArgs

__all__ = [
    "AttestedKey",
    "AttestedKeyArgs",
    "AttestedOnly",
    "AttestedOnlyArgs",
    "AuditTrail",
    "AuditTrailArgs",
    "ConfidentialGpu",
    "ConfidentialGpuArgs",
    "ConfidentialVm",
    "ConfidentialVmArgs",
    "EnclaveHost",
    "EnclaveHostArgs",
    "GpuVerifierLink",
    "GpuVerifierLinkArgs",
    "Principal",
    "PrivateNetwork",
    "PrivateNetworkArgs",
    "Repository",
    "SealedStore",
    "SealedStoreArgs",
    "WorkloadIdentity",
    "WorkloadIdentityArgs",
]
