"""What lasts: the customer key, five tables and the bucket.

No function lives here, so this stack is deployed first and changed least. Tables are on demand, so an idle deployment
pays for none of them; each can be restored to any second of 35 days.
"""

from aws_cdk import CfnOutput, Duration, RemovalPolicy
from aws_cdk import aws_dynamodb as dynamodb
from aws_cdk import aws_iam as iam
from aws_cdk import aws_kms as kms
from aws_cdk import aws_s3 as s3
from constructs import Construct

from stacks.config import Stage
from stacks.findings import accept
from stacks.stage_stack import StageStack

TTL_ATTRIBUTE = "expires_at"


class StateStack(StageStack):
    """Key, tables and bucket."""

    def __init__(self, scope: Construct, stage: Stage) -> None:
        super().__init__(scope, "State", stage)
        self._stage = stage
        self._removal = RemovalPolicy.RETAIN if stage.keeps_data else RemovalPolicy.DESTROY

        self.key = kms.Key(
            self,
            "Key",
            description=f"Keepgate {stage.name}: tables, files and alarms",
            enable_key_rotation=True,
            removal_policy=self._removal,
        )

        if stage.alarms:
            self.key.add_to_resource_policy(
                iam.PolicyStatement(
                    sid="AlarmsToTheEncryptedTopic",
                    principals=[iam.ServicePrincipal("cloudwatch.amazonaws.com")],
                    actions=["kms:Decrypt", "kms:GenerateDataKey"],
                    resources=["*"],  # in a key's policy: this key
                    conditions={"StringEquals": {"aws:SourceAccount": self.account}},
                )
            )

        self.runs = self._table("Runs")
        self._index(self.runs, "by_user", "user_key", "run_id")
        self._index(self.runs, "by_approval", "approval_key", "run_id")
        self._index(self.runs, "by_due", "due_shard", "due_at")
        self.ledger = self._table("Ledger")
        self.control = self._table("Control")
        self.tenant_data = self._table("TenantData")
        self.progress = self._table("Progress")

        self.files = s3.Bucket(
            self,
            "Files",
            encryption=s3.BucketEncryption.KMS,
            encryption_key=self.key,
            bucket_key_enabled=True,
            block_public_access=s3.BlockPublicAccess.BLOCK_ALL,
            object_ownership=s3.ObjectOwnership.BUCKET_OWNER_ENFORCED,
            enforce_ssl=True,
            minimum_tls_version=1.2,
            versioned=True,
            removal_policy=self._removal,
            lifecycle_rules=[
                s3.LifecycleRule(
                    abort_incomplete_multipart_upload_after=Duration.days(1),
                    expiration=Duration.days(90),
                    noncurrent_version_expiration=Duration.days(7),
                )
            ],
        )

        # Under a name of its own, so that the finding on who writes there can name it.
        self.files_arn_export = f"{self.stack_name}-FilesArn"
        self.files_arn = self.export_value(self.files.bucket_arn, name=self.files_arn_export)
        accept(
            self.files,
            "Who reads and writes objects is the data role alone, whose sessions name tenant and run in CloudTrail; a"
            " second bucket for access logs would repeat that, and need care of its own.",
            "AwsSolutions-S1",
        )

        CfnOutput(self, "RunsTable", value=self.runs.table_name)
        CfnOutput(self, "LedgerTable", value=self.ledger.table_name)
        CfnOutput(self, "ControlTable", value=self.control.table_name)
        CfnOutput(self, "TenantTable", value=self.tenant_data.table_name)
        CfnOutput(self, "FilesBucket", value=self.files.bucket_name)

    def _table(self, construct_id: str) -> dynamodb.Table:
        return dynamodb.Table(
            self,
            construct_id,
            partition_key=_string("pk"),
            sort_key=_string("sk"),
            billing_mode=dynamodb.BillingMode.PAY_PER_REQUEST,
            encryption=dynamodb.TableEncryption.CUSTOMER_MANAGED,
            encryption_key=self.key,
            point_in_time_recovery_specification=dynamodb.PointInTimeRecoverySpecification(
                point_in_time_recovery_enabled=True
            ),
            time_to_live_attribute=TTL_ATTRIBUTE,
            deletion_protection=self._stage.keeps_data,
            removal_policy=self._removal,
        )

    @staticmethod
    def _index(table: dynamodb.Table, name: str, partition: str, sort: str) -> None:
        """Add an index with the keys and the status: readers fetch headers by key, strongly consistent."""
        table.add_global_secondary_index(
            index_name=name,
            partition_key=_string(partition),
            sort_key=_string(sort),
            projection_type=dynamodb.ProjectionType.INCLUDE,
            non_key_attributes=["status"],
        )


def _string(name: str) -> dynamodb.Attribute:
    return dynamodb.Attribute(name=name, type=dynamodb.AttributeType.STRING)
