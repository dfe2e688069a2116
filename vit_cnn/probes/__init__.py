"""Probes: each puts one claim about the two networks to the test. Its docstring says what is predicted."""
