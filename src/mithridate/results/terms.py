"""The terms under which security teams file an audit. They follow from what the attacker wanted and could do.

In NIST AI 100-2 (Vassilev et al., 2025), objectives and attacks have identifiers, capabilities and knowledge have
names. MITRE ATLAS has techniques, OWASP has entries of its lists. docs/official-terms.md says how each term was
checked.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

CHECKED = "2026-11-28"
"""The day on which identifiers and names were last compared with the sources' public texts."""
NIST, ATLAS, OWASP = "NIST AI 100-2 E2025", "MITRE ATLAS v2026.09", "OWASP"


class Term(NamedTuple):
    """One term: its `source`, what it is `about`, its `id` ("" if it has none), its `name`, and `why` it applies."""

    source: str
    about: str
    id: str
    name: str
    why: str

    @property
    def words(self) -> str:
        """The term as text: `NISTAML.013 Data Poisoning: labels or features …`."""
        return f"{self.about}: {f'{self.id} {self.name}'.strip()} ({self.why})"


INDISCRIMINATE = (
    Term(NIST, "objective", "NISTAML.01", "Availability Breakdown", "errors of any kind are what the attacker wants"),
    Term(ATLAS, "impact", "AML.T0031", "Erode AI Model Integrity", "the model errs more often"),
    Term(ATLAS, "impact", "AML.T0059", "Erode Dataset Integrity", "the training rows are worth less"),
)
TARGETED = (
    Term(NIST, "objective", "NISTAML.02", "Integrity Violation", "certain rows shall get certain answers"),
    Term(NIST, "attack", "NISTAML.024", "Targeted Poisoning", "the rows aimed at are a class or a list"),
)
CLEAN_LABEL = (
    Term(NIST, "attack", "NISTAML.012", "Clean-label Poisoning", "features change and labels stay the true ones"),
    Term(NIST, "capability", "", "label limit", "the attacker does not control labels"),
)
LABELS = {
    "labels": Term(NIST, "attack", "NISTAML.013", "Data Poisoning", "labels are changed"),
    "both": Term(NIST, "attack", "NISTAML.013", "Data Poisoning", "labels and features are changed"),
}
ALWAYS = (
    Term(NIST, "stage", "", "training stage", "the attack is over when the model is trained"),
    Term(NIST, "capability", "", "training data control", "the attacker inserts or changes training rows"),
    Term(NIST, "knowledge", "", "white-box", "the attacker knows rows, model, training and defence"),
    Term(ATLAS, "technique", "AML.T0020", "Training Data Poisoning", "called Poison Training Data before v2026.07"),
    Term(OWASP, "Machine Learning Security Top 10", "ML02:2023", "Data Poisoning Attack", "training rows are changed"),
    Term(
        *(OWASP, "Top 10 for LLM Applications", "LLM05:2026", "Data and Model Poisoning"),
        "only where the model is a part of such an application; LLM04:2025 before",
    ),
)


def terms(config: Mapping[str, Any]) -> list[Term]:
    """Return the terms of an audit with this configuration, sorted by source."""
    targeted, edits = config["objective"] != "indiscriminate", config["edits"]
    found = [*ALWAYS, *(TARGETED if targeted else INDISCRIMINATE)]
    if edits == "features":
        found += CLEAN_LABEL
    elif not targeted:
        found.append(LABELS[edits])
    return sorted(found, key=lambda term: (NIST, ATLAS, OWASP).index(term.source))
