"""What the stand-in Google Cloud answers to functions (`gcp.*.get_*`)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from jewelhouse.sandbox.clouds.common import Answer, Refused, digits, public_key
from jewelhouse.sandbox.world import World

COMPUTE = "https://www.googleapis.com/compute/v1/"
KEY = "gcp:kms/cryptoKey:CryptoKey"


def get_key_version(args: Mapping[str, Any], scope: Mapping[str, str], world: World) -> Mapping[str, Any]:
    """A real RSA public key; refused for keys that do not exist or are symmetric, as Cloud KMS does."""
    name, version = str(args["cryptoKey"]), args.get("version", 1)
    key = world.find("gcp", name, KEY)
    if key is None:
        raise Refused(f"googleapi: Error 404: CryptoKey {name} not found., notFound")
    template = key.inputs.get("versionTemplate") or {}
    algorithm = str(template.get("algorithm", "GOOGLE_SYMMETRIC_ENCRYPTION"))
    size = re.match(r"RSA_\w+?_(\d{4})_", algorithm)
    path = f"{name}/cryptoKeyVersions/{version}"
    return {
        **args,
        "id": f"//cloudkms.googleapis.com/v1/{path}",
        "name": path,
        "algorithm": algorithm,
        "protectionLevel": template.get("protectionLevel", "SOFTWARE"),
        "state": "ENABLED",
        "version": version,
        # Symmetric keys have no public half.
        "publicKeys": [{"algorithm": algorithm, "pem": public_key(world, name, int(size[1]))}]
        if size
        else [],
    }


def get_project(args: Mapping[str, Any], scope: Mapping[str, str], world: World) -> Mapping[str, Any]:
    project = str(args.get("projectId") or scope["project"])
    number = project_number(project)
    return {
        "id": f"projects/{project}",
        "projectId": project,
        "number": number,
        "name": project,
        "labels": {},
    }


def get_client_config(args: Mapping[str, Any], scope: Mapping[str, str], world: World) -> Mapping[str, Any]:
    place = {name: scope[name] for name in ("project", "region", "zone")}
    return {"id": f"projects/{scope['project']}", "accessToken": "sandbox", "defaultLabels": {}, **place}


def get_zones(args: Mapping[str, Any], scope: Mapping[str, str], world: World) -> Mapping[str, Any]:
    region = str(args.get("region") or scope["region"])
    project = str(args.get("project") or scope["project"])
    names = [f"{region}-{letter}" for letter in "abc"]
    return {**args, "id": f"projects/{project}/regions/{region}", "names": names, "project": project}


def get_storage_account(args: Mapping[str, Any], scope: Mapping[str, str], world: World) -> Mapping[str, Any]:
    project = str(args.get("project") or scope["project"])
    email = f"service-{project_number(project)}@gs-project-accounts.iam.gserviceaccount.com"
    return {"id": email, "emailAddress": email, "member": f"serviceAccount:{email}", "project": project}


def get_image(args: Mapping[str, Any], scope: Mapping[str, str], world: World) -> Mapping[str, Any]:
    """An image by name, or the one that a family names just now."""
    project = str(args.get("project") or scope["project"])
    name = str(args.get("name") or f"{args.get('family', 'image')}-{digits(project, length=6)}")
    path = f"projects/{project}/global/images/{name}"
    image = str(int(digits(path, length=14), 16))
    return {**args, "id": path, "name": name, "selfLink": COMPUTE + path, "imageId": image, "status": "READY"}


def project_number(project: str) -> str:
    """Twelve digits, the same for the same project id."""
    return str(100_000_000_000 + int(digits("project", project, length=12), 16) % 900_000_000_000)


ANSWERS: Mapping[str, Answer] = {
    "gcp:compute/getImage:getImage": get_image,
    "gcp:compute/getZones:getZones": get_zones,
    "gcp:kms/getKMSCryptoKeyLatestVersion:getKMSCryptoKeyLatestVersion": get_key_version,
    "gcp:kms/getKMSCryptoKeyVersion:getKMSCryptoKeyVersion": get_key_version,
    "gcp:organizations/getClientConfig:getClientConfig": get_client_config,
    "gcp:organizations/getProject:getProject": get_project,
    "gcp:storage/getProjectServiceAccount:getProjectServiceAccount": get_storage_account,
}
