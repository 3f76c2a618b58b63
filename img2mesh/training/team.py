"""The processes that train one network together, through accelerate; a process alone asks nobody.

Each process computes whole losses, and what a step changes is computed by all of them alike, so that all that travels are sums:
one of the gradients, after the last backward pass of a step, and one of the terms. A network is therefore not wrapped in
anything: gradient checkpointing, layers with a backward pass of their own and names of parameters stay as they are.
"""

from datetime import timedelta

import torch
from accelerate import PartialState
from accelerate.utils import broadcast, reduce
from torch import Tensor

# How long the others wait for the process that writes the weights and scores them.
_PATIENCE = timedelta(hours=1)


class Team:
    """This process among all of them, which `torch.distributed.run` or `accelerate launch` has started.

    Attributes:
        size: Number of processes.
        rank: Which one this is, from 0.
        leads: Whether this one writes what a person reads.
    """

    def __init__(self, *, cpu: bool) -> None:
        self._state = PartialState(cpu=cpu, timeout=_PATIENCE)
        self.size: int = self._state.num_processes
        self.rank: int = self._state.process_index
        self.leads: bool = self._state.is_main_process

    def add_up(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its sum over all processes, which call this with the same shapes in the same order."""
        if self.size == 1:
            return
        flat: Tensor = reduce(torch.cat([tensor.detach().flatten().float() for tensor in tensors]), "sum")
        for tensor, total in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.detach().copy_(total.view_as(tensor))

    def as_the_leader_says(self, answer: bool) -> bool:
        """The leader's answer to a question that depends on the clock."""
        if self.size == 1:
            return answer
        return bool(broadcast(torch.tensor(answer, device=self._state.device).int()).item())

    def wait(self) -> None:
        """Return when all processes have come here."""
        self._state.wait_for_everyone()
