"""The runtime of a governed run, in pure Python: no AWS client, clock, randomness, environment or network here."""
