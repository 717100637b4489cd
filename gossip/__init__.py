"""Core layer: what a peer does, as pure functions and one state machine. No IO, clock or global randomness.

``from quidnunc.gossip import Task, Site`` is all that user code needs, and it does not import torch.
"""

from quidnunc.gossip.task import Site, Task

__all__ = ["Site", "Task"]
