"""Confidential VMs on Google Cloud in a rehearsal: their tokens name no image and say nothing of debugging,
so neither is stopped."""

from __future__ import annotations

from jewelhouse.rehearsal import on_gcp
from jewelhouse.rehearsal.on_gcp import services as services
from jewelhouse.rehearsal.services import Wrong

WRONG = tuple(one for one in on_gcp.WRONG if one not in (Wrong.DEBUG, Wrong.IMAGE))
