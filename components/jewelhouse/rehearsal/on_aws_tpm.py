"""Instances with a NitroTPM in a rehearsal: they have no debug mode, so no evidence of one."""

from __future__ import annotations

from jewelhouse.rehearsal import on_aws
from jewelhouse.rehearsal.on_aws import services as services
from jewelhouse.rehearsal.services import Wrong

WRONG = tuple(one for one in on_aws.WRONG if one is not Wrong.DEBUG)
