"""How one logs in at a registry: credentials of the environment or of Docker's configuration, shown to that
registry and to the token service that it names, over TLS only.

github.com/distribution/distribution: docs/content/spec/auth/token.md; github.com/docker/cli:
cli/config/configfile/file.go and docs/reference/commandline/login.md (credential helpers), 2026-11.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import requests

from jewelhouse.errors import JewelhouseError

USER, PASSWORD = "JEWELHOUSE_REGISTRY_USER", "JEWELHOUSE_REGISTRY_PASSWORD"
HOST = "JEWELHOUSE_REGISTRY"
TIMEOUT = (10, 30)
TOKEN_LIMIT = 64 * 1024

_CHALLENGE = re.compile(r"\s*(Bearer|Basic)\s+(.*)", re.IGNORECASE | re.DOTALL)
_PARAMETER = re.compile(r'\s*([A-Za-z_]+)\s*=\s*"((?:[^"\\]|\\.)*)"\s*(?:,|$)')
_HELPER = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Secret:
    """A name with its password, or with an identity token where the name is `<token>`; never printed."""

    user: str
    password: str = field(repr=False)


Credentials = Callable[[str], Secret | None]


def docker_credentials(host: str, environment: Mapping[str, str] | None = None) -> Secret | None:
    """What is known for `host`: JEWELHOUSE_REGISTRY_USER and _PASSWORD, where JEWELHOUSE_REGISTRY names it;
    else Docker's configuration (DOCKER_CONFIG or ~/.docker) with its credential helpers, else nothing.

    Raises JewelhouseError for a configuration or a helper that cannot be used.
    """
    environment = os.environ if environment is None else environment
    if environment.get(HOST) == host and USER in environment and PASSWORD in environment:
        return Secret(environment[USER], environment[PASSWORD])
    folder = Path(environment.get("DOCKER_CONFIG") or Path.home() / ".docker")
    path = folder / "config.json"
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise JewelhouseError("cannot be read as Docker's configuration", where=str(path)) from error
    if not isinstance(config, dict):
        raise JewelhouseError("is no JSON object", where=str(path))
    helper = _member(config, "credHelpers", path).get(host) or config.get("credsStore")
    if helper:
        return _helped(str(helper), host)
    entry = _member(_member(config, "auths", path), host, path)
    return _entered(entry, f"{path}: auths.{host}")


def _member(config: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    value = config.get(name) or {}
    if not isinstance(value, dict):
        raise JewelhouseError(f"{name} is no JSON object", where=str(path))
    return value


def _entered(entry: dict[str, Any], where: str) -> Secret | None:
    if token := entry.get("identitytoken"):
        return Secret("<token>", str(token))
    if "username" in entry and "password" in entry:
        return Secret(str(entry["username"]), str(entry["password"]))
    if not entry.get("auth"):
        return None
    try:
        text = base64.b64decode(str(entry["auth"]), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        text = ""
    user, colon, password = text.partition(":")
    if not colon:
        raise JewelhouseError(
            "is no base64 of name:password", where=where, remedy="log in again with `docker login`"
        )
    return Secret(user, password)


def _helped(helper: str, host: str) -> Secret | None:
    program = f"docker-credential-{helper}"
    if not _HELPER.fullmatch(helper):
        raise JewelhouseError(f"{helper!r} is no name of a credential helper", where="Docker's configuration")
    try:
        done = subprocess.run(
            [program, "get"], input=host, capture_output=True, text=True, timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise JewelhouseError(
            f"cannot run: {type(error).__name__}",
            where=program,
            remedy="install it, or remove it from Docker's configuration",
        ) from error
    if done.returncode:
        # The one failure that means "none" (docker/docker-credential-helpers: credentials/error.go).
        if "credentials not found" in done.stdout:
            return None
        raise JewelhouseError(f"failed with {done.returncode}", where=program)
    try:
        found = json.loads(done.stdout)
        return Secret(str(found["Username"]), str(found["Secret"]))
    except (ValueError, KeyError, TypeError) as error:
        raise JewelhouseError("printed no credentials", where=program) from error


class Login:
    """What goes into the header Authorization, for one registry."""

    def __init__(self, host: str, local: bool, credentials: Credentials, session: requests.Session) -> None:
        self.host, self.local = host, local
        self.credentials, self.session = credentials, session
        self.known: Secret | None = None
        self.asked = False
        self.basic = False
        self.tokens: dict[str, str] = {}

    def headers(self, url: str, scope: str) -> dict[str, str]:
        """Nothing for any host but the registry's own."""
        if urlsplit(url).netloc != self.host:
            return {}
        if self.basic and (secret := self.secret()):
            return {"Authorization": _basic(secret)}
        token = self.tokens.get(scope)
        return {"Authorization": f"Bearer {token}"} if token else {}

    def secret(self) -> Secret | None:
        if not self.asked:
            self.known, self.asked = self.credentials(self.host), True
        return self.known

    def remedy(self, status: int) -> str:
        if status not in (401, 403):
            return ""
        return f"log in with `docker login {self.host}`, or set {HOST}, {USER} and {PASSWORD}"

    def answer(self, refused: requests.Response, scope: str) -> bool:
        """Takes up a 401: True when there is something new to try."""
        if urlsplit(refused.url).netloc != self.host:
            return False
        kind, parameters = challenge(refused.headers.get("WWW-Authenticate", ""))
        if kind == "basic":
            fresh = not self.basic and self.secret() is not None
            self.basic = self.basic or fresh
            return fresh
        if kind != "bearer":
            return False
        # A token that was taken before has run out meanwhile.
        token = self.token(parameters, scope)
        if token is not None:
            self.tokens[scope] = token
        return token is not None

    def token(self, parameters: Mapping[str, str], scope: str) -> str | None:
        realm = parameters.get("realm", "")
        parts = urlsplit(realm)
        if parts.scheme != "https" and not (
            self.local and parts.scheme == "http" and parts.netloc == self.host
        ):
            raise JewelhouseError(
                f"sends logins to {parts.scheme or 'nothing'}://{parts.netloc}, where they would be read",
                where=self.host,
            )
        asked = {"scope": scope}
        if service := parameters.get("service"):
            asked["service"] = service
        secret = self.secret()
        headers = {"Accept": "application/json"}
        try:
            if secret is not None and secret.user == "<token>":
                form = {
                    **asked,
                    "grant_type": "refresh_token",
                    "refresh_token": secret.password,
                    "client_id": "jewelhouse",
                }
                answer = self.session.post(
                    realm, data=form, headers=headers, timeout=TIMEOUT, allow_redirects=False
                )
            else:
                if secret is not None:
                    headers["Authorization"] = _basic(secret)
                answer = self.session.get(
                    realm, params=asked, headers=headers, timeout=TIMEOUT, allow_redirects=False
                )
        except requests.RequestException as error:
            raise JewelhouseError(
                f"its token service cannot be reached: {type(error).__name__}",
                where=f"{parts.netloc}{parts.path}",
            ) from error
        if answer.status_code != 200 or len(answer.content) > TOKEN_LIMIT:
            return None
        try:
            found = answer.json()
            token = found.get("token") or found.get("access_token")
        except (ValueError, AttributeError):
            return None
        return token if isinstance(token, str) and re.fullmatch(r"[\x21-\x7e]+", token) else None


def challenge(header: str) -> tuple[str, dict[str, str]]:
    """Scheme in lower case and parameters of a WWW-Authenticate header; ("", {}) for what is none."""
    found = _CHALLENGE.fullmatch(header)
    if found is None:
        return "", {}
    parameters: dict[str, str] = {}
    rest = found[2]
    while rest.strip():
        one = _PARAMETER.match(rest)
        if one is None or one[1].lower() in parameters:
            return "", {}
        parameters[one[1].lower()] = re.sub(r"\\(.)", r"\1", one[2])
        rest = rest[one.end() :]
    return found[1].lower(), parameters


def _basic(secret: Secret) -> str:
    return f"Basic {base64.b64encode(f'{secret.user}:{secret.password}'.encode()).decode()}"
