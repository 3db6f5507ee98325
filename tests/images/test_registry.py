"""Registries: what is pushed is there by its digest, what is not whole has no tag, and secrets stay where
they belong."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import os
import shutil
import socket
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
import registry_stand_in
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import given, settings
from hypothesis import strategies as st
from registry_stand_in import Registry

from jewelhouse.errors import JewelhouseError
from jewelhouse.images import oci, registry_client
from jewelhouse.images.registry import push, verify
from jewelhouse.images.registry_client import RegistryError, Unsettled, place
from jewelhouse.images.registry_login import Secret, challenge, docker_credentials
from jewelhouse.images.tree import Entry, Kind, tree

PASSWORD = "correct-horse-battery"


def nobody(host):
    return None


def somebody(host):
    return Secret("pusher", PASSWORD)


def files(content: bytes):
    return tree([Entry(path="usr/bin/serve", kind=Kind.FILE, mode=0o755, content=content)])


@pytest.fixture(scope="module")
def layout(tmp_path_factory):
    path = tmp_path_factory.mktemp("image") / "layout"
    image = oci.Image(
        layers=[files(os.urandom(100_000)), files(b"second")], entrypoint=["/usr/bin/serve"], epoch=1
    )
    oci.write(image, path)
    return path


@pytest.fixture
def there():
    with registry_stand_in.serving(Registry()) as started:
        yield started


@pytest.fixture
def locked():
    with registry_stand_in.serving(Registry(users={"pusher": PASSWORD})) as started:
        yield started


def sent(layout, host, to="kit/trainer:v1", **options):
    return push(layout, f"{host}/{to}", **{"credentials": nobody, "pause": lambda seconds: None, **options})


def compared(layout, host, at="kit/trainer:v1", **options):
    verify(layout, f"{host}/{at}", **{"credentials": nobody, "pause": lambda seconds: None, **options})


def test_what_was_pushed_is_there_to_the_byte(layout, there):
    image = oci.read(layout)
    told: dict[str, int] = {}
    pushed = sent(layout, there.host, progress=lambda digest, done, size: told.update({digest: done / size}))
    assert pushed.reference == f"{there.host}/kit/trainer@{image.manifest}"
    blobs = {path.name: path.read_bytes() for path in (layout / "blobs" / "sha256").iterdir()}
    kept = {digest.removeprefix("sha256:"): data for (_, digest), data in there.blobs.items()}
    assert {**kept, image.manifest.removeprefix("sha256:"): there.manifests["kit/trainer", "v1"][1]} == blobs
    assert told == dict.fromkeys([image.config, *(digest for digest, _ in image.layers)], 1.0)
    compared(layout, there.host, content=True)
    compared(layout, there.host, at=f"kit/trainer@{image.manifest}")


def test_without_a_tag_the_image_stands_under_its_digest_only(layout, there):
    sent(layout, there.host, to="kit/trainer")
    assert there.tags("kit/trainer") == []
    assert ("kit/trainer", oci.read(layout).manifest) in there.manifests


def test_blobs_that_are_there_are_not_sent_again(layout, there):
    first = sent(layout, there.host)
    again = sent(layout, there.host, to="kit/trainer:v2")
    assert (len(first.sent), first.present) == (3, ())
    assert (again.sent, len(again.present)) == ((), 3)
    assert there.log.count("PUT upload") == 3
    assert there.tags("kit/trainer") == ["v1", "v2"]


def test_a_push_that_breaks_off_leaves_no_tag_and_goes_on_where_it_was(layout, there):
    puts = 0

    def cut(method, kind, handler):
        nonlocal puts
        puts += (method, kind) == ("PUT", "upload")
        if puts < 2 or (method, kind) != ("PUT", "upload"):
            return False
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True
        return True

    there.before = cut
    with pytest.raises(Unsettled, match="cannot be reached"):
        sent(layout, there.host)
    assert there.manifests == {}
    assert len(there.blobs) == 1
    there.before = None
    assert len(sent(layout, there.host).sent) == 2


def test_an_upload_that_breaks_off_once_is_begun_anew(layout, there):
    left = [True]

    def cut_once(method, kind, handler):
        if (method, kind) != ("PUT", "upload") or not left:
            return False
        left.pop()
        handler.connection.shutdown(socket.SHUT_RDWR)
        handler.close_connection = True
        return True

    there.before = cut_once
    assert len(sent(layout, there.host).sent) == 3
    assert there.log.count("POST uploads") == 4


@pytest.mark.parametrize("status", [429, 503])
def test_a_registry_that_asks_to_wait_is_asked_again(layout, there, status):
    there.failures = {("HEAD", "blob"): [status], ("PUT", "manifest"): [status, status]}
    waited: list[float] = []
    sent(layout, there.host, pause=waited.append)
    assert len(waited) == 3
    assert all(0 < seconds <= 60 for seconds in waited)


def test_a_registry_that_never_recovers_is_given_up(layout, there):
    there.failures = {("PUT", "manifest"): [503] * 20}
    with pytest.raises(Unsettled, match=r"503 \(TOOMANYREQUESTS\)"):
        sent(layout, there.host)
    assert there.tags("kit/trainer") == []


def test_a_changed_layout_is_refused_before_anything_is_sent(layout, there, tmp_path):
    copy = Path(shutil.copytree(layout, tmp_path / "copy"))
    digest, _ = oci.read(copy).layers[0]
    blob = copy / "blobs" / "sha256" / digest.removeprefix("sha256:")
    data = bytearray(blob.read_bytes())
    data[700] ^= 1
    blob.write_bytes(data)
    with pytest.raises(oci.MalformedLayout):
        sent(copy, there.host)
    assert there.log == []


def other_manifest(there, name, key):
    kind, data = there.manifests[name, key]
    there.manifests[name, key] = (kind, data.replace(b'"schemaVersion":2', b'"schemaVersion": 2'))


def shorter_layer(there, layout):
    digest, _ = oci.read(layout).layers[0]
    there.blobs["kit/trainer", digest] = there.blobs["kit/trainer", digest][:-512]


def another_layer(there, layout):
    digest, size = oci.read(layout).layers[0]
    there.blobs["kit/trainer", digest] = bytes(size)


def another_config(there, layout):
    digest = oci.read(layout).config
    there.blobs["kit/trainer", digest] = there.blobs["kit/trainer", digest].replace(b"amd64", b"arm64")


def endless_config(there, layout):
    there.blobs["kit/trainer", oci.read(layout).config] += b" " * 4096


def no_layer(there, layout):
    del there.blobs["kit/trainer", oci.read(layout).layers[1][0]]


@pytest.mark.parametrize(
    ("change", "content", "said"),
    [
        (lambda there, layout: other_manifest(there, "kit/trainer", "v1"), False, "the layout is"),
        (lambda there, layout: there.manifests.clear(), False, r"404 \(MANIFEST_UNKNOWN\)"),
        (shorter_layer, False, "bytes where there are"),
        (another_layer, True, "by its content"),
        (another_config, False, "by its content"),
        (endless_config, False, "has more than"),
        (no_layer, False, "lacks a layer"),
    ],
    ids=[
        "tag-moved-to-another-image",
        "image-deleted",
        "layer-cut-short",
        "layer-replaced-under-its-digest",
        "configuration-replaced-under-its-digest",
        "configuration-without-end",
        "layer-deleted",
    ],
)
def test_what_is_not_the_image_is_found(layout, there, change, content, said):
    sent(layout, there.host)
    change(there, layout)
    with pytest.raises(RegistryError, match=said):
        compared(layout, there.host, content=content)


def test_a_registry_that_answers_a_push_with_another_digest_is_not_believed(layout, there):
    def lie(method, kind, handler):
        if (method, kind) != ("PUT", "manifest"):
            return False
        handler.body()
        handler.answer(201, Docker_Content_Digest=f"sha256:{'0' * 64}")
        return True

    there.before = lie
    with pytest.raises(RegistryError, match="takes it for sha256:000"):
        sent(layout, there.host)


def test_a_registry_that_takes_a_push_and_keeps_nothing_is_found_out(layout, there):
    def forget(method, kind, handler):
        if (method, kind) != ("PUT", "manifest"):
            return False
        handler.body()
        handler.answer(201)
        return True

    there.before = forget
    with pytest.raises(RegistryError, match="MANIFEST_UNKNOWN"):
        sent(layout, there.host)


@pytest.mark.parametrize("scheme", ["bearer", "basic"])
def test_one_logs_in_as_the_registry_asks(layout, locked, scheme):
    locked.scheme = scheme
    sent(layout, locked.host, credentials=somebody)
    assert locked.tags("kit/trainer") == ["v1"]


def test_an_identity_token_is_exchanged_for_one_of_the_registry(layout, locked):
    locked.users = {"<token>": "refresh"}
    sent(layout, locked.host, credentials=lambda host: Secret("<token>", "refresh"))
    assert "POST token" in locked.log


def test_a_token_that_runs_out_is_renewed(layout, locked):
    def forget(method, kind, handler):
        if (method, kind) == ("PUT", "manifest") and len(locked.tokens) < 3:
            locked.tokens = {"another", "yet-another", "third"} - {"x"}
        return False

    locked.before = forget
    sent(layout, locked.host, credentials=somebody)
    assert locked.tags("kit/trainer") == ["v1"]


@pytest.mark.parametrize("scheme", ["bearer", "basic"])
@pytest.mark.parametrize(
    "credentials", [nobody, lambda host: Secret("pusher", "wrong-password")], ids=["none", "wrong-password"]
)
def test_without_the_right_login_nothing_is_kept_and_the_remedy_is_named(layout, locked, scheme, credentials):
    locked.scheme = scheme
    with pytest.raises(RegistryError, match="answered with 401") as raised:
        sent(layout, locked.host, credentials=credentials)
    assert "docker login" in raised.value.remedy
    assert (locked.blobs, locked.manifests) == ({}, {})


def test_no_secret_is_in_an_error_even_when_the_registry_sends_it_back(layout, locked):
    locked.scheme = "basic"
    locked.before = lambda method, kind, handler: (
        (method, kind) == ("PUT", "manifest") and handler.body() and handler.refuse(403, "DENIED") is None
    )
    with pytest.raises(RegistryError, match="DENIED") as raised:
        sent(layout, locked.host, credentials=somebody)
    shown = base64.b64encode(f"pusher:{PASSWORD}".encode()).decode()
    assert PASSWORD not in str(raised.value)
    assert shown not in str(raised.value)
    assert PASSWORD not in repr(somebody(""))


def test_credentials_do_not_go_to_another_host(layout, locked):
    """Uploads may go on elsewhere: what is shown to the registry is not shown there."""
    locked.scheme = "basic"
    with registry_stand_in.serving(Registry()) as other:
        other.sessions["1"] = b""

        def elsewhere(method, kind, handler):
            if (method, kind) != ("POST", "uploads") or not handler.known():
                return False
            handler.answer(202, Location=f"http://{other.host}/v2/kit/trainer/blobs/uploads/1?state=kept")
            return True

        locked.before = elsewhere
        with pytest.raises(RegistryError):
            sent(layout, locked.host, credentials=somebody)
        assert "PUT upload" in other.log
        assert not any("Authorization" in headers for headers in other.headers)


def test_a_blob_served_from_elsewhere_is_read_without_credentials(layout, locked):
    locked.scheme = "basic"
    sent(layout, locked.host, credentials=somebody)
    with registry_stand_in.serving(Registry(blobs=dict(locked.blobs))) as other:

        def elsewhere(method, kind, handler):
            if kind != "blob":
                return False
            handler.answer(307, Location=f"http://{other.host}{handler.path}")
            return True

        locked.before = elsewhere
        compared(layout, locked.host, credentials=somebody, content=True)
        assert other.log
        assert not any("Authorization" in headers for headers in other.headers)


def redirect(location):
    def instead(method, kind, handler):
        handler.body()
        handler.answer(202 if method == "POST" else 307, Location=location)
        return kind in ("uploads", "blob")

    return instead


@pytest.mark.parametrize(
    "location",
    ["http://registry.example/v2/x", "ftp://127.0.0.1/x", "file:///etc/passwd"],
    ids=["away-without-tls", "ftp", "local-file"],
)
def test_requests_are_not_sent_on_where_they_would_be_read(layout, there, location):
    there.before = redirect(location)
    with pytest.raises(RegistryError, match=r"without TLS|where the request goes on"):
        sent(layout, there.host)


def test_redirects_in_a_circle_end(layout, there):
    there.before = lambda method, kind, handler: handler.answer(307, Location=handler.path) is None
    with pytest.raises(RegistryError, match="more than 5 times"):
        sent(layout, there.host)


@pytest.mark.parametrize(
    "realm",
    ["http://tokens.example/token", "http://127.0.0.1:1/token", "", "ftp://127.0.0.1/"],
    ids=["another-host-without-tls", "another-port-without-tls", "none", "ftp"],
)
def test_a_password_is_not_sent_to_a_token_service_that_is_read_on_the_way(layout, locked, realm):
    def ask(method, kind, handler):
        handler.body()
        handler.refuse(401, "UNAUTHORIZED", WWW_Authenticate=f'Bearer realm="{realm}"')
        return True

    locked.before = ask
    with pytest.raises(JewelhouseError, match="where they would be read"):
        sent(layout, locked.host, credentials=somebody)


def test_tls_is_used_but_on_this_machine():
    assert place("registry.example/kit/trainer:v1").base == "https://registry.example/v2/kit/trainer"
    assert place("10.0.0.1:5000/kit").base == "https://10.0.0.1:5000/v2/kit"
    assert place("localhost.example:5000/kit").base.startswith("https://")
    assert place("127.0.0.1.example:80/kit").base.startswith("https://")
    for host in ("localhost:5000", "127.0.0.1:5000", "[::1]:5000"):
        assert place(f"{host}/kit").base == f"http://{host}/v2/kit"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "trainer",
        "kit/trainer:v1",
        "registry.example/",
        "registry.example/Kit",
        "registry.example/kit/../other",
        "registry.example/kit@sha256:00",
        "registry.example/kit@sha512:" + "0" * 128,
        "registry.example/kit:" + "v" * 129,
        "user:password@registry.example/kit",
        "registry.example/kit?x=1",
        "registry.example#/kit",
        "https://registry.example/kit",
        "registry.example/kit:v1\n",
        "registry.example/" + "k" * 256,
    ],
)
def test_a_reference_that_names_no_image_is_refused(text):
    with pytest.raises(RegistryError, match="names no image"):
        place(text)


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet="abcA.-_:/@[]\n 0159sh", max_size=60) | st.text(max_size=40))
def test_any_reference_is_read_as_it_is_written_or_refused(text):
    with contextlib.suppress(RegistryError):
        assert str(place(text)) == text


@settings(max_examples=200, deadline=None)
@given(st.text(alphabet='BbearBsic realm="\\,x=', max_size=60) | st.text(max_size=60))
def test_any_challenge_is_read_or_ignored(header):
    scheme, parameters = challenge(header)
    assert scheme in ("", "basic", "bearer")
    assert scheme or not parameters


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Bearer realm="https://a/t",service="s"', ("bearer", {"realm": "https://a/t", "service": "s"})),
        ('bearer realm="a\\"b"', ("bearer", {"realm": 'a"b'})),
        ('Basic realm="r"', ("basic", {"realm": "r"})),
        ('Bearer realm="a",realm="b"', ("", {})),
        ("Bearer realm=bare", ("", {})),
        ("Negotiate abc", ("", {})),
    ],
)
def test_challenges(header, expected):
    assert challenge(header) == expected


def configured(tmp_path, config):
    (tmp_path / "config.json").write_text(config if isinstance(config, str) else json.dumps(config))
    return {"DOCKER_CONFIG": str(tmp_path)}


def encoded(text):
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"auths": {"r.example": {"auth": encoded("u:p:q")}}}, Secret("u", "p:q")),
        ({"auths": {"r.example": {"username": "u", "password": "p"}}}, Secret("u", "p")),
        ({"auths": {"r.example": {"auth": encoded("x:"), "identitytoken": "t"}}}, Secret("<token>", "t")),
        ({"auths": {"other.example": {"auth": encoded("u:p")}}}, None),
        ({"auths": {"r.example": {}}}, None),
        ({}, None),
    ],
)
def test_docker_configurations(tmp_path, config, expected):
    assert docker_credentials("r.example", configured(tmp_path, config)) == expected


@pytest.mark.parametrize(
    "config",
    [
        "{",
        "[]",
        {"auths": ["r.example"]},
        {"auths": {"r.example": {"auth": "!"}}},
        {"auths": {"r.example": {"auth": "eA=="}}},
    ],
)
def test_a_broken_docker_configuration_is_said_without_its_secrets(tmp_path, config):
    with pytest.raises(JewelhouseError) as raised:
        docker_credentials("r.example", configured(tmp_path, config))
    assert str(tmp_path) in raised.value.where


def test_the_environment_is_for_the_registry_that_it_names_only(tmp_path):
    environment = {
        **configured(tmp_path, {}),
        "JEWELHOUSE_REGISTRY": "r.example",
        "JEWELHOUSE_REGISTRY_USER": "u",
        "JEWELHOUSE_REGISTRY_PASSWORD": "p",
    }
    assert docker_credentials("r.example", environment) == Secret("u", "p")
    assert docker_credentials("evil.example", environment) is None


HELPERS = {
    "good": ('printf \'{"Username":"u","Secret":"\'$(cat)\'"}\'', Secret("u", "r.example")),
    "without": ("echo 'credentials not found in native keychain'; exit 1", None),
}


@pytest.mark.parametrize("name", HELPERS)
def test_credential_helpers(tmp_path, monkeypatch, name):
    script, expected = HELPERS[name]
    program = tmp_path / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    environment = configured(tmp_path, {"credHelpers": {"r.example": name}})
    assert docker_credentials("r.example", environment) == expected


@pytest.mark.parametrize("script", ["echo secret-in-the-output; exit 3", "echo 'secret-in-the-output'"])
def test_a_helper_that_fails_is_named_and_not_quoted(tmp_path, monkeypatch, script):
    program = tmp_path / "docker-credential-bad"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(JewelhouseError) as raised:
        docker_credentials("r.example", configured(tmp_path, {"credsStore": "bad"}))
    assert "secret-in-the-output" not in str(raised.value)


def test_a_helper_is_no_path(tmp_path):
    with pytest.raises(JewelhouseError, match="no name of a credential helper"):
        docker_credentials("r.example", configured(tmp_path, {"credsStore": "../../bin/sh"}))


@pytest.mark.parametrize("how", ["without-tls", "with-a-certificate-of-its-own"])
def test_somebody_between_us_and_the_registry_gets_nothing(layout, tmp_path, monkeypatch, how):
    """A name that leads to another machine: no TLS, or a certificate that nobody vouches for."""
    for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    with registry_stand_in.serving(
        Registry(), certificate=certificate(tmp_path) if "own" in how else None
    ) as other:
        port = int(other.host.rsplit(":", 1)[1])
        real = socket.getaddrinfo
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, *rest, **more: real("127.0.0.1", port, *rest[1:], **more)
        )
        with pytest.raises(RegistryError, match="no trusted certificate"):
            sent(layout, f"registry.example:{port}", credentials=somebody)
        assert other.log == []


def certificate(tmp_path):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "registry.example")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(datetime(2020, 1, 1, tzinfo=UTC))
        .not_valid_after(datetime(2050, 1, 1, tzinfo=UTC))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("registry.example")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    path = tmp_path / "certificate.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return path


def skopeo(*arguments):
    found = shutil.which("skopeo")
    if found is None:
        pytest.skip("skopeo is not installed: apt-get install skopeo")
    done = subprocess.run([found, *map(str, arguments)], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("scheme", ["open", "basic", "bearer"])
def test_skopeo_reads_what_was_pushed(layout, tmp_path, scheme):
    users = None if scheme == "open" else {"pusher": PASSWORD}
    login = [] if users is None else [f"--creds=pusher:{PASSWORD}"]
    image = oci.read(layout)
    with registry_stand_in.serving(Registry(users=users, scheme=scheme)) as there:
        sent(layout, there.host, credentials=somebody)
        at = f"docker://{there.host}/kit/trainer:v1"
        shown = json.loads(skopeo("inspect", "--tls-verify=false", *login, at))
        assert (shown["Digest"], shown["Layers"]) == (image.manifest, [digest for digest, _ in image.layers])
        login = [option.replace("--creds", "--src-creds") for option in login]
        skopeo("copy", "--preserve-digests", "--src-tls-verify=false", *login, at, f"oci:{tmp_path / 'copy'}")
    # skopeo leaves out of its index what describes the platform; the image is the same.
    index = json.loads((tmp_path / "copy" / "index.json").read_bytes())
    assert index["manifests"][0]["digest"] == image.manifest
    for digest in (image.manifest, image.config, *(digest for digest, _ in image.layers)):
        name = digest.removeprefix("sha256:")
        assert (
            hashlib.sha256((tmp_path / "copy" / "blobs" / "sha256" / name).read_bytes()).hexdigest() == name
        )


def test_what_skopeo_pushed_is_verified(layout, there):
    at = f"docker://{there.host}/kit/trainer:v1"
    skopeo(
        "copy", "--dest-tls-verify=false", "--preserve-digests", "--dest-compress=false", f"oci:{layout}", at
    )
    compared(layout, there.host, content=True)
    again = sent(layout, there.host)
    assert again.sent == ()


def test_the_layer_is_never_held_in_memory_as_a_whole(there, tmp_path, monkeypatch):
    monkeypatch.setattr(registry_client, "CHUNK", 4096)
    content = os.urandom(300_000)
    oci.write(oci.Image(layers=[files(content)], entrypoint=["/x"]), tmp_path / "layout")
    told: list[int] = []
    sent(tmp_path / "layout", there.host, progress=lambda digest, done, size: told.append(done))
    assert max(after - before for before, after in itertools.pairwise(told)) <= 4096
