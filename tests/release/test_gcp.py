from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime

import pytest
from samples import shipped

from jewelhouse.errors import JewelhouseError
from jewelhouse.lifecycle import release_policies
from jewelhouse.model import AttestedKey, AwsAccount, Cloud, GcpAccount, Measurements, Platform, Proof, Tee
from jewelhouse.release import gcp
from jewelhouse.release.policy import Gate, ReleasePolicy

SPACE, VM = Platform.GCP_CONFIDENTIAL_SPACE, Platform.GCP_CVM
OWNER = GcpAccount(project="mp-strongroom", number="100000000001")
OPERATOR = GcpAccount(project="op-runtime", number="100000000003")
ONE, TWO, THREE = (f"sha256:{digit * 64}" for digit in "123")
SPRING = datetime(2027, 3, 1, tzinfo=UTC)
WINTER = datetime(2027, 12, 31, tzinfo=UTC)


def images(*digests: str) -> tuple[Measurements, ...]:
    return tuple(Measurements(values={"image_digest": digest}) for digest in digests)


def gate(stage: str = "serve", platform: Platform = SPACE, **changes: object) -> Gate:
    base = Gate(
        stage=stage,
        platform=platform,
        tee=Tee.TDX,
        account=OPERATOR,
        measurements=images(ONE) if platform is SPACE else (),
        identity=f"llm-{stage}@op-runtime.iam.gserviceaccount.com",
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def compiled(*gates: Gate) -> dict:
    key = AttestedKey("base", gates[0].platform, "europe-west4")
    return gcp.compile(ReleasePolicy(key=key, owner=OWNER, gates=gates))


def ends(document: dict) -> dict[str, str | None]:
    """Per member the expression that ends it."""
    return {
        member: binding.get("condition", {}).get("expression")
        for binding in document["bindings"]
        for member in binding["members"]
    }


def test_a_gate_pins_everything_a_token_can_prove() -> None:
    assert compiled(gate()) == {
        "issuer": "https://confidentialcomputing.googleapis.com/",
        "audiences": ["https://sts.googleapis.com"],
        "mapping": {
            "google.subject": '"gcpcs::"+assertion.submods.container.image_digest'
            '+"::"+assertion.submods.gce.project_number+"::"+assertion.submods.gce.instance_id',
            "attribute.image_digest": "assertion.submods.container.image_digest",
        },
        "condition": "assertion.swname == 'CONFIDENTIAL_SPACE'"
        " && 'STABLE' in assertion.submods.confidential_space.support_attributes"
        " && assertion.dbgstat == 'disabled-since-boot'"
        " && assertion.secboot == true"
        " && (!has(assertion.submods.container.cmd_override)"
        " || size(assertion.submods.container.cmd_override) == 0)"
        " && (!has(assertion.submods.container.env_override)"
        " || size(assertion.submods.container.env_override) == 0)"
        " && ((assertion.hwmodel == 'GCP_INTEL_TDX'"
        " && assertion.submods.gce.project_id == 'op-runtime'"
        " && assertion.submods.gce.project_number == '100000000003'"
        " && 'llm-serve@op-runtime.iam.gserviceaccount.com' in assertion.google_service_accounts"
        f" && assertion.submods.container.image_digest in ['{ONE}']))",
        "bindings": [
            {"role": "roles/cloudkms.cryptoKeyDecrypter", "members": [f"attribute.image_digest/{ONE}"]}
        ],
    }


@pytest.mark.parametrize(
    ("change", "clause"),
    [
        ({"tee": Tee.SEV}, "assertion.hwmodel == 'GCP_AMD_SEV'"),
        ({"gpu": "H100"}, "assertion.submods.nvidia_gpu.cc_mode == 'ON'"),
        ({"gpu": "H100"}, "assertion.submods.nvidia_gpu.gpus.exists(gpu, gpu.hwmodel == 'GCP_NVIDIA_H100')"),
        ({"measurements": images(TWO, ONE)}, f"image_digest in ['{ONE}', '{TWO}']"),
    ],
)
def test_what_a_stage_has_becomes_a_clause(change: dict, clause: str) -> None:
    assert clause not in compiled(gate())["condition"]
    assert clause in compiled(gate(**change))["condition"]


def test_a_gpu_clause_never_stands_alone() -> None:
    """A debug GPU image has swname CONFIDENTIAL_SPACE and cc_mode ON."""
    condition = compiled(gate(gpu="H100"))["condition"]
    assert condition.startswith("assertion.swname == 'CONFIDENTIAL_SPACE' && 'STABLE' in ")
    assert " && assertion.dbgstat == 'disabled-since-boot' && " in condition


def test_an_operator_without_a_number_is_pinned_by_its_id() -> None:
    condition = compiled(gate(account=GcpAccount(project="op-runtime")))["condition"]
    assert "project_id == 'op-runtime'" in condition
    assert "project_number" not in condition


def test_a_roll_out_names_both_images() -> None:
    document = compiled(gate(measurements=images(ONE, TWO)))
    assert set(ends(document)) == {f"attribute.image_digest/{ONE}", f"attribute.image_digest/{TWO}"}


def test_each_stage_keeps_its_own_image() -> None:
    """One alternative a stage: a shared list of images would let each stage run the other's."""
    condition = compiled(gate("serve"), gate("tune", measurements=images(TWO)))["condition"]
    base, gates = condition.split(" && (((", 1)[0], condition[condition.index("((assertion.hwmodel") :]
    assert base.startswith("assertion.swname")
    serve, tune = gates.split(") || (")
    assert "llm-serve@" in serve
    assert ONE in serve
    assert TWO not in serve
    assert "llm-tune@" in tune
    assert TWO in tune
    assert ONE not in tune


class TestLicences:
    def test_an_end_is_a_condition_of_the_binding(self) -> None:
        document = compiled(gate(not_after=WINTER))
        assert document["bindings"] == [
            {
                "role": "roles/cloudkms.cryptoKeyDecrypter",
                "members": [f"attribute.image_digest/{ONE}"],
                "condition": {
                    "title": "licence until 2027-12-31T00:00:00Z",
                    "expression": "request.time < timestamp('2027-12-31T00:00:00Z')",
                },
            }
        ]

    def test_images_end_at_their_own_time(self) -> None:
        document = compiled(
            gate("serve", not_after=WINTER),
            gate("tune", not_after=SPRING, measurements=images(TWO)),
            gate("judge", measurements=images(THREE)),
        )
        assert ends(document) == {
            f"attribute.image_digest/{ONE}": "request.time < timestamp('2027-12-31T00:00:00Z')",
            f"attribute.image_digest/{TWO}": "request.time < timestamp('2027-03-01T00:00:00Z')",
            f"attribute.image_digest/{THREE}": None,
        }
        assert "attribute.stage" not in document["mapping"]

    def test_one_image_under_two_licences_is_told_apart_by_its_stage(self) -> None:
        document = compiled(gate("serve"), gate("judge", not_after=WINTER), gate("tune", not_after=SPRING))
        assert ends(document) == {
            "attribute.stage/judge": "request.time < timestamp('2027-12-31T00:00:00Z')",
            "attribute.stage/serve": None,
            "attribute.stage/tune": "request.time < timestamp('2027-03-01T00:00:00Z')",
        }
        # The shortest licence first, for tokens with more than one service account.
        assert document["mapping"]["attribute.stage"] == (
            "'llm-tune@op-runtime.iam.gserviceaccount.com' in assertion.google_service_accounts ? 'tune' : "
            "'llm-judge@op-runtime.iam.gserviceaccount.com' in assertion.google_service_accounts ? 'judge' : "
            "'llm-serve@op-runtime.iam.gserviceaccount.com' in assertion.google_service_accounts ? 'serve' : "
            "'none'"
        )

    def test_a_licence_is_not_prolonged_by_the_account_of_another_stage(self) -> None:
        """tune is bound by its image; without its place in the mapping, a token of tune that also has the
        account of serve would be bound as serve, which never ends."""
        document = compiled(
            gate("serve"),
            gate("judge", not_after=WINTER),
            gate("tune", not_after=SPRING, measurements=images(TWO)),
        )
        assert set(ends(document)) == {
            f"attribute.image_digest/{TWO}",
            "attribute.stage/judge",
            "attribute.stage/serve",
        }
        order = [
            document["mapping"]["attribute.stage"].index(f"'{stage}'") for stage in ("tune", "judge", "serve")
        ]
        assert order == sorted(order)

    def test_an_unshared_image_stays_bound_by_digest(self) -> None:
        document = compiled(gate("serve", measurements=images(ONE, TWO)), gate("judge", not_after=WINTER))
        assert ends(document) == {
            f"attribute.image_digest/{TWO}": None,
            "attribute.stage/judge": "request.time < timestamp('2027-12-31T00:00:00Z')",
            "attribute.stage/serve": None,
        }


class TestPlainVm:
    def test_claims_of_a_container_are_not_asked_for(self) -> None:
        """A mapping or clause over an absent claim makes every exchange fail."""
        document = compiled(gate(platform=VM))
        assert document["condition"] == (
            "assertion.swname == 'GCE' && assertion.secboot == true && ((assertion.hwmodel == 'GCP_INTEL_TDX'"
            " && assertion.submods.gce.project_id == 'op-runtime'"
            " && assertion.submods.gce.project_number == '100000000003'"
            " && 'llm-serve@op-runtime.iam.gserviceaccount.com' in assertion.google_service_accounts))"
        )
        assert document["mapping"]["google.subject"] == (
            '"gcpcvm::"+assertion.submods.gce.project_number+"::"+assertion.submods.gce.instance_id'
        )
        assert ends(document) == {"attribute.stage/serve": None}
        assert "container" not in json.dumps(document)

    def test_a_gpu_is_not_asked_for_since_tokens_do_not_name_it(self) -> None:
        assert "gpu" not in json.dumps(compiled(gate(platform=VM, gpu="H100")))
        assert gcp.PROOFS[VM][Proof.GPU][0] == "not-possible"

    @pytest.mark.parametrize("proof", [Proof.IMAGE, Proof.DEBUG_OFF, Proof.CONFIG])
    def test_what_cannot_be_proven_names_the_alternative(self, proof: Proof) -> None:
        state, note = gcp.PROOFS[VM][proof]
        assert state == "not-possible"
        assert "gcp-confidential-space" in note


@pytest.mark.parametrize(
    ("changed", "where", "says", "remedy"),
    [
        pytest.param(
            gate(tee=Tee.SEV_SNP),
            "stages.serve.tee",
            "no hwmodel for sev-snp",
            "tdx or sev",
            id="Confidential Space on SEV-SNP",
        ),
        pytest.param(
            gate(platform=VM, tee=Tee.SEV_SNP),
            "stages.serve.tee",
            "no hwmodel for sev-snp",
            "tdx or sev",
            id="GCP_AMD_SEV_SNP is a value no token has",
        ),
        pytest.param(
            gate(measurements=()),
            "stages.serve.image",
            "any container would open",
            "images.lock.yaml",
            id="no measurements",
        ),
        pytest.param(
            gate(measurements=images("sha256:12")),
            "stages.serve.image",
            "not the digest",
            "64 lower-case",
            id="short digest",
        ),
        pytest.param(
            gate(measurements=images(ONE[7:])),
            "stages.serve.image",
            "not the digest",
            "sha256:",
            id="digest without its algorithm",
        ),
        pytest.param(
            gate(measurements=images("sha256:" + "A" * 64)),
            "stages.serve.image",
            "not the digest",
            "lower-case",
            id="upper-case digest",
        ),
        pytest.param(
            gate(measurements=images("sha256:" + "0" * 64)),
            "stages.serve.image",
            "not the digest",
            "registry",
            id="digest of zeros",
        ),
        pytest.param(
            gate(measurements=images(f"{ONE}' || true || 'x' == '")),
            "stages.serve.image",
            "not the digest",
            "",
            id="digest that breaks out of its literal",
        ),
        pytest.param(
            gate(measurements=(Measurements(values={"PCR0": "1" * 96}),)),
            "stages.serve.image",
            "tokens compare image_digest, found PCR0",
            "image_digest",
            id="register of another cloud",
        ),
        pytest.param(
            gate(measurements=(*images(ONE), Measurements())),
            "stages.serve.image",
            "found nothing",
            "",
            id="empty alternative",
        ),
        pytest.param(gate(identity=None), "stages.serve", "needs the service account", "", id="no identity"),
        pytest.param(
            gate(identity="llm-serve@elsewhere.iam.gserviceaccount.com"),
            "stages.serve",
            "in op-runtime",
            "",
            id="identity of another project",
        ),
        pytest.param(
            gate(identity="100000000003-compute@developer.gserviceaccount.com"),
            "stages.serve",
            "needs the",
            "",
            id="default service account",
        ),
        pytest.param(gate(gpu="B200"), "stages.serve.gpu", "no value for a B200", "H100", id="unknown GPU"),
        pytest.param(
            gate(account=AwsAccount(account="1" * 12, deployer="")),
            "stages.serve",
            "cannot open",
            "",
            id="operator without a project",
        ),
    ],
)
def test_refused_gates(changed: Gate, where: str, says: str, remedy: str) -> None:
    with pytest.raises(JewelhouseError) as caught:
        compiled(changed)
    assert caught.value.where == where
    assert says in caught.value.what
    assert remedy in caught.value.remedy


def test_a_gate_of_another_platform_is_refused() -> None:
    with pytest.raises(JewelhouseError, match="cannot open"):
        compiled(gate(), gate("other", platform=VM))


@pytest.mark.parametrize(
    ("policy", "says"),
    [
        (ReleasePolicy(key=AttestedKey("a", SPACE, "r"), owner=OWNER, gates=()), "needs a gate"),
        (
            ReleasePolicy(
                key=AttestedKey("a", SPACE, "r"),
                owner=AwsAccount(account="1" * 12, deployer=""),
                gates=(gate(),),
            ),
            "no Google Cloud project",
        ),
        (
            ReleasePolicy(key=AttestedKey("a", Platform.AWS_ENCLAVE, "r"), owner=OWNER, gates=(gate(),)),
            "cannot judge evidence of aws-enclave",
        ),
    ],
)
def test_refused_policies(policy: ReleasePolicy, says: str) -> None:
    with pytest.raises(JewelhouseError, match=says):
        gcp.compile(policy)


def test_a_condition_over_the_limit_says_what_to_do() -> None:
    with pytest.raises(JewelhouseError) as caught:
        compiled(*(gate(f"stage-{number}") for number in range(12)))
    assert "Google takes 4096" in caught.value.what
    assert "fewer stages" in caught.value.remedy


def test_a_mapping_over_the_limit_is_refused_too() -> None:
    """Conditions of plain VMs are short, so their mapping of stages reaches its limit first."""
    stages = [f"{'s' * 20}{number:02}" for number in range(19)]
    short = GcpAccount(project="op-run")
    gates = [
        gate(stage, platform=VM, account=short, identity=f"{stage}@op-run.iam.gserviceaccount.com")
        for stage in stages
    ]
    with pytest.raises(JewelhouseError, match=r"mapping of attribute\.stage .* Google takes 2048"):
        compiled(*gates)


@pytest.mark.parametrize(
    ("value", "literal"),
    [
        ("plain", "'plain'"),
        ("it's", r"'it\'s'"),
        ('say "x"', "'say \"x\"'"),
        ("back\\slash", r"'back\\slash'"),
        ("two\nlines", r"'two\nlines'"),
        ("\\' || true", r"'\\\' || true'"),
    ],
)
def test_literals_are_escaped(value: str, literal: str) -> None:
    assert gcp.literal(value) == literal


def test_subjects_stay_under_the_limit() -> None:
    """`assertion.sub` would hold 140 characters for a project id of 30; the limit is 127."""
    subject = f"gcpcs::{ONE}::{'9' * 19}::{'9' * 20}"
    assert len(subject) < 127
    assert all("assertion.sub+" not in mapping for mapping in gcp.SUBJECTS.values())
    assert not any(mapping.endswith("assertion.sub") for mapping in gcp.SUBJECTS.values())


@pytest.mark.parametrize("stack", ["dev", "prod-gcp", "gpu", "federated"])
def test_shipped_stacks_compile_deterministically(stack: str) -> None:
    policies = [policy for key, policy in release_policies(shipped(stack)).items() if key.cloud is Cloud.GCP]
    assert policies
    for policy in policies:
        document = gcp.compile(policy)
        assert json.dumps(document) == json.dumps(gcp.compile(policy))
        # The two errors of the published assertion table: values that no token has.
        assert "'enable'" not in document["condition"]
        assert "'INTEL_TDX'" not in document["condition"]
        assert document["condition"].count("(") == document["condition"].count(")")


def test_conditions_are_cel() -> None:
    cel = pytest.importorskip("cel_expr_python.cel")
    environment = cel.NewEnv(variables={"assertion": cel.Type.DYN})
    for document in (compiled(gate(gpu="H100")), compiled(gate(platform=VM))):
        environment.compile(document["condition"])
        for expression in document["mapping"].values():
            environment.compile(expression)


def test_every_proof_has_a_state() -> None:
    for platform in (SPACE, VM):
        assert set(gcp.PROOFS[platform]) == set(Proof) - {Proof.OWNER_APART}
