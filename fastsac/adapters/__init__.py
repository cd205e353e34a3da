"""The vector env in the shapes that other libraries take, a module each.

A world whose physics diverged ends its episode without a last observation, so every adapter hands
it out as terminated: nothing bootstraps from the zeros that stand in its place.
"""
