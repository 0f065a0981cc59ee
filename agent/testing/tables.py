"""Tables as the infrastructure makes them, for moto or an emulator: pk and sk, and indexes with keys and status."""

from typing import Any


def create_table(client: Any, name: str, **indexes: tuple[str, str]) -> None:  # noqa: ANN401 - any DynamoDB client
    """Create a table; an index is named by its keyword and has a partition and a sort key."""
    keys = {"pk", "sk"} | {key for index in indexes.values() for key in index}
    more: dict[str, Any] = {}
    if indexes:
        more["GlobalSecondaryIndexes"] = [
            {
                "IndexName": index,
                "KeySchema": _keys(*pair),
                "Projection": {"ProjectionType": "INCLUDE", "NonKeyAttributes": ["status"]},
            }
            for index, pair in indexes.items()
        ]
    client.create_table(
        TableName=name,
        BillingMode="PAY_PER_REQUEST",
        KeySchema=_keys("pk", "sk"),
        AttributeDefinitions=[{"AttributeName": key, "AttributeType": "S"} for key in sorted(keys)],
        **more,
    )


def _keys(partition: str, sort: str) -> list[dict[str, str]]:
    return [{"AttributeName": partition, "KeyType": "HASH"}, {"AttributeName": sort, "KeyType": "RANGE"}]
