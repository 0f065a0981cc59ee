"""The ports on AWS: the only place in `agent` that imports boto3."""
