"""What a run leaves behind in its folder, and how it is read back.

========================== =========================================================================================
``metrics.jsonl``          a JSON object a line: ``step``, ``epoch``, ``seconds``, losses, accuracies, ``lr``,
                           ``grad_norm``, speed and memory; written before anything else
``result.json``            every figure of the best weights, with data, versions, commit, machine and config; written
                           last, so that its presence means that the run has finished
``predictions.npz``        logits, labels and image indices of validation and test, of the same weights
``last.pt``                everything needed to go on; ``previous.pt`` is the same one checkpoint earlier
``best.pt``                the weights of the best epoch by validation
``test_looks.jsonl``       a line for each look at the test images
``.hydra/config.yaml``     the resolved config; ``.hydra/lock`` while a process writes
``train.log``              what was said, and ``status.json`` how the run stands
``traceback.txt``          where it failed; ``skipped.txt``: files of images that cannot be read
========================== =========================================================================================
"""
