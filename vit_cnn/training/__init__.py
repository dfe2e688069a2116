"""The training loop and its pieces.

Begin with ``loop.py``. Then ``step.py`` (forward, loss, backward), ``batches.py`` and ``augment.py`` (what the network
sees), ``optim.py`` (optimiser and learning rate), ``state.py`` (first weights, and what a checkpoint holds) and
``scoring.py`` (loss and accuracy on other images). The other files are parts of these.
"""
