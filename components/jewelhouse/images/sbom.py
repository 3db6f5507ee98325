"""What is inside an image, as a CycloneDX bill of materials: packages with the digests of their files.

The same image has the same bill: its serial number comes from the content, its time is the image's own.
cyclonedx.org/docs/1.6/json; purl types deb and pypi: github.com/package-url/purl-spec.
"""

# The library's classes are made by decorators that hide what they are from type checkers.
# pyright: reportCallIssue=false, reportArgumentType=false, reportAttributeAccessIssue=false
from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from uuid import NAMESPACE_URL, uuid5

from cyclonedx.model import HashAlgorithm, HashType, Property
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from packageurl import PackageURL

from jewelhouse.images.assemble import Assembled
from jewelhouse.images.recipe import Recipe
from jewelhouse.images.tree import Kind
from jewelhouse.model import Platform


NOTHING: Mapping[str, str] = MappingProxyType({})


def document(
    recipe: Recipe, platform: Platform, assembled: Assembled, kernel: Mapping[str, str] = NOTHING
) -> bytes:
    """The bill in canonical JSON. `kernel`: packages besides, from names to `version sha256:digest`."""
    components = sorted(_components(recipe, assembled, kernel), key=lambda one: str(one.bom_ref.value))
    said = json.dumps([recipe.digest, platform, [str(one.bom_ref.value) for one in components]])
    bom = Bom(
        components=components,
        serial_number=uuid5(NAMESPACE_URL, f"jewelhouse:sbom:{said}"),
        version=1,
    )
    bom.metadata.timestamp = datetime.fromtimestamp(recipe.epoch, UTC)
    bom.metadata.component = Component(
        name=recipe.name,
        version=recipe.digest,
        type=ComponentType.OPERATING_SYSTEM if platform in _BOOT else ComponentType.CONTAINER,
        description=recipe.settings.description or None,
        bom_ref=f"{recipe.name}@{recipe.digest}",
        properties=[Property(name="jewelhouse:platform", value=platform.value)],
    )
    bom.register_dependency(bom.metadata.component, components)
    value = json.loads(JsonV1Dot6(bom).output_as_string())
    return json.dumps(value, sort_keys=True, indent=1).encode() + b"\n"


_BOOT = (Platform.AWS_ENCLAVE, Platform.AWS_NITROTPM, Platform.AZURE_CVM, Platform.GCP_CVM)


def _components(recipe: Recipe, assembled: Assembled, kernel: Mapping[str, str]) -> Iterable[Component]:
    suite = f"debian-{recipe.settings.suite}"
    for one in assembled.packages:
        where = {"arch": one.architecture, "distro": suite}
        url = PackageURL("deb", "debian", one.name, one.version, qualifiers=where)
        yield _component(one.name, one.version, one.sha256, url)
    for name, said in kernel.items():
        version, _, digest = said.partition(" sha256:")
        # The kernel's own digest stands among them without a version.
        if digest:
            url = PackageURL("deb", "debian", name, version, qualifiers={"distro": suite})
            yield _component(name, version, digest, url)
    for one in assembled.wheels:
        yield _component(one.name, one.version, one.sha256, PackageURL("pypi", None, one.name, one.version))
    for entry in assembled.layers[-1].values():
        if entry.kind is Kind.FILE:
            state = hashlib.sha256()
            for data in entry.chunks():
                state.update(data)
            yield Component(
                name=f"/{entry.path}",
                type=ComponentType.FILE,
                bom_ref=f"/{entry.path}",
                hashes=[HashType(alg=HashAlgorithm.SHA_256, content=state.hexdigest())],
            )


def _component(name: str, version: str, digest: str, url: PackageURL) -> Component:
    return Component(
        name=name,
        version=version,
        type=ComponentType.LIBRARY,
        purl=url,
        bom_ref=url.to_string(),
        hashes=[HashType(alg=HashAlgorithm.SHA_256, content=digest)],
    )
