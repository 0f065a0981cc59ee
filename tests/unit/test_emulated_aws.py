"""The condition key that the emulator lacks: which partition keys a request to DynamoDB names."""

from typing import Any

import pytest

from local.emulated_aws import leading_keys

KEY = {"pk": {"S": "T#acme"}, "sk": {"S": "order#1"}}
OTHER = {"pk": {"S": "T#globex"}, "sk": {"S": "order#1"}}


@pytest.mark.parametrize(
    ("request_body", "keys"),
    [
        ({"Key": KEY}, ["T#acme"]),
        ({"Item": KEY | {"name": {"S": "x"}}}, ["T#acme"]),
        (
            {
                "KeyConditionExpression": "#p = :a AND begins_with(sk, :b)",
                "ExpressionAttributeNames": {"#p": "pk"},
                "ExpressionAttributeValues": {":a": {"S": "T#acme"}, ":b": {"S": "order"}},
            },
            ["T#acme"],
        ),
        (
            {
                "KeyConditionExpression": "sk = :b and pk=:a",
                "ExpressionAttributeValues": {":a": {"S": "T#acme"}, ":b": {"S": "T#globex"}},
            },
            ["T#acme"],
        ),
        ({"KeyConditions": {"pk": {"AttributeValueList": [{"S": "T#acme"}]}}}, ["T#acme"]),
        ({"RequestItems": {"table": {"Keys": [KEY, OTHER]}}}, ["T#acme", "T#globex"]),
        ({"TransactItems": [{"Put": {"Item": KEY}}, {"Update": {"Key": OTHER}}]}, ["T#acme", "T#globex"]),
        ({"TableName": "t"}, []),
        ({"Statement": "SELECT * FROM t"}, []),
    ],
)
def test_the_partition_keys_of_a_request(request_body: dict[str, Any], keys: list[str]) -> None:
    assert list(leading_keys(request_body)) == keys
