from __future__ import annotations

from jewelhouse.azure import WorkloadIdentity, WorkloadIdentityArgs


def test_a_stage_runs_as_an_identity_of_its_own_without_any_role(recorded) -> None:
    args = WorkloadIdentityArgs(location="westeurope", resource_group="group", identity_name="llm-train")
    recording = recorded(lambda: WorkloadIdentity("train", args))
    identity = recording.one("azure-native:managedidentity:UserAssignedIdentity")
    assert identity.parent_name == "train"
    assert identity.inputs["resourceName"] == "llm-train"
    assert not recording.of_type("azure-native:authorization:RoleAssignment")
    (outputs,) = recording.component_outputs[recording.components[0].urn]
    assert set(outputs) == {"id", "principal", "client"}
    assert outputs["principal"] != outputs["client"], "roles go to the principal, tokens name the client"
