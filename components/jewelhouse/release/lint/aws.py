"""The lint rules for AWS KMS key policies, as a table.

What each looks at: `release.lint.aws_statements` (statements as they are written),
`release.lint.aws_openings` (what remains open after all Denies) and `release.lint.aws_registers` (what the
evidence proves there).
"""

from __future__ import annotations

from jewelhouse.release.lint import aws_openings as openings
from jewelhouse.release.lint import aws_registers as registers
from jewelhouse.release.lint import aws_statements as statements
from jewelhouse.release.lint.rules import Rule, Severity

ERROR, WARNING, NOTE = Severity.ERROR, Severity.WARNING, Severity.NOTE

IAM = "docs.aws.amazon.com/IAM/latest/UserGuide/"
KMS = "docs.aws.amazon.com/kms/latest/developerguide/"
OPERATORS = IAM + "reference_policies_elements_condition_operators.html, 2026-10"
MULTI_VALUE = IAM + "reference_policies_multi-value-conditions.html, 2026-10"
SET_OPERATORS = IAM + "reference_policies_condition-single-vs-multi-valued-context-keys.html, 2026-10"
ENCLAVE_KEYS = KMS + "conditions-nitro-enclave.html, 2026-10"
TPM_KEYS = KMS + "conditions-nitro-tpm.html, 2026-10"
GRANTS = KMS + "grants.html, 2026-10"
NSM = "aws/aws-nitro-enclaves-nsm-api: docs/attestation_process.md, 2026-09"
ADVISORY = "GHSA-xrv8-2pf5-f3q7; aws/nitrotpm-attestation-samples: nix/README.md, 2026-10"

RULES: tuple[Rule, ...] = (
    Rule(
        id="JH-AWS-001",
        severity=ERROR,
        title="the key opens without attestation",
        why="One Allow without registers is enough, whatever conditions stand in the Allows beside it.",
        remedy="remove the statement, or give it the registers of a measured image; deny Decrypt to every "
        "call without a document",
        source="aws/aws-nitro-enclaves-sdk-c issues 100 and 157; aws/nitrotpm-attestation-samples PR 22, "
        "2026-10",
        check=openings.no_document,
    ),
    Rule(
        id="JH-AWS-002",
        severity=ERROR,
        title="somebody may create a grant",
        why="A grant carries no attestation, only encryption context and source: whoever creates one lets a "
        "principal in by the side.",
        remedy='add a Deny of kms:CreateGrant for Principal "*", or allow it under Bool '
        "kms:GrantIsForAWSResource true only",
        source=GRANTS + "; boto/botocore: botocore/data/kms (GrantConstraints), 1.44.5",
        check=openings.grants,
    ),
    Rule(
        id="JH-AWS-003",
        severity=WARNING,
        title="no Deny backs the attested Allow",
        why="Only an explicit Deny stops an existing grant, a second Allow, or an identity policy.",
        remedy='deny the named actions to Principal "*": Null of the register that every gate pins, '
        "StringNotEqualsIgnoreCase of each register, and CreateGrant without a condition",
        source="aws/nitrotpm-attestation-samples PR 22, 2026-10; " + OPERATORS,
        check=openings.not_denied,
    ),
    Rule(
        id="JH-AWS-004",
        severity=ERROR,
        title="the data key may be re-wrapped",
        why="ReEncryptFrom takes no document and moves the data key under a key that has no conditions.",
        remedy='remove kms:ReEncrypt* from the Allow and deny kms:ReEncryptFrom to Principal "*"',
        source="docs.aws.amazon.com/kms/latest/APIReference/API_ReEncrypt.html, 2026-10",
        check=openings.rewraps,
    ),
    Rule(
        id="JH-AWS-005",
        severity=WARNING,
        title="data keys are generated without attestation",
        why="Whoever generates a data key knows it in plaintext, and with it everything that is sealed by "
        "it.",
        remedy="let publishers make their own data key and allow them kms:Encrypt or the public half only",
        source="docs.aws.amazon.com/kms/latest/APIReference/API_GenerateDataKey.html, 2026-10",
        check=openings.generates_without_document,
    ),
    Rule(
        id="JH-AWS-006",
        severity=ERROR,
        title="the condition holds when the register is absent",
        why="IfExists and ForAllValues are met by a call that has no document at all.",
        remedy="write StringEqualsIgnoreCase without IfExists and without ForAllValues",
        source=OPERATORS + "; " + SET_OPERATORS,
        check=statements.passes_when_absent,
    ),
    Rule(
        id="JH-AWS-007",
        severity=ERROR,
        title="several registers in one Deny",
        why="Keys of one statement are ANDed: the Deny spares whoever has one of the registers right.",
        remedy="write one Deny statement for each register",
        source=MULTI_VALUE,
        check=statements.several_registers_in_one_deny,
    ),
    Rule(
        id="JH-AWS-008",
        severity=WARNING,
        title="a Deny of unattested calls has an exception",
        why="A second condition beside the register spares all who do not meet it, without any document.",
        remedy="remove the second condition; let the publisher seal with the public half instead",
        source=MULTI_VALUE,
        check=statements.deny_with_exceptions,
    ),
    Rule(
        id="JH-AWS-009",
        severity=ERROR,
        title="the pinned registers do not fix the image",
        why="Any document, or any image that keeps those registers, opens the key. Registers from PCR16 "
        "on are extended by the enclave itself.",
        remedy="pin PCR0 (kms:RecipientAttestation:ImageSha384); on NitroTPM PCR4 with PCR12",
        source="aws/aws-nitro-enclaves-image-format: README.md, 2026-09; " + ENCLAVE_KEYS,
        check=registers.any_image,
    ),
    Rule(
        id="JH-AWS-010",
        severity=ERROR,
        title="PCR3 and PCR4 only",
        why="They measure the role and the instance of the parent. A debug enclave keeps both, and so "
        "does every other image on that instance.",
        remedy="pin PCR0 beside them",
        source=NSM + "; evervault/attestation-doc-validation (a debug document with PCR3 and PCR4), 2022-10",
        check=registers.parent_registers_only,
    ),
    Rule(
        id="JH-AWS-011",
        severity=ERROR,
        title="PCR2 of every image with one ramdisk",
        why="With one ramdisk PCR2 is the digest of nothing, the same for everybody.",
        remedy="pin PCR0",
        source="tkhq/qos: README.md; aws/aws-nitro-enclaves-image-format: src/utils, 2026-09",
        check=registers.one_ramdisk,
    ),
    Rule(
        id="JH-AWS-012",
        severity=ERROR,
        title="zeros pinned: a debug enclave",
        why="An enclave in debug mode reports zeros in PCR0, PCR1, PCR2 and PCR8, and its console is open.",
        remedy="pin the values of the production image; leave PCR8 out for an image that is not signed",
        source=NSM + "; " + ENCLAVE_KEYS,
        check=registers.debug_zeroes,
    ),
    Rule(
        id="JH-AWS-013",
        severity=WARNING,
        title="any image of the signer",
        why="PCR8 is the signing certificate: every image that was or will be signed with it opens the key.",
        remedy="pin PCR0 beside PCR8, unless the signer is meant to decide on releases",
        source="docs.aws.amazon.com/enclaves/latest/user/set-up-attestation.html, 2026-10",
        check=registers.any_image_of_the_signer,
    ),
    Rule(
        id="JH-AWS-014",
        severity=ERROR,
        title="a boot register of zeros",
        why="Every boot extends PCR4 and PCR7, so no instance ever shows zeros there.",
        remedy="pin the values that nitro-tpm-pcr-compute prints for the image",
        source="aws/NitroTPM-Tools: nitro-tpm-pcr-compute/src/main.rs, 2026-09",
        check=registers.never_extended,
    ),
    Rule(
        id="JH-AWS-015",
        severity=ERROR,
        title="PCR7 with Secure Boot off",
        why="With Secure Boot off PCR7 is one constant for every instance in the world.",
        remedy="pin PCR4 with PCR12 of zeros, or enrol Secure Boot keys and pin the PCR7 of those",
        source="aws/NitroTPM-Tools: nitro-tpm-pcr-compute/src/main.rs, 2026-09",
        check=registers.secure_boot_off,
    ),
    Rule(
        id="JH-AWS-016",
        severity=ERROR,
        title="PCR4 without PCR12",
        why="With Secure Boot off a command line from outside is appended to the unified kernel image, "
        "and PCR4 does not cover it.",
        remedy="pin PCR12 as 96 zeros beside PCR4, or PCR7 under Secure Boot",
        source=ADVISORY,
        check=registers.command_line_open,
    ),
    Rule(
        id="JH-AWS-017",
        severity=ERROR,
        title="PCR12 is not zeros",
        why="PCR12 measures what was added to the command line from outside; only zeros say that nothing "
        "was.",
        remedy="pin PCR12 as 96 zeros and bake the command line into the image",
        source=ADVISORY,
        check=registers.command_line_added,
    ),
    Rule(
        id="JH-AWS-018",
        severity=NOTE,
        title="any image of the Secure Boot keys",
        why="PCR7 measures the policy of Secure Boot, so every image that its keys signed opens the key.",
        remedy="pin PCR4 beside PCR7, unless the signer is meant to decide on releases",
        source=TPM_KEYS,
        check=registers.signer_of_boot_only,
    ),
    Rule(
        id="JH-AWS-019",
        severity=ERROR,
        title="the account's root is given what opens the key",
        why="A statement for the root of an account leaves the decision to the identity policies of that "
        "account: an administrator of it needs no document.",
        remedy="name the role that administers the key, with its actions one by one and none that opens it",
        source=KMS + "key-policy-default.html, 2026-10",
        check=openings.delegates,
    ),
    Rule(
        id="JH-AWS-020",
        severity=ERROR,
        title="every action is allowed",
        why="kms:* and NotAction take in Decrypt, ReEncryptFrom, CreateGrant and PutKeyPolicy, and "
        "whatever KMS adds later.",
        remedy="list the administrative actions one by one",
        source=KMS + "key-policy-default.html; aws-samples/"
        "sample-code-for-a-secure-vault-using-aws-nitro-enclaves (NotAction: kms:Decrypt), 2026-10",
        check=statements.whole_service,
    ),
    Rule(
        id="JH-AWS-021",
        severity=WARNING,
        title="a pattern takes in an action that opens the key",
        why="kms:Create* holds CreateGrant, kms:Put* PutKeyPolicy, kms:ReEncrypt* ReEncryptFrom.",
        remedy="list the actions one by one",
        source=KMS + "key-policy-default.html (key administrators), 2026-10",
        check=statements.action_pattern,
    ),
    Rule(
        id="JH-AWS-022",
        severity=ERROR,
        title="everybody is allowed",
        why='Principal "*" means every account in the world, unless a condition that must hold closes it.',
        remedy="name the role, or require kms:CallerAccount, aws:PrincipalArn or aws:PrincipalOrgID",
        source=IAM + "reference_policies_elements_principal.html, 2026-10",
        check=openings.everybody,
    ),
    Rule(
        id="JH-AWS-023",
        severity=ERROR,
        title="no such condition key",
        why="KMS fills in ImageSha384, PCR0-31 and NitroTPMPCR0-23. Another key, also "
        "kms:RecipientAttestation alone, is always absent: the Allow never opens, the negated Deny always "
        "denies.",
        remedy="write kms:RecipientAttestation:ImageSha384 or kms:RecipientAttestation:NitroTPMPCR4 and "
        "the like",
        source="aws/aws-nitro-enclaves-sdk-c issue 157; " + ENCLAVE_KEYS,
        check=statements.no_such_key,
    ),
    Rule(
        id="JH-AWS-024",
        severity=ERROR,
        title="a NitroTPM register under an enclave's key",
        why="kms:RecipientAttestation:PCR4 and PCR7 are registers of an enclave; an older page of AWS "
        "shows them for NitroTPM. A NitroTPM document never has them.",
        remedy="write kms:RecipientAttestation:NitroTPMPCR4 and NitroTPMPCR12",
        source="docs.aws.amazon.com/AWSEC2/latest/UserGuide/prepare-attestation-service.html (its two "
        "versions differ), 2026-10; " + TPM_KEYS,
        check=statements.tpm_register_with_enclave_key,
    ),
    Rule(
        id="JH-AWS-025",
        severity=ERROR,
        title="an action that cannot carry a document",
        why="Only Decrypt, DeriveSharedSecret, GenerateDataKey, GenerateDataKeyPair and GenerateRandom "
        "take a Recipient. For Sign, Encrypt or ReEncrypt the registers are absent and the Allow never "
        "holds.",
        remedy="allow those actions in a statement without registers, or not at all",
        source="aws/aws-nitro-enclaves-sdk-c issue 127; boto/botocore: botocore/data/kms (RecipientInfo), "
        "1.44.5",
        check=statements.action_without_recipient,
    ),
    Rule(
        id="JH-AWS-026",
        severity=ERROR,
        title="lists of values admit a mix of old and new",
        why="Each list is met on its own, so an old signer with a new image, or an old kernel with a new "
        "application, opens the key.",
        remedy="write one Allow for each release, with one value of every register",
        source=MULTI_VALUE,
        check=registers.mixed_images,
    ),
    Rule(
        id="JH-AWS-027",
        severity=WARNING,
        title="one Allow for several releases",
        why="PCR0 fixes each image, but the statement reads as if every mix were meant, and a register "
        "that is added later does mix.",
        remedy="write one Allow for each release, with one value of every register",
        source=MULTI_VALUE,
        check=registers.listed_together,
    ),
    Rule(
        id="JH-AWS-028",
        severity=ERROR,
        title="a condition that no document can meet",
        why="A document has the registers of an enclave or those of a NitroTPM: a Deny that misses one kind "
        "blocks the other, and a value that the Denies do not list is never released.",
        remedy="give each kind of TEE a key of its own; list in the Denies what the Allows pin",
        source=ENCLAVE_KEYS + "; " + OPERATORS,
        check=openings.contradiction,
    ),
    Rule(
        id="JH-AWS-029",
        severity=WARNING,
        title="two kinds of TEE share one key",
        why="The Denies that close one kind deny the other, so one of them stays open to calls without a "
        "document, or shut.",
        remedy="give each kind of TEE a key of its own",
        source=TPM_KEYS,
        check=statements.two_kinds,
    ),
    Rule(
        id="JH-AWS-030",
        severity=ERROR,
        title="a measurement that no document has",
        why="KMS shows registers as 96 lower-case hex digits and compares text: an Allow on anything else "
        "never opens, a negated Deny always denies.",
        remedy="write the SHA-384 as the build prints it, under StringEqualsIgnoreCase",
        source=ENCLAVE_KEYS,
        check=statements.malformed_value,
    ),
    Rule(
        id="JH-AWS-031",
        severity=ERROR,
        title="a pattern in place of a measurement",
        why="StringLike with a star admits every image whose digest begins or ends so; such an image can be "
        "searched for, and a star alone admits all.",
        remedy="write the whole value under StringEqualsIgnoreCase",
        source=OPERATORS,
        check=statements.pattern_value,
    ),
    Rule(
        id="JH-AWS-032",
        severity=WARNING,
        title="the role is not named",
        why="With `*` or an account as principal, anybody there who obtains a document of the image, and the "
        "wrapped data key, may ask.",
        remedy="name the role of the stage",
        source=IAM + "reference_policies_elements_principal.html, 2026-10",
        check=registers.any_principal,
    ),
    Rule(
        id="JH-AWS-033",
        severity=WARNING,
        title="the operator is able to edit the policy",
        why="Who may PutKeyPolicy, CreateGrant or ReplicateKey opens the key tomorrow. In the account "
        "that runs the stages that is the operator, from whom the image is to be kept.",
        remedy="hold the key in the account of the artifact's owner and name the stage's role across "
        "accounts",
        source="Dstack-TEE/dstack: docs/aws-attested-instance-security-evaluation.md (property 7), 2026-10",
        check=openings.releasing_account_edits,
    ),
    Rule(
        id="JH-AWS-034",
        severity=ERROR,
        title="kms:ViaService beside registers",
        why="An enclave calls KMS itself; a service that calls on its behalf passes no document. The "
        "Allow never holds.",
        remedy="remove kms:ViaService from the attested Allow; use it in a Deny if services are to be "
        "kept out",
        source=KMS + "conditions-kms.html#conditions-kms-via-service, 2026-10",
        check=statements.via_service,
    ),
    Rule(
        id="JH-AWS-035",
        severity=NOTE,
        title="an encryption context beside registers",
        why="Asymmetric keys take no encryption context: on an RSA key the condition never holds.",
        remedy="bind artifact and version as associated data of the sealed files; keep this for a "
        "symmetric key",
        source=KMS + "encrypt_context.html, 2026-10",
        check=statements.encryption_context,
    ),
    Rule(
        id="JH-AWS-036",
        severity=ERROR,
        title="a time that cannot be read",
        why="Date operators take ISO 8601 or seconds since 1970; anything else never compares, so the "
        "licence never holds or never ends.",
        remedy="write it as 2027-12-31T00:00:00Z",
        source=OPERATORS,
        check=statements.malformed_time,
    ),
    Rule(
        id="JH-AWS-037",
        severity=WARNING,
        title="a Deny for some only",
        why="The next Allow names somebody whom this Deny does not mean. NotPrincipal leaves out whom it "
        "names, with every session of theirs.",
        remedy='write Principal "*" in every Deny that keeps unattested calls out',
        source=IAM + "reference_policies_elements_notprincipal.html, 2026-10",
        check=statements.deny_for_some,
    ),
    Rule(
        id="JH-AWS-038",
        severity=WARNING,
        title="a network condition shuts its owner out",
        why="A Deny by endpoint or address also denies PutKeyPolicy from the console and from CI, where "
        "the policy is deployed; only AWS support can undo that.",
        remedy="limit the Deny to the actions that open the key, or exempt the deployer by aws:PrincipalArn",
        source=IAM + "reference_policies_condition-keys.html (aws:SourceVpce), 2026-10",
        check=statements.network_locks_administration,
    ),
    Rule(
        id="JH-AWS-039",
        severity=ERROR,
        title="a statement without effect",
        why="KMS stores a statement that lacks Action or Resource and ignores it: a Deny like that closes "
        "nothing.",
        remedy='give it Principal, Action and Resource ("*")',
        source="docs.aws.amazon.com/kms/latest/APIReference/API_CreateKey.html (Policy), 2026-10",
        check=statements.without_effect,
    ),
    Rule(
        id="JH-AWS-040",
        severity=ERROR,
        title="larger than KMS takes",
        why="KMS refuses key policies over 32 KiB, so the change that is under review is never deployed.",
        remedy="let fewer stages open one artifact, or finish a roll-out",
        source=KMS + "resource-limits.html, 2026-10",
        check=statements.too_large,
    ),
    Rule(
        id="JH-AWS-041",
        severity=NOTE,
        title="nobody may change the policy",
        why="KMS refuses such a policy unless its lock-out check is bypassed, and then the key can never be "
        "managed again: images are rotated by a new key.",
        remedy="keep PutKeyPolicy for one role of the owner, or mean it and plan a key for each release",
        source="docs.aws.amazon.com/kms/latest/APIReference/API_PutKeyPolicy.html "
        "(BypassPolicyLockoutSafetyCheck), 2026-10",
        check=openings.locked,
    ),
    Rule(
        id="JH-AWS-042",
        severity=WARNING,
        title="a statement that cannot be judged",
        why="What is not understood counts as open in an Allow and as absent in a Deny, so other findings "
        "may be too many, and differences are not decided.",
        remedy="write it with the elements and operators of the IAM policy grammar",
        source=IAM + "reference_policies_grammar.html, 2026-10",
        check=statements.cannot_be_judged,
    ),
)
