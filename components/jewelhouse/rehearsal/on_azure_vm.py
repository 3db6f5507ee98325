"""Confidential VMs on Azure in a rehearsal: Key Vault sees no image of theirs, so another is not stopped."""

from __future__ import annotations

from jewelhouse.rehearsal import on_azure
from jewelhouse.rehearsal.on_azure import services as services
from jewelhouse.rehearsal.services import Wrong

WRONG = tuple(one for one in on_azure.WRONG if one is not Wrong.IMAGE)
