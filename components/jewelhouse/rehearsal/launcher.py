"""A stand-in for the launcher of Confidential Space: the socket that a container asks for tokens on.

It stands for Google Cloud Attestation behind it, too. Wire format: google/go-tpm-tools: launcher/teeserver/
tee_server.go, verifier/models/token_options.go; limits of nonces: Confidential Computing API v1,
TokenOptions (2026-11).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from jewelhouse.rehearsal.http import Answer, Asked, Service
from jewelhouse.rehearsal.minting_tokens import GoogleAuthority

DEFAULT = "https://sts.googleapis.com"
MEMBERS = {"audience", "nonces", "token_type", "aws_principal_tag_options"}
FLAVOURS = {"OIDC": "oidc", "PKI": "pki"}
NONCES, SHORTEST, LONGEST, AUDIENCE = 6, 10, 74, 512

Claims = Callable[[str, list[str]], dict[str, Any]]
"""From audience and nonces to the claims of this container."""


@dataclass(frozen=True, kw_only=True)
class Given:
    """One request: what was asked, and the token or why there was none."""

    method: str
    nonces: tuple[str, ...]
    token: bytes | None
    refused: str = ""


class Launcher:
    """`claims` are those of the container that runs on it; `replay` is a token that is given out instead.

    A context manager; its socket is at `path`. `fail` makes the next answers errors of what is behind it.
    """

    def __init__(
        self, signer: GoogleAuthority, path: Path, claims: Claims, *, replay: bytes | None = None
    ) -> None:
        self.signer, self.path, self.claims, self.replay = signer, path, claims, replay
        self.log: list[Given] = []
        self._faults: deque[Answer] = deque()
        self._service = Service(self._answer, path=path)

    def __enter__(self) -> Self:
        self._service.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._service.__exit__(*error)
        self.path.unlink(missing_ok=True)

    def fail(self, status: int = 500, times: int = 1) -> None:
        self._faults += [_text(status, "failed to retrieve custom attestation service token")] * times

    def cut(self, times: int = 1) -> None:
        """The next answers lose their connection in the middle."""
        self._faults += [Answer(body=b"eyJhbGciOiJSUzI1NiJ9.", kind="text/html", cut=4)] * times

    def reply(self, body: bytes, times: int = 1) -> None:
        """The next answers are these bytes."""
        self._faults += [Answer(body=body, kind="text/html")] * times

    def _answer(self, asked: Asked) -> Answer:
        if self._faults:
            return self._faults.popleft()
        if asked.path != "/v1/token":
            return _text(404, "404 page not found")
        if asked.method == "GET":
            return self._given("GET", DEFAULT, [], "OIDC")
        if asked.method != "POST":
            return _text(400, f"TEE server received an invalid HTTP method: {asked.method}")
        try:
            options = _options(asked.body)
        except ValueError as error:
            self.log.append(Given(method="POST", nonces=(), token=None, refused=str(error)))
            return _text(400, str(error))
        return self._given("POST", options["audience"], options["nonces"], options["token_type"])

    def _given(self, method: str, audience: str, nonces: list[str], flavour: str) -> Answer:
        token = self.replay or self.signer.token(self.claims(audience, nonces), flavour=FLAVOURS[flavour])
        self.log.append(Given(method=method, nonces=tuple(nonces), token=token))
        return Answer(body=token, kind="text/html")


def _options(body: bytes) -> dict[str, Any]:
    """The members of a request. Raises ValueError in the words of launcher or service."""
    try:
        found = json.loads(body)
    except ValueError as error:
        raise ValueError(f"failed to parse POST body as TokenOptions: {error}") from error
    if not isinstance(found, dict) or not found.keys() <= MEMBERS:
        raise ValueError("failed to parse POST body as TokenOptions: json: unknown field")
    options = {"audience": "", "nonces": [], "token_type": "", **found}
    if not isinstance(options["audience"], str) or not isinstance(options["nonces"], list):
        raise ValueError("failed to parse POST body as TokenOptions: json: cannot unmarshal")
    if not options["audience"]:
        raise ValueError("use GET request for the default identity token")
    if not options["token_type"]:
        raise ValueError("token_type is a required parameter")
    if options["token_type"] not in FLAVOURS:
        raise ValueError(f"token_type {options['token_type']} is not played here")
    check_options(options["audience"], options["nonces"])
    return options


def check_options(audience: str, nonces: list[Any]) -> None:
    """What Google Cloud Attestation takes. Raises ValueError."""
    if len(audience.encode()) > AUDIENCE:
        raise ValueError("InvalidArgument: the audience is too long")
    if len(nonces) > NONCES:
        raise ValueError("InvalidArgument: too many nonces")
    if not all(isinstance(one, str) and SHORTEST <= len(one.encode()) <= LONGEST for one in nonces):
        raise ValueError("InvalidArgument: a nonce must have 10 to 74 bytes")


def eat_nonce(nonces: list[str]) -> str | list[str] | None:
    """How a token carries nonces: text when there is one."""
    return (nonces[0] if len(nonces) == 1 else nonces) if nonces else None


def _text(status: int, words: str) -> Answer:
    return Answer(status=status, body=words.encode(), kind="text/html")
