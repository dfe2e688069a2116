"""One training over several processes, as ``torchrun`` starts them.

Process 0 alone reads the command, writes, logs and decides; the others get from it what to train, and say nothing. A
process that was started alone is process 0 of 1: for it, nothing here does anything.

``together.py`` has what a training calls, ``joined.py`` how the processes meet and how they end. Torch is imported
where it is needed, since commands answer before it is there.
"""
