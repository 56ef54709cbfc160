"""Streams of randomness: whoever draws does so from (the run's seed, its stream, ...), so that no two draw the same."""

COLLECT = 0  # episodes to learn from
EVALUATE_WHILE_TRAINING = 1
SAMPLE = 2  # batches
EVALUATE = 3  # evaluate.py: other episodes than those that training evaluates on
PLAY = 4  # episodes in which an actor learns by their returns alone
FAILED = 5  # in the place of those whose episodes failed
RANK_NOISE = 5  # noise of the other ranks' updates; after it the rank and the update
COLLECTOR_NOISE = 6  # exploration in collectors that act at the same time
ACTOR_NOISE = 7  # updates of an actor that learns beside the model
ACTOR_SAMPLE = 8  # its batches
