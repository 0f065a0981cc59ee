"""What the core needs from outside, as protocols: `agent.aws` has each on AWS, `agent.testing` in memory.

Every implementation of a port passes the port's suite in tests/contracts. Methods raise `agent.errors` only. A door
imports the ports it has, so none is imported here.
"""
