"""What the tests of the running processes share: starting them, speaking to them, reading their metrics.

Everything waits for an event with a deadline (waiting.py); nothing sleeps for a fixed time.
"""
