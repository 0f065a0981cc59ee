"""Who may sign in: the user pool, its groups, its client, and the trigger that completes access tokens.

`custom:tenant_id` is mutable, because an immutable attribute breaks sign-in through SAML or OIDC, and no client may
write it: only an administrator or an identity provider's mapping can.
"""

from aws_cdk import Duration, RemovalPolicy
from aws_cdk import aws_cognito as cognito
from aws_cdk import aws_lambda as lambda_
from constructs import Construct

from stacks.config import Stage
from stacks.findings import accept

ROLES = {
    "user": "Asks the agent",
    "approver": "Decides what needs a person",
    "operator": "Watches and tightens the own tenant's limits",
}
RESOURCE_SERVER, SCOPE = "keepgate", "runs"


class SignIn(Construct):
    """The user pool and its one client."""

    def __init__(self, scope: Construct, construct_id: str, *, stage: Stage, add_claims: lambda_.IFunction) -> None:
        super().__init__(scope, construct_id)
        self.pool = cognito.UserPool(
            self,
            "Pool",
            user_pool_name=stage.resource_name("users"),
            feature_plan=cognito.FeaturePlan.ESSENTIALS,
            self_sign_up_enabled=False,
            sign_in_aliases=cognito.SignInAliases(username=True, email=True),
            sign_in_case_sensitive=False,
            custom_attributes={"tenant_id": cognito.StringAttribute(min_len=1, max_len=40, mutable=True)},
            password_policy=cognito.PasswordPolicy(
                min_length=12,
                require_lowercase=True,
                require_uppercase=True,
                require_digits=True,
                require_symbols=True,
                temp_password_validity=Duration.days(3),
            ),
            mfa=cognito.Mfa.OPTIONAL,
            mfa_second_factor=cognito.MfaSecondFactor(otp=True, sms=False),
            account_recovery=cognito.AccountRecovery.EMAIL_ONLY,
            deletion_protection=stage.keeps_data,
            removal_policy=RemovalPolicy.RETAIN if stage.keeps_data else RemovalPolicy.DESTROY,
        )
        accept(
            self.pool,
            "A tenant decides for its people: most sign in through their company's identity provider, which asks for"
            " the second factor.",
            "AwsSolutions-COG2",
        )
        accept(
            self.pool,
            "Plus adds threat protection, for a higher price a user; WAF, SRP and short tokens stand before it.",
            "AwsSolutions-COG8",
        )
        self.pool.add_trigger(
            cognito.UserPoolOperation.PRE_TOKEN_GENERATION_CONFIG, add_claims, cognito.LambdaVersion.V2_0
        )
        for role, description in ROLES.items():
            cognito.UserPoolGroup(self, f"Group-{role}", user_pool=self.pool, group_name=role, description=description)
        runs = cognito.ResourceServerScope(scope_name=SCOPE, scope_description="Create and watch the own runs")
        server = self.pool.add_resource_server(
            "Api", identifier=RESOURCE_SERVER, user_pool_resource_server_name=RESOURCE_SERVER, scopes=[runs]
        )
        self.scope = cognito.OAuthScope.resource_server(server, runs).scope_name
        self.client = self.pool.add_client(
            "Client",
            generate_secret=False,
            auth_flows=cognito.AuthFlow(user_srp=True, user_password=stage.password_sign_in),
            disable_o_auth=True,
            access_token_validity=Duration.minutes(15),
            id_token_validity=Duration.minutes(15),
            refresh_token_validity=Duration.hours(12),
            enable_token_revocation=True,
            prevent_user_existence_errors=True,
            read_attributes=cognito.ClientAttributes()
            .with_standard_attributes(email=True, email_verified=True)
            .with_custom_attributes("tenant_id"),
            write_attributes=cognito.ClientAttributes().with_standard_attributes(email=True),
        )
