"""What CloudWatch Logs masks in every log group, should it get so far: a third line behind Keepgate's own two.

Nothing of the kind is written (`lambdas.redacting`); this covers what is written around the runtime, Lambda's own lines
or a library that prints. Masked text is seen only with `logs:Unmask`, which Keepgate gives to nobody.
"""

from aws_cdk import aws_logs as logs

_MANAGED = (
    "AwsSecretKey",
    "OpenSshPrivateKey",
    "PgpPrivateKey",
    "PkcsPrivateKey",
    "PuttyPrivateKey",
    "EmailAddress",
    "CreditCardNumber",
    "BankAccountNumber-DE",
    "BankAccountNumber-ES",
    "BankAccountNumber-FR",
    "BankAccountNumber-GB",
    "BankAccountNumber-IT",
    "NationalIdentificationNumber-DE",
    "NationalIdentificationNumber-ES",
    "NationalIdentificationNumber-IT",
    "NationalInsuranceNumber-GB",
    "InseeCode-FR",
    "Ssn-US",
    "PhoneNumber-DE",
    "PhoneNumber-ES",
    "PhoneNumber-FR",
    "PhoneNumber-GB",
    "PhoneNumber-IT",
    "PhoneNumber-US",
)
"""AWS's identifiers (CloudWatch Logs user guide, "Types of data that you can protect")."""

_CUSTOM = (("Jwt", "eyJ[A-Za-z0-9_-]{10,}"), ("BearerToken", "[Bb]earer [A-Za-z0-9._-]{16,}"))
"""Logs takes few signs in a pattern, so not a token's rarest, `~` (user guide, "Custom data identifiers")."""


def protection() -> logs.DataProtectionPolicy:
    """Return the policy of a log group."""
    return logs.DataProtectionPolicy(
        name="keepgate-no-contents",
        description="Personal data and secrets are masked; nothing of the kind should be here",
        identifiers=[
            *(logs.DataIdentifier(name) for name in _MANAGED),
            *(logs.CustomDataIdentifier(name, regex) for name, regex in _CUSTOM),
        ],
    )
