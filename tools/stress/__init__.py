"""``polynix stress``: many containers full of processes that verify what they do, for as long as wanted.

The stressors are one static guest program (``stressor.c``), compiled at first use. Its workers count into a file that is mapped on both sides
(:mod:`.board`), so that watching costs the kernels nothing; :mod:`.run` starts, ramps, watches and ends the containers, and compares each with its baseline
afterwards; :mod:`.cluster` splits a run over machines; :mod:`.report` writes it down.
"""
