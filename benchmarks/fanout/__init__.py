"""What one event to many streams costs, here and elsewhere: `python -m benchmarks.fanout`.

Every server is a real process on one core, the load client has another, everything is on
127.0.0.1, and the rounds are interleaved, so that a machine that gets slower in the middle does so
for all. The servers publish within their own process. Nothing fails for being slow.
"""
