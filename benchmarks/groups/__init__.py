"""What groups of their own cost, here and elsewhere: `python -m benchmarks.groups`.

The other half of `benchmarks.fanout`, by the same means: there one event goes to many streams of
one group, here each stream has groups that no other stream has, as with notifications. Each phase
starts its servers with an empty log. Nothing fails for being slow.
"""
