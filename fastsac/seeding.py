"""Independent random streams from one seed."""

import numpy as np


def stream_seed(seed: int, stream: str) -> int:
    """Returns the seed of a named stream: two names never share their random numbers.

    Args:
        seed: the user's.
        stream: what the random numbers are for, such as "replay".
    """
    return int(np.random.SeedSequence([seed, *stream.encode()]).generate_state(1)[0])
