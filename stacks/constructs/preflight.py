"""Answers to browsers that ask, before a page of another origin calls the API, whether it may (CORS preflight).

The gateway answers them itself, from a template: a preflight carries no token, so no code of ours runs for it. A
response mapping can name one origin only; where there are more, its template puts the caller's in the place of the
first, if it is one of them. An origin that is not allowed sees the first one, which its browser takes for a no.
"""

from collections.abc import Sequence

from aws_cdk import aws_apigateway as apigateway

from lambdas.headers import PREFLIGHT_S, REQUEST_HEADERS, SECURITY, Cors
from stacks.findings import accept

STATUS = "204"


def answer_preflight(resource: apigateway.Resource, cors: Cors, verbs: Sequence[str]) -> None:
    """Add OPTIONS to a resource whose methods are `verbs`, where any origin is allowed."""
    if not cors.origins:
        return
    headers = {
        **SECURITY,
        "Access-Control-Allow-Origin": cors.origins[0],
        "Access-Control-Allow-Methods": ",".join(sorted(verbs)),
        "Access-Control-Allow-Headers": ",".join(REQUEST_HEADERS),
        "Access-Control-Max-Age": str(PREFLIGHT_S),
        "Vary": "Origin",
    }
    values = {f"method.response.header.{name}": _literal(value) for name, value in headers.items()}
    integration = apigateway.MockIntegration(
        request_templates={"application/json": f'{{"statusCode": {STATUS}}}'},
        passthrough_behavior=apigateway.PassthroughBehavior.WHEN_NO_TEMPLATES,
        integration_responses=[
            apigateway.IntegrationResponse(
                status_code=STATUS,
                response_parameters=values,
                response_templates={"application/json": _other_origins(cors.origins[1:])} if cors.origins[1:] else None,
            )
        ],
    )
    method = resource.add_method(
        "OPTIONS",
        integration,
        authorization_type=apigateway.AuthorizationType.NONE,
        method_responses=[
            apigateway.MethodResponse(status_code=STATUS, response_parameters=dict.fromkeys(values, True))
        ],
    )
    accept(
        method,
        "Browsers send a preflight without a token; the gateway answers it with constants, and no code runs.",
        "AwsSolutions-APIG4",
        "AwsSolutions-COG4",
    )


def gateways_own(cors: Cors) -> dict[str, str]:
    """Return the CORS headers of the gateway's own refusals, as its mapping expressions.

    Their mapping knows no conditions. With several origins the caller's own is repeated: these answers are constants
    that hold nothing of anybody, and no browser lets another origin send a token, whose preflight fails.
    """
    if not cors.origins:
        return {}
    only = _literal(cors.origins[0]) if len(cors.origins) == 1 else "method.request.header.Origin"
    return {"Access-Control-Allow-Origin": only, "Vary": "'Origin'"}


def _literal(value: str) -> str:
    """Return a mapping expression that is just this text. A quote in it needs no escape: only the outer two count."""
    return f"'{value}'"


def _other_origins(origins: Sequence[str]) -> str:
    cases = " || ".join(f'$origin == "{origin}"' for origin in origins)
    return (
        '#set($origin = $input.params().header.get("Origin"))'
        '#if(!$origin)#set($origin = $input.params().header.get("origin"))#end'
        f"#if({cases})#set($context.responseOverride.header.Access-Control-Allow-Origin = $origin)#end"
    )
