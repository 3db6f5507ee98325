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
from dataclasses import dataclass
from typing import Any

from jewelhouse.errors import JewelhouseError
from jewelhouse.model import Cloud, Platform, Proof
from jewelhouse.release import attachments, documents, google_keys
from jewelhouse.release.attachments import ASSIGNMENT
from jewelhouse.release.facts import Facts
from jewelhouse.release.proofs import State
from jewelhouse.release.resources import UNKNOWN, EngineState, Resource, plain, read
from jewelhouse.release.snapshots import KeyView, Snapshot, facts_of, weakenings
from jewelhouse.release.words import register

COMPONENT = re.compile(r"jewelhouse:(aws|azure|gcp):AttestedKey")
KEYS: Mapping[str, Cloud] = {
    "aws:kms/key:Key": Cloud.AWS,
    "azure-native:keyvault:Key": Cloud.AZURE,
    "gcp:kms/cryptoKey:CryptoKey": Cloud.GCP,
}
# How components of Google's keys are called (jewelhouse.gcp.provision).
SHORT = {"space": "gcp-confidential-space", "vm": "gcp-cvm"}


def recognised(value: Any) -> bool:
    """Whether a JSON value is an export, a plan or a preview of the engine."""
    return isinstance(value, dict) and bool({"deployment", "resourcePlans", "steps"} & value.keys())


def snapshot(source: str, value: Mapping[str, Any]) -> Snapshot:
    """The snapshot in what the engine printed.

    Raises JewelhouseError when it has no attested key, when what decides over a release is a secret, and for
    a file in another form than the engine's.
    """
    try:
        return _snapshot(source, value)
    except (KeyError, IndexError, TypeError, AttributeError, ValueError, RecursionError) as error:
        # Types of a state are the engine's to keep: where one is another, the file is not its own.
        raise JewelhouseError(
            f"is not what the engine writes: {error!r:.120}",
            where=source,
            remedy="pulumi stack export, pulumi preview --save-plan FILE, pulumi preview --json",
        ) from error


def _snapshot(source: str, value: Mapping[str, Any]) -> Snapshot:
    state = read(value, source)
    outputs = state.outputs
    stages = _object(outputs.get("stages"))
    views = _from_outputs(source, outputs, stages)
    used: set[str] = set()
    for component in _components(state.resources):
        name = _name(component, views)
        view = _from_resources(f"{source}: {name}", name, component, state, views.get(name), used)
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
    images = {name: _object(_object(stage).get("image")) for name, stage in stages.items()}
    return Snapshot(
        source=source,
        keys=views,
        artifacts=state.artifacts,
        weakened=_weakened(outputs, images),
        identities={
            identity: name
            for identity, name in _identities(outputs, stages)
            if isinstance(identity, str) and identity != UNKNOWN
        },
        images=dict(_digests(views.values(), images)),
        deployed=state.whole,
        undecided=() if state.whole else tuple(attachments.loose(state.resources, used)),
    )


def _weakened(
    outputs: Mapping[str, Any], images: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, str] | None:
    if "lifecycle" not in outputs:
        return None
    settings = [str(name) for name in _object(outputs["lifecycle"]).get("weakened") or ()]
    return weakenings(settings, (str(one.get("name")) for one in images.values() if one.get("declared")))


def _identities(outputs: Mapping[str, Any], stages: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    """Roles and service accounts by stage. Those of gates are known before the deployment."""
    for name, stage in stages.items():
        yield _object(stage).get("identity"), name
    for policy in _object(outputs.get("policies")).values():
        for gate in policy["gates"]:
            yield gate.get("identity"), str(gate["stage"])


def _digests(views: Iterable[KeyView], images: Mapping[str, Mapping[str, Any]]) -> Iterator[tuple[str, str]]:
    """Measurements by the name of their image, where a key has the stages of one image alone."""
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


@dataclass(frozen=True, kw_only=True)
class Component:
    """An attested key as a component with its children, or a key beside the kit that stands for itself."""

    name: str
    cloud: Cloud
    members: tuple[Resource, ...]
    gone: bool

    @property
    def key(self) -> Resource | None:
        return next((one for one in self.members if one.type in KEYS and not one.gone), None)

    @property
    def artifact(self) -> str:
        """The artifact that the key is labelled with."""
        for member in (one for one in self.members if one.type in KEYS):
            for labels in (_object(member.inputs.get("tags")), _object(member.inputs.get("labels"))):
                for name in ("jewelhouse:artifact", "jewelhouse-artifact", "artifact"):
                    if isinstance(labels.get(name), str):
                        return labels[name]
        return ""

    def of_type(self, *types: str) -> list[Resource]:
        return [one for one in self.members if one.type in types and not one.gone]


def _components(resources: Iterable[Resource]) -> Iterator[Component]:
    """Attested keys with their children, by the parent that each names: a preview in JSON leaves out the
    components themselves when they stay the same."""
    children: dict[str, list[Resource]] = defaultdict(list)
    for one in resources:
        parent = one.parent.split("::") if one.parent else []
        if len(parent) == 4 and COMPONENT.fullmatch(parent[2].rpartition("$")[2]):
            children[one.parent].append(one)
        elif not one.gone and _attested(one):
            yield Component(name=one.name, cloud=KEYS[one.type], members=(one,), gone=False)
    for urn, members in children.items():
        found = COMPONENT.fullmatch(urn.split("::")[2].rpartition("$")[2])
        keys = [one for one in members if one.type in KEYS]
        yield Component(
            name=urn.split("::")[3],
            cloud=Cloud(found[1]) if found else KEYS[keys[0].type],
            members=tuple(members),
            gone=bool(keys) and all(one.gone for one in keys),
        )


def _attested(resource: Resource) -> bool:
    """Whether a key, made beside the kit, is one that releases to attested code."""
    cloud = KEYS.get(resource.type)
    if cloud is Cloud.AWS:
        return "kms:RecipientAttestation" in str(resource.inputs.get("policy"))
    return cloud is Cloud.AZURE and bool(_release_policy(resource))


def _name(component: Component, known: Mapping[str, KeyView]) -> str:
    """What the stack calls the key of a component."""
    if component.name in known:
        return component.name
    artifact = component.artifact
    views = [view for view in known.values() if view.cloud is component.cloud]
    exact = [
        view.name
        for view in views
        if component.name.endswith(view.name) or _short_name(view) == component.name
    ]
    # Names are cut where a cloud takes few characters: what is left to go by are artifact and cloud.
    alike = exact or [view.name for view in views if artifact and view.artifact == artifact]
    if len(alike) == 1:
        return alike[0]
    for member in component.of_type(*KEYS):
        text = member.inputs.get("policy")
        found = re.search(r'"Id": ?"([^"]+)"', text) if isinstance(text, str) else None
        if found and component.name.endswith(found[1]):
            return found[1]
    short = re.fullmatch(rf"{re.escape(artifact)}-(space|vm)-(.+)", component.name) if artifact else None
    return f"{artifact}-{SHORT[short[1]]}-{short[2]}" if short else component.name


def _short_name(view: KeyView) -> str:
    short = {platform: word for word, platform in SHORT.items()}.get(view.platform, view.platform)
    return f"{view.artifact}-{short}-{view.region}"


def _from_resources(
    where: str,
    name: str,
    component: Component,
    state: EngineState,
    known: KeyView | None,
    used: set[str],
) -> KeyView | None:
    """A key as its resources make it; None where it is gone, or nothing of it changes."""
    if component.gone or (component.key is None and component.cloud is not Cloud.GCP):
        return None
    extra = attachments.of(component.cloud, component.key, component.members, state)
    used |= extra.used
    if component.cloud is Cloud.GCP:
        document, undecided = google_keys.document(component.members, known, whole=state.whole)
        document["bindings"] = [*document["bindings"], *extra.bindings]
    else:
        document, undecided = _document(where, component, known), ()
    if extra.document is not None:
        document = extra.document
    facts = facts_of(component.cloud, document)
    facts = Facts(
        openings=facts.openings,
        powers=facts.powers | extra.powers,
        undecided=(*facts.undecided, *undecided, *extra.undecided),
    )
    if known is not None:
        askers = {**known.askers, **{who: None for who in extra.askers if who not in known.askers}}
        return dataclasses.replace(known, document=document, facts=facts, askers=askers)
    platform, region = _place(name.removeprefix(f"{component.artifact}-"))
    own = [one.name.removeprefix(f"{component.name}-release-") for one in component.of_type(ASSIGNMENT)]
    asking = [
        stage for stage in own if f"{component.name}-release-{stage}" in {m.name for m in component.members}
    ]
    return KeyView(
        name=name,
        artifact=component.artifact or name,
        cloud=component.cloud,
        platform=platform or component.cloud.value,
        region=region,
        owner=None,
        document=document,
        facts=facts,
        askers=dict.fromkeys((*asking, *extra.askers)),
        beside=not component.artifact,
    )


def _place(text: str) -> tuple[str, str]:
    """Platform and region from what follows the artifact in the name of a key."""
    found = next((str(one) for one in Platform if text.startswith(f"{one}-")), "")
    return found, text.removeprefix(f"{found}-") if found else ""


def _document(where: str, component: Component, known: KeyView | None) -> dict[str, Any]:
    """The document on a key; the one of the stack's output where an input is not known yet."""
    key = component.key
    text = None
    if key is not None:
        text = key.value("policy") if component.cloud is Cloud.AWS else _release_policy(key)
    text = plain(text, where)
    if isinstance(text, str) and text != UNKNOWN:
        return dict(documents.read(text, where, component.cloud).body)
    if known is not None:
        return dict(known.document)
    raise JewelhouseError(
        "its policy is not known before the deployment" if text == UNKNOWN else "the key has no policy",
        where=where,
    )


def _release_policy(key: Resource) -> Any:
    """The `data` of a release policy, as an input or as the vault told it."""
    for place in (_object(key.inputs.get("properties")), key.outputs, _object(key.outputs.get("properties"))):
        found = place.get("releasePolicy")
        if isinstance(found, dict):
            return found.get("data", found)
    return None


def _object(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
