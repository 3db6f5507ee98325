"""What is inside an image, as a CycloneDX bill of materials: packages with the digests of their files.

The same image has the same bill: its serial number comes from the content, its time is the image's own.
cyclonedx.org/docs/1.6/json; purl types deb and pypi: github.com/package-url/purl-spec.
"""

# The library's classes are made by decorators that hide what they are from type checkers.
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from uuid import NAMESPACE_URL, UUID, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.model.contact import OrganizationalEntity
from cyclonedx.model.lifecycle import LifecyclePhase, PredefinedLifecycle
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from jewelhouse import __version__
from jewelhouse.images.assemble import Assembled
from jewelhouse.images.recipe import Recipe
from jewelhouse.images.tree import Kind
from jewelhouse.model import Platform

NOTHING: Mapping[str, str] = MappingProxyType({})
# Images that boot a kernel of their own.
BOOT = (Platform.AWS_ENCLAVE, Platform.AWS_NITROTPM, Platform.AZURE_CVM, Platform.GCP_CVM)


def document(
    recipe: Recipe,
    platform: Platform,
    assembled: Assembled,
    kernel: Mapping[str, str] = NOTHING,
    *,
    digest: str,
) -> bytes:
    """The bill of the image whose digest is `digest` (`sha256:…`), in canonical JSON.

    `kernel`: packages besides, from names to `version sha256:digest`.
    """
    bom = Bom(components=_components(recipe, assembled, kernel), serial_number=UUID(int=0), version=1)
    bom.metadata.timestamp = datetime.fromtimestamp(recipe.epoch, UTC)
    bom.metadata.lifecycles.add(PredefinedLifecycle(phase=LifecyclePhase.BUILD))
    bom.metadata.tools.components.add(
        Component(name="jewelhouse", version=__version__, type=ComponentType.APPLICATION)
    )
    bom.metadata.component = Component(
        name=recipe.name,
        version=recipe.digest,
        type=ComponentType.OPERATING_SYSTEM if platform in BOOT else ComponentType.CONTAINER,
        description=recipe.settings.description or None,
        bom_ref=f"{recipe.name}@{recipe.digest}",
        hashes=[_sha256(digest.removeprefix("sha256:"))],
        properties=[Property(name="jewelhouse:platform", value=platform.value)],
    )
    bom.register_dependency(bom.metadata.component, bom.components)
    value = json.loads(JsonV1Dot6(bom).output_as_string())
    del value["serialNumber"]
    said = json.dumps(value, sort_keys=True)
    value["serialNumber"] = uuid5(NAMESPACE_URL, f"jewelhouse:sbom:{said}").urn
    return json.dumps(value, sort_keys=True, indent=1).encode() + b"\n"


def _components(recipe: Recipe, assembled: Assembled, kernel: Mapping[str, str]) -> Iterator[Component]:
    suite = recipe.settings.suite
    for one in assembled.packages:
        where = {"arch": one.architecture, "distro": suite}
        yield _package(one.sha256, PackageURL("deb", "debian", one.name, one.version, where))
    for name, said in kernel.items():
        version, _, digest = said.partition(" sha256:")
        # The kernel's own digest stands among them without a version.
        if digest:
            yield _package(digest, PackageURL("deb", "debian", name, version, {"distro": suite}))
    for one in assembled.wheels:
        yield _package(one.sha256, PackageURL("pypi", None, one.name, one.version))
    for entry in assembled.layers[-1].values():
        if entry.kind is Kind.FILE:
            state = hashlib.sha256()
            for data in entry.chunks():
                state.update(data)
            yield Component(
                name=f"/{entry.path}",
                type=ComponentType.FILE,
                bom_ref=f"/{entry.path}",
                hashes=[_sha256(state.hexdigest())],
            )


def _package(digest: str, url: PackageURL) -> Component:
    return Component(
        name=url.name,
        version=url.version,
        type=ComponentType.LIBRARY,
        supplier=OrganizationalEntity(name="Debian") if url.type == "deb" else None,
        purl=url,
        bom_ref=url.to_string(),
        hashes=[_sha256(digest)],
    )


def _sha256(digits: str) -> HashType:
    return HashType(alg=HashAlgorithm.SHA_256, content=digits)
