"""Chains whose workers may be lost: the last known state of each chain, and how often it lost its worker."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mithridate.execution.work import Work

LOSSES = 2
"""How often a chain that lost its worker is tried again."""


@dataclass
class Attempt:
    """A chain in its last known state, from which it can be tried again."""

    work: Work
    chain: Any
    losses: int = 0

    def told(self, outcome: Any) -> Any:
        """Note what the chain has yielded, and return it."""
        self.chain = self.work.after(self.chain, outcome)
        return outcome

    def lost(self, how: str) -> Iterator[Any]:
        """Note that its worker is gone. If that happened too often, yield the outcome of a chain that is given up."""
        self.losses += 1
        if self.losses > LOSSES:
            yield from self.work.given_up(self.chain, f"{how}, {self.losses} times")

    @property
    def hopeful(self) -> bool:
        """Whether to try it again."""
        return self.losses <= LOSSES


def attempts(work: Work, chains: Sequence[Any]) -> list[Attempt]:
    """Return one attempt for each chain, the largest first, so that at the end no worker waits long for another."""
    return [Attempt(work, chain) for chain in sorted(chains, key=work.size, reverse=True)]
