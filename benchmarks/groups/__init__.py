"""The cost of groups with one reader each, here and elsewhere: `python -m benchmarks.groups`.

In `benchmarks.fanout` one event goes to many streams of one group. Here each stream has groups that
no other stream has, as with notifications. Each phase starts its servers with an empty log. A slow
server fails no test.
"""
