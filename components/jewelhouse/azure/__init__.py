"""Azure components, importable one by one."""

from jewelhouse.azure.audit import AuditTrail, AuditTrailArgs
from jewelhouse.azure.enclave import EnclaveHost, EnclaveHostArgs
from jewelhouse.azure.gpu import ConfidentialGpu
from jewelhouse.azure.identity import WorkloadIdentity, WorkloadIdentityArgs
from jewelhouse.azure.key import AttestedKey, AttestedKeyArgs, Vault, VaultArgs
from jewelhouse.azure.network import PrivateLink, PrivateLinkArgs, PrivateNetwork, PrivateNetworkArgs
from jewelhouse.azure.store import SealedStore, SealedStoreArgs
from jewelhouse.azure.verifier import GpuVerifierLink, GpuVerifierLinkArgs
from jewelhouse.azure.vm import ConfidentialVm, ConfidentialVmArgs, DiskEncryption, DiskEncryptionArgs

__all__ = [
    "AttestedKey",
    "AttestedKeyArgs",
    "AuditTrail",
    "AuditTrailArgs",
    "ConfidentialGpu",
    "ConfidentialVm",
    "ConfidentialVmArgs",
    "DiskEncryption",
    "DiskEncryptionArgs",
    "EnclaveHost",
    "EnclaveHostArgs",
    "GpuVerifierLink",
    "GpuVerifierLinkArgs",
    "PrivateLink",
    "PrivateLinkArgs",
    "PrivateNetwork",
    "PrivateNetworkArgs",
    "SealedStore",
    "SealedStoreArgs",
    "Vault",
    "VaultArgs",
    "WorkloadIdentity",
    "WorkloadIdentityArgs",
]
