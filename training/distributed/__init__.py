"""Several processes for one run, on Ray: collectors, and a learner of the actor. The process of train.py owns replay,
counters, schedule and checkpoints; it alone writes into the run's folder.
"""
