"""Chains in the hands of workers that may be lost: what is known of each, and how often that has happened."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mithridate.execution.work import Work

LOSSES = 2
"""How often a chain may lose its worker and be tried again."""


@dataclass
class Attempt:
    """A chain as far as it is known, which may be tried again from there."""

    work: Work
    chain: Any
    losses: int = 0

    def told(self, outcome: Any) -> Any:
        """Note what the chain has yielded, and return it."""
        self.chain = self.work.after(self.chain, outcome)
        return outcome

    def lost(self, how: str) -> Iterator[Any]:
        """Note that its worker is gone; yield what the chain comes to when that was once too often."""
        self.losses += 1
        if self.losses > LOSSES:
            yield from self.work.given_up(self.chain, f"{how}, {self.losses} times")

    @property
    def hopeful(self) -> bool:
        """Whether it is to be tried again."""
        return self.losses <= LOSSES


def attempts(work: Work, chains: Sequence[Any]) -> list[Attempt]:
    """Return one attempt for each chain, the largest first: so at the end no worker waits long for another."""
    return [Attempt(work, chain) for chain in sorted(chains, key=work.size, reverse=True)]
