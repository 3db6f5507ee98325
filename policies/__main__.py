"""Starts the policy pack; only this file may, because the constructor serves until the engine is done."""

from guardrails import policies
from pulumi_policy import EnforcementLevel, PolicyPack

PolicyPack(name="jewelhouse", policies=policies(), enforcement_level=EnforcementLevel.MANDATORY)
