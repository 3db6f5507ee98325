"""Snapshots from what the engine knows of a stack: its export, a saved plan, a preview in JSON.

`pulumi stack export`, `pulumi preview --save-plan FILE` and `pulumi preview --json` hold two accounts of the
same keys: the stack's output `policies`, and the resources themselves. The resources are what is deployed, so
they are believed; the output says what is not in them (stages, proofs) and stands in for inputs that are not
known before the deployment. Rights that somebody attached to a key beside the kit are read too.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from jewelhouse.errors import JewelhouseError
from jewelhouse.model import Cloud, Proof
from jewelhouse.release import attachments, documents
from jewelhouse.release.facts import Facts
from jewelhouse.release.proofs import State
from jewelhouse.release.resources import UNKNOWN, Resource, plain, read
from jewelhouse.release.snapshots import KeyView, Snapshot, facts_of, weakenings

COMPONENT = re.compile(r"jewelhouse:(aws|azure|gcp):AttestedKey")
KEYS: Mapping[str, Cloud] = {
    "aws:kms/key:Key": Cloud.AWS,
    "azure-native:keyvault:Key": Cloud.AZURE,
    "gcp:kms/cryptoKey:CryptoKey": Cloud.GCP,
}
PROVIDER = "gcp:iam/workloadIdentityPoolProvider:WorkloadIdentityPoolProvider"
# How components of Google's keys are called (jewelhouse.gcp.provision).
SHORT = {"space": "gcp-confidential-space", "vm": "gcp-cvm"}


def recognised(value: Any) -> bool:
    """Whether a JSON value is an export, a plan or a preview of the engine."""
    return isinstance(value, dict) and bool({"deployment", "resourcePlans", "steps"} & value.keys())


def snapshot(source: str, value: Mapping[str, Any]) -> Snapshot:
    """The snapshot in what the engine printed.

    Raises JewelhouseError when it has no attested key, or when what decides over a release is a secret.
    """
    state = read(value, source)
    outputs = state.outputs
    stages = _object(outputs.get("stages"))
    views = _from_outputs(source, outputs, stages)
    for component, members in _components(state.resources).items():
        name = _name(component, members, views)
        view = _from_resources(source, name, component, members, state.resources, views.get(name))
        if view is not None:
            views[name] = view
        elif component.gone:
            views.pop(name, None)
    if not views:
        raise JewelhouseError(
            "has no attested key",
            where=source,
            remedy="give the export, plan or preview of a stack with keys of this kit",
        )
    lifecycle = _object(outputs.get("lifecycle"))
    settings = [str(name) for name in lifecycle.get("weakened", ()) or ()]
    images = {name: _object(_object(stage).get("image")) for name, stage in stages.items()}
    return Snapshot(
        source=source,
        keys=views,
        weakened=weakenings(settings, (str(one.get("name")) for one in images.values() if one.get("declared"))),
        identities={
            identity: name
            for name, stage in stages.items()
            if isinstance(identity := _object(stage).get("identity"), str) and identity != UNKNOWN
        },
        images=dict(_digests(views.values(), images)),
        deployed=state.whole,
    )


def _digests(views: Iterable[KeyView], images: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Measurements by the name of their image, where a key has the stages of one image alone."""
    from jewelhouse.release.words import register

    for view in views:
        named = {str(images[stage].get("name")) for stage in view.proofs if images.get(stage)}
        if len(named) == 1:
            for opening in view.facts.openings:
                for path, value in opening.claims.items():
                    if value and register(path) and set(value) != {"0"}:
                        yield value, next(iter(named))


def _from_outputs(source: str, outputs: Mapping[str, Any], stages: Mapping[str, Any]) -> dict[str, KeyView]:
    """The keys in the output `policies`."""
    found = {}
    for name, policy in _object(outputs.get("policies")).items():
        where = f"{source}: policies.{name}"
        try:
            cloud = Cloud(str(policy["platform"]).split("-")[0])
            gates = {str(gate["stage"]): gate for gate in policy["gates"]}
            proofs = {
                stage: {Proof(proof): State(state) for proof, state in gate["proofs"].items()}
                for stage, gate in gates.items()
            }
            document = policy["document"]
            if UNKNOWN in json.dumps(document):
                raise JewelhouseError("is not known before the deployment", where=where)
            found[name] = KeyView(
                name=name,
                artifact=str(policy["artifact"]),
                cloud=cloud,
                platform=str(policy["platform"]),
                region=str(policy["region"]),
                owner=policy.get("owner"),
                document=document,
                facts=facts_of(cloud, document),
                askers={stage: _subscription(gate, stages.get(stage)) for stage, gate in gates.items()}
                if cloud is Cloud.AZURE
                else {},
                proofs=proofs,
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise JewelhouseError(
                f"is not what this kit puts out: {error!r:.120}",
                where=where,
                remedy="give what `pulumi stack export` or `pulumi preview --save-plan` wrote, unchanged",
            ) from error
    return found


def _subscription(gate: Mapping[str, Any], stage: Any) -> str | None:
    if isinstance(gate.get("account"), str):
        return gate["account"]
    found = re.match(r"/subscriptions/([^/]+)/", str(_object(stage).get("host")))
    return found[1].lower() if found else None


def _components(resources: Iterable[Resource]) -> dict[Resource, list[Resource]]:
    """Attested keys with their children; a key of the clouds that has an attested policy and no such parent
    stands for itself."""
    resources = list(resources)
    components = {one.urn: one for one in resources if COMPONENT.fullmatch(one.type)}
    found: dict[Resource, list[Resource]] = {one: [] for one in components.values()}
    for one in resources:
        if one.parent in components:
            found[components[one.parent]].append(one)
    for one in resources:
        if one.parent not in components and not one.gone and _attested(one):
            found[one] = [one]
    return found


def _attested(resource: Resource) -> bool:
    """Whether a key, made beside the kit, is one that releases to attested code."""
    cloud = KEYS.get(resource.type)
    if cloud is Cloud.AWS:
        return "kms:RecipientAttestation" in str(resource.inputs.get("policy"))
    return cloud is Cloud.AZURE and bool(_release_policy(resource))


def _name(component: Resource, members: Iterable[Resource], known: Mapping[str, KeyView]) -> str:
    """What the stack calls the key of a component."""
    artifact, region = _artifact(members), component.name
    if component.name in known:
        return component.name
    fitting = [
        view.name
        for view in known.values()
        if view.artifact == artifact
        and component.type == f"jewelhouse:{view.cloud}:AttestedKey"
        and (component.name.endswith(view.name) or _short_name(view) == component.name)
    ]
    if len(fitting) == 1:
        return fitting[0]
    # Names are cut where a cloud takes few characters: what is left to go by are artifact and cloud.
    alone = [
        view.name
        for view in known.values()
        if view.artifact == artifact and component.type == f"jewelhouse:{view.cloud}:AttestedKey"
    ]
    if len(alone) == 1 and artifact:
        return alone[0]
    for member in members:
        text = member.inputs.get("policy")
        found = re.search(r'"Id": ?"([^"]+)"', text) if isinstance(text, str) else None
        if found and component.name.endswith(found[1]):
            return found[1]
    short = re.fullmatch(rf"{re.escape(artifact)}-(space|vm)-(.+)", component.name) if artifact else None
    return f"{artifact}-{SHORT[short[1]]}-{short[2]}" if short else region


def _short_name(view: KeyView) -> str:
    short = {platform: word for word, platform in SHORT.items()}.get(view.platform, view.platform)
    return f"{view.artifact}-{short}-{view.region}"


def _artifact(members: Iterable[Resource]) -> str:
    for member in members:
        for labels in (_object(member.inputs.get("tags")), _object(member.inputs.get("labels"))):
            for name in ("jewelhouse:artifact", "jewelhouse-artifact", "artifact"):
                if member.type in KEYS and isinstance(labels.get(name), str):
                    return labels[name]
    return ""


def _from_resources(
    source: str,
    name: str,
    component: Resource,
    members: list[Resource],
    everything: Iterable[Resource],
    known: KeyView | None,
) -> KeyView | None:
    """A key as its resources make it; None where it is gone, or nothing of it is known."""
    key = next((one for one in members if one.type in KEYS and not one.gone), None)
    if key is None:
        return None
    cloud = KEYS[key.type]
    document = _document(source, name, cloud, key, members, known)
    if document is None:
        return known
    extra = attachments.of(cloud, key, everything, members)
    if cloud is Cloud.GCP:
        document = {**document, "bindings": [*document["bindings"], *extra.bindings]}
    if extra.document is not None:
        document = extra.document
    facts = facts_of(cloud, document)
    facts = Facts(
        openings=facts.openings,
        powers=facts.powers | extra.powers,
        undecided=(*facts.undecided, *extra.undecided),
    )
    if known is not None:
        askers = {**known.askers, **{who: None for who in extra.askers if who not in known.askers}}
        return dataclasses.replace(known, document=document, facts=facts, askers=askers)
    platform = name.removeprefix(f"{_artifact(members)}-") if _artifact(members) else ""
    found = next((word for word in _PLATFORMS if platform.startswith(word)), cloud.value)
    return KeyView(
        name=name,
        artifact=_artifact(members) or name,
        cloud=cloud,
        platform=found,
        region=platform.removeprefix(found).removeprefix("-"),
        owner=None,
        document=document,
        facts=facts,
        askers=dict.fromkeys(extra.askers),
        beside=not _artifact(members),
    )


_PLATFORMS = (
    "aws-enclave",
    "aws-nitrotpm",
    "azure-container",
    "azure-cvm",
    "gcp-confidential-space",
    "gcp-cvm",
)


def _document(
    source: str,
    name: str,
    cloud: Cloud,
    key: Resource,
    members: list[Resource],
    known: KeyView | None,
) -> dict[str, Any] | None:
    """The document on a key; None where it is not known before the deployment and the stack tells it."""
    where = f"{source}: {name}"
    if cloud is Cloud.GCP:
        return _google(members, known)
    text = key.value("policy") if cloud is Cloud.AWS else _release_policy(key)
    text = plain(text, where)
    if text is None or text == UNKNOWN:
        if known is None and text == UNKNOWN:
            raise JewelhouseError("its policy is not known before the deployment", where=where)
        return None
    return dict(documents.read(str(text), where, cloud).body)


def _release_policy(key: Resource) -> Any:
    """The `data` of a release policy, as an input or as the vault told it."""
    for place in (_object(key.inputs.get("properties")), key.outputs, _object(key.outputs.get("properties"))):
        found = place.get("releasePolicy")
        if isinstance(found, dict):
            return found.get("data", found)
    return None


def _google(members: list[Resource], known: KeyView | None) -> dict[str, Any] | None:
    """Provider and bindings of a key. Members that are made of unknown ids are those of the stack's output."""
    providers = [one for one in members if one.type == PROVIDER and not one.gone]
    if len(providers) != 1:
        return None
    provider = providers[0]
    oidc = _object(provider.value("oidc"))
    document: dict[str, Any] = {
        "issuer": oidc.get("issuerUri", ""),
        "audiences": oidc.get("allowedAudiences", []),
        "mapping": _object(provider.value("attributeMapping")),
        "condition": provider.value("attributeCondition") or "",
    }
    # Keys of an issuer's own, and a provider that is switched off, decide as well.
    document |= {"jwks": oidc["jwksJson"]} if oidc.get("jwksJson") not in (None, "", UNKNOWN) else {}
    document |= {"disabled": True} if provider.value("disabled") is True else {}
    if UNKNOWN in json.dumps(document):
        return None
    bindings: dict[tuple[str, str], list[str]] = defaultdict(list)
    for one in members:
        if one.type in attachments.MEMBERS and not one.gone:
            for role, member, condition in attachments.bound(one):
                bindings[role, condition].append(member)
    if any(UNKNOWN in member for found in bindings.values() for member in found):
        if known is None:
            return None
        return {**document, "bindings": list(known.document.get("bindings", ()))}
    return {
        **document,
        "bindings": [
            {"role": role, "members": found} | ({"condition": {"expression": condition}} if condition else {})
            for (role, condition), found in sorted(bindings.items())
        ],
    }


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
