"""A bucket and a host, written by hand: as they should be, or with the mistakes that the pack refuses."""

import pulumi
import pulumi_aws as aws

careless = pulumi.Config().require_bool("careless")

bucket = aws.s3.Bucket("results")
aws.s3.BucketVersioning("results-versions", bucket=bucket.id, versioning_configuration={"status": "Enabled"})
if not careless:
    aws.s3.BucketPublicAccessBlock(
        "results-private",
        bucket=bucket.id,
        block_public_acls=True,
        block_public_policy=True,
        ignore_public_acls=True,
        restrict_public_buckets=True,
    )

aws.ec2.LaunchTemplate(
    "worker",
    instance_type="m7i.xlarge",
    key_name="ops" if careless else None,
    metadata_options={
        "http_tokens": "optional" if careless else "required",
        "http_put_response_hop_limit": 1,
    },
    block_device_mappings=[{"device_name": "/dev/xvda", "ebs": {"encrypted": "true"}}],
)

pulumi.export("bucket", bucket.bucket)
