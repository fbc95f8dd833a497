"""Checks that the options of an audit agree. Each function checks one rule and returns what is wrong, if anything."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from mithridate.configuration.parts import ESTIMATORS, TUNINGS, USUAL, one_of

WIDEST = 2**16
"""The largest width of a hidden layer."""
"""The largest width of a hidden layer."""


OF_MODELS = (
    *("model", "loss", "penalty", "hidden", "victim", "inner", "attack", "initial", "defences", "folds", "tune_by"),
    *("hyperiterations", "joint_hyperiterations", "hypergradient", "space", "poison_step", "poison_rule", "hyper_step"),
    *("hyper_rule", "closing", "select", "alternate", "learning_rate", "inner_steps", "inner_batch", "stabilise"),
    *("bounds", "strengths", "strength_bounds", "train_learning_rate", "batch_size", "precision"),
)
"""The options of victims that are trained by this program, which say nothing of an estimator."""
PICKLED = (".pkl", ".pickle", ".joblib", ".skops", ".cloudpickle", ".onnx")


def check_of_estimator(given: Mapping[str, Any], usual: Mapping[str, Any]) -> None:
    """Raise `ValueError` for options that an audit of estimators does not have, other than by default."""
    for name in OF_MODELS:
        if name in given and _plain(given[name]) != _plain(usual[name]):
            raise ValueError(
                f"{name} = {given[name]!r}: with estimator the victim is the estimator, which sets this itself; leave "
                "the option out, or audit a model (without estimator)"
            )


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def unknown_estimator(text: str) -> str:
    """Return what is wrong with a text that names no estimator."""
    path = text.rpartition(":")[0] or text
    if path.lower().endswith(PICKLED) or text.lower().endswith(PICKLED):
        return (
            f"estimator = {text!r}: a stored model is fitted already, and reading it could run anybody's code; name "
            "the code that makes it, as file.py:attribute, or pass the object in Python (mi.audit(…, estimators=[…]))"
        )
    if text.endswith(".py"):
        return f"estimator = {text!r}: say what in the file it is, as {text}:pipeline"
    return one_of("estimator", text, ESTIMATORS, ", or module:attribute or file.py:attribute for one of your own")


def _estimators(config: Any) -> str:
    tunings = [policy for policy in config.policies if isinstance(policy, str) and policy in (*TUNINGS, *USUAL)]
    if not config.estimators:
        if tunings and config.policies != USUAL:
            return f"policy = {tunings[0]}: only with estimator; λ of a model is set by learned, cv-clean, fixed=VALUE"
        alone = {"fits": config.fits is not None, "surrogates": config.surrogates != ("logistic",)}
        if said := [name for name, present in alone.items() if present]:
            return f"{said[0]} = {getattr(config, said[0])!r}: only with estimator"
        keeps = config.missing == "keep"
        return "missing = 'keep': only with estimator; a model needs numbers: use impute" * keeps
    for policy in config.policies:
        if policy not in (*TUNINGS, *USUAL):
            named = policy if isinstance(policy, str) else type(policy).__name__
            return one_of("policy", named, TUNINGS, " with an estimator, whose hyperparameters they are about")
    if config.objective.startswith("rows"):
        return f"objective = {config.objective}: not with estimator; use indiscriminate, target-class or misclassify"
    if config.execution not in ("auto", "serial") and not config.execution.startswith(("processes", "ray")):
        return f"execution = {config.execution}: an estimator runs on no accelerator; use serial, processes or ray"
    return ""


def _points(config: Any) -> str:
    share = config.points / (config.train + config.points * (config.budget == "added"))
    if config.points > config.train:
        return (
            f"points = {config.points}: more than the {config.train} training rows ({share:.1%} poison); lower points "
            "or poison, or raise train"
        )
    cloned = config.attack == "bilevel" and config.objective == "indiscriminate"
    if cloned and config.points > config.valid:
        return (
            f"points = {config.points} ({share:.1%} poison of {config.train} training rows): more than the "
            f"{config.valid} validation rows that points are cloned from; raise valid, or lower poison"
        )
    return f"batch = {config.batch}: more than all {config.points} points" * (config.batch > config.points)


def _edits(config: Any) -> str:
    attack, edits = config.attack, config.edits
    if (attack, edits) == ("flips", "features"):
        return "attack = flips, edits = features: there is no label to flip; use edits = both or labels"
    if (attack, edits) == ("bilevel", "labels"):
        return "attack = bilevel, edits = labels: Algorithm 1 moves features; use attack = portfolio, or edits = both"
    return ""


def _cross_validated(policies: Iterable[Any]) -> bool:
    return any(isinstance(policy, str) and policy.startswith("cv-") for policy in policies)


def _folds(config: Any) -> str:
    most = config.train // 2
    many = config.folds > most and _cross_validated(config.policies)
    return f"folds = {config.folds}: more than half of the {config.train} training rows" * many


def _strengths(config: Any) -> str:
    if config.strengths == "one" or not _cross_validated(config.policies):
        return ""
    return (
        f"strengths = {config.strengths}: cross-validation over a grid of several λ would take too long; search "
        "at random with policy search-clean=60 (60 vectors tried), or use strengths = one"
    )


def _network(config: Any) -> str:
    if config.model != "mlp":
        return ""
    if not 1 <= min(config.hidden) <= max(config.hidden) <= WIDEST:
        return f"hidden = {config.hidden}: the width of every layer must be from 1 to {WIDEST:,}"
    exact = "exact" in (config.victim, config.inner)
    return "an mlp cannot be solved to optimality: its objective is not convex; use victim = sgd" * exact


def _inner_batch(config: Any) -> str:
    if not config.inner_batch or config.inner == "sgd":
        return ""
    return f"inner_batch = {config.inner_batch}: inner = {config.inner} has no batches; use inner = sgd"


def _hypergradient(config: Any) -> str:
    if config.inner != "exact" or config.hypergradient in ("auto", "implicit"):
        return ""
    return (
        f"hypergradient = {config.hypergradient} differentiates training steps, and inner = exact has none; "
        "use implicit"
    )


def _closing(config: Any) -> str:
    learned = any(isinstance(policy, str) and policy == "learned" for policy in config.policies)
    if config.tune_by == "loss" or config.closing or not learned:
        return ""
    return "tune_by = error: with closing = False, λ is only tuned by the loss; use closing = True"


def _score(config: Any) -> str:
    if config.score == "error" or config.objective == "indiscriminate":
        return ""
    return (
        f"score = {config.score}, objective = {config.objective}: a targeted attacker is scored by his own aim; use "
        "score = error, or objective = indiscriminate"
    )


def _order(config: Any) -> str:
    for name in ("bounds", "strength_bounds"):
        pair = getattr(config, name)
        if pair and pair[0] > pair[1]:
            return f"{name} = {pair}: the wrong way round; give the lower bound first"
    return ""


CHECKS: tuple[Callable[[Any], str], ...] = (
    *(
        _estimators,
        _points,
        _edits,
        _folds,
        _strengths,
        _network,
        _inner_batch,
        _hypergradient,
        _closing,
        _score,
        _order,
    ),
)
