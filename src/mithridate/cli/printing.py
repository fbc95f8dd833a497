"""Prints results on the command line, as tables and sentences."""

import math

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from mithridate.checking.check import FAILING, PASSING, CheckResult
from mithridate.planning import ChainPlan, Plan, RefitPlan, duration, gib
from mithridate.results import tuned
from mithridate.results.records import flips_of
from mithridate.results.report.wording import cell, model, outcome, strengths
from mithridate.results.results import AuditResult
from mithridate.results.verdict import baseline, curves, measure

SHOWN_SHARES = (0.0, 0.05, 0.10, 0.166)


def print_audit(console: Console, result: AuditResult) -> None:
    """Print an audit's tables and verdict."""
    found, flipped = curves(result.frame), curves(flips_of(result.frame, result.candidates), ("attack_success",))
    ratios = next(iter(found.values()))["ratio"]
    nearest = {min(range(len(ratios)), key=lambda i: abs(ratios[i] - share)) for share in SHOWN_SHARES}
    worst = [
        max(range(len(ratios)), key=lambda i, own=own: own["attack_success"]["mean"][i] or 0) for own in found.values()
    ]
    shown = sorted(nearest | {len(ratios) - 1, *worst})
    data, config, splits = result.dataset, result.config, result.frame["split"].nunique()
    console.print(
        f"\n{model(config)} on {data['name']} ({' v '.join(data['classes'])}): {data['train']} training, "
        f"{data['valid']} validation, {data['test']} test rows, {splits} split(s)"
        + (f"; {data['unused']:,} rows unused, so that no group is divided" if data.get("unused") else ""),
        highlight=False,
    )
    error = Table("policy", *(f"{ratios[i]:.1%}" for i in shown), box=SIMPLE_HEAD)
    named = measure(config["objective"], config["score"])
    error.title = f"{named[0].upper()}{named[1:]} by share of poison"
    did = {"added": "is added to the training rows", "replaced": "replaces training rows at random"}.get(
        config["budget"], "stands in training rows that the attacker has chosen"
    )
    error.caption = f"poison {did}; mean ± half the 95 % interval over splits"
    if nothing := baseline(result.frame):
        error.caption += f"; {nothing}"
    if len(shown) < len(ratios):
        error.caption += f"; the report has {len(ratios) - len(shown)} more share(s)"
    refitted = tuned.has_any(result.frame)
    last = ("tuned, clean → end",) if refitted else ("λ clean → end", "‖w‖² clean → end")
    end = Table("policy", "tolerates", "labels alone", *last, box=SIMPLE_HEAD)
    end.title = f"At {ratios[-1]:.1%} poison"
    end.caption = (
        "labels alone: the label flips that were worst on the validation rows; others can be worse on the test rows"
    )
    for policy, curve in found.items():
        error.add_row(policy, *(cell(curve["attack_success"], i, share=True) for i in shown))
        norm = " → ".join("—" if (v := curve["weight_norm_sq"]["mean"][at]) is None else f"{v:.2f}" for at in (0, -1))
        own = result.frame[result.frame["policy"] == policy]
        set_to = (tuned.ends(own),) if refitted else (strengths(own), norm)
        labels = flipped[policy]["points"][-1] > 0  # none if only features may change
        flips = cell(flipped[policy]["attack_success"], -1, share=True) if labels else "—"
        end.add_row(policy, outcome(result, policy).tolerance, flips, *set_to)
    for table in (error, end):
        table.columns[0].no_wrap = True
        for column in table.columns[1:]:
            column.justify = "right"
        console.print(table)
    console.print("Verdict", style="bold")
    for sentence in result.verdict.summary:
        console.print(f"• {sentence}", highlight=False)
    for warning in result.verdict.warnings:
        console.print(f"! {warning}", style="yellow", highlight=False)
    threat = result.threat_model
    console.print(
        f"Threat model: the attacker aims at {threat['goal']}; knows {threat['knows']}; controls "
        f"{threat['controls']}; may change {threat['may_change']}. Validation rows: {threat['validation_set']}. "
        f"Not tested: {threat['not_tested']}.",
        highlight=False,
    )


def print_check(console: Console, result: CheckResult) -> None:
    """Print a check's table, how to read it, and a sentence on every method that does not simply agree."""
    at = result.setting
    steps = f"T = {at['inner_steps']}, η·curvature = {at['stability']:.2g}" if at["inner_steps"] else "solved"
    console.print(
        f"\n{at['model']} on {result.dataset}: {at['train']} training rows × {at['features']} features, {at['points']} "
        f"of them poison; {at['valid']} validation rows; λ = {at['log_strength']:.3g}; {steps}; {at['precision']} on "
        f"{at['device']}",
        highlight=False,
    )
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    for name in ("\nmethod", "\nspace"):
        table.add_column(name, no_wrap=True)
    for name in ("λ\nerror", "\ndiff.", "X_p\nerror", "\ndiff.", "\ntime", "\nmemory"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("\nverdict", no_wrap=True)
    for row in result.frame.to_dict("records"):
        is_reference = f"{row['method']} ({row['space']})" == result.reference
        numbers = [
            "ref." if is_reference and name.endswith("difference") else _small(row[name])
            for name in ("hyper_error", "hyper_difference", "poison_error", "poison_difference")
        ]
        costs = _scaled(row["seconds"], "s"), _scaled(row["temp_bytes"], "B")
        table.add_row(
            escape(row["method"]), row["space"], *numbers, *costs, row["verdict"], style=_style(row["verdict"])
        )
    console.print(table)
    console.print(
        f"\nerror: relative, against central differences in float64: along λ, and in X_p along the hypergradient and "
        f"{at['directions']} random directions. diff.: relative, against {result.reference or 'no method'}. Values up "
        f"to {_small(at['tolerance'])} agree. time: median of a few compiled calls. memory: XLA's temporary memory.",
        style="dim",
        highlight=False,
    )
    console.print("Verdict", style="bold")
    for sentence, style in sentences(result):
        console.print(f"• {sentence}", style=style, highlight=False, markup=False)


def print_plan(console: Console, plan: Plan) -> None:
    """Print what an audit would compute, and the time, memory and disk space that it needs."""
    policies, cells = len(plan.chains), plan.cells
    console.print(
        f"\n{plan.dataset}: {plan.splits} split(s) × {policies} policies × {plan.ratios} ratios = {cells} cells; "
        f"{plan.execution}"
        + (f", workers of {plan.threads} thread(s)" if plan.workers > 1 else "")
        + f"; {', '.join(sorted({_method(chain) for chain in plan.chains}))}",
        highlight=False,
    )
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("\npolicy", no_wrap=True)
    for name in (
        "hyper-\ngradients",
        "inner\nsteps",
        "trainings\ntuning λ",
        "checking\nλ",
        "re-\ntrainings",
        "a split\ntakes",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for chain, seconds in zip(plan.chains, plan.chain_seconds, strict=True):
        counts = (
            chain.hypergradients,
            chain.inner_steps,
            chain.trainings + chain.slopes,
            chain.checks,
            chain.evaluations,
        )
        table.add_row(escape(chain.policy), *(f"{count:,}" if count else "—" for count in counts), duration(seconds))
    console.print(table)
    took = f"{duration(plan.seconds)}" + (f", and {duration(plan.compiling)} of compiling" if plan.compiling else "")
    how = "by a short calibration" if plan.calibrated else "from counted operations, without compiling"
    told = (
        ("time", f"about {took} (within a factor of {plan.sure:g}, {how})"),
        ("memory", f"{gib(plan.memory)} ({gib(plan.step)} for the largest step, {gib(plan.rows)} for rows); "
         f"{gib(plan.free)} are free"),
        ("disk", gib(plan.disk)),
    )  # fmt: skip
    for name, text in told:
        console.print(f"{name:8}{text}", highlight=False, soft_wrap=True)
    for refusal in plan.refusals:
        console.print(f"! {refusal}", style="bold red", highlight=False, markup=False)
    for warning in plan.warnings:
        console.print(f"! {warning}", style="yellow", highlight=False, markup=False)


def print_refits(console: Console, plan: RefitPlan) -> None:
    """Print what an audit of estimators would compute, and how long it would take."""
    cells = f"{plan.splits} split(s) × {len(plan.victims)} defenders × {plan.ratios} ratios = {plan.cells} cells"
    console.print(f"\n{plan.dataset}: {cells}; {plan.execution}", highlight=False)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    table.add_column("\ndefender", no_wrap=True)
    for name in ("fits,\nat most", "one\ntakes", "fits as\nhe does", "one\ntakes", "a split\ntakes"):
        table.add_column(name, justify="right", no_wrap=True)
    for one in plan.victims:
        own = f"{one.fits:,}", duration(one.fit), f"{one.searches:,}", duration(one.search)
        table.add_row(escape(one.policy), *own, duration(one.seconds))
    console.print(table)
    took = duration(plan.seconds) + (f", and {duration(plan.compiling)} of compiling" if plan.compiling else "")
    console.print(f"time    about {took} (within a factor of {plan.sure:g}, by fits on clean rows)", highlight=False)


def _method(chain: ChainPlan) -> str:
    return f"{chain.method} ({chain.space})" if chain.method else "no hypergradients: only labels change"


def sentences(result: CheckResult) -> list[tuple[str, str]]:
    """Return the sentences on a check, each with its style."""
    at, frame = result.setting, result.frame
    told = []
    for name, part in (("λ", ("hyper",)), ("X_p", ("first", "others"))):
        doubt = max(result.differences[p]["uncertainty"] for p in part)
        rounding = max(result.differences[p]["rounding"] for p in part)
        if doubt > at["tolerance"]:
            why = "the derivative is near the rounding of A" if rounding > doubt / 2 else "A has jumps or kinks here"
            told.append((f"Central differences in {name} are uncertain to {doubt:.1e}: {why}.", "yellow"))
    if at["stability"] > 2:
        told.append(("η·curvature is above 2: inner training diverges. Lower the learning rate or λ.", "yellow"))
    notes = frame[(frame["verdict"] != "agrees") | (frame["note"] != "")]
    for (verdict, note), rows in notes.groupby(["verdict", "note"], sort=False):
        names = " and ".join(f"{m} ({s})" for m, s in zip(rows["method"], rows["space"], strict=True))
        told.append((f"{names} — {verdict}: {note}.", _style(str(verdict))))
    if (frame["verdict"] == "drifted").any():
        reason = "multiplies errors by up to 1/(1 − η·curvature); if η·curvature is 1 or more, iteration cannot find it"
        told.append((f"A step run backwards {reason}.", ""))
    if (frame["verdict"] == "rounding").any():
        reason = "as it does near divergence, or where a network's gradient jumps"
        told.append((f"Rounding changes the course of training, {reason}: use float64 or a smaller learning rate.", ""))
    used = frame[(frame["method"] == at["method"]) & (frame["space"] == at["space"])]["verdict"]
    for verdict in used:
        told.append((f"An audit with this configuration uses {at['method']} ({at['space']}): {verdict}.", ""))
    if result.ok:
        told.append(("Every method agrees, or says why it does not.", "green"))
    elif frame["verdict"].isin(PASSING).any():
        told.append(("The check failed: a method is wrong and does not say so.", "bold red"))
    else:
        told.append(("The check failed: no method was found to be right.", "bold red"))
    return told


def _style(verdict: str) -> str:
    return "bold red" if verdict in FAILING else "" if verdict == "agrees" else "yellow"


def _small(number: float) -> str:
    """Return a relative error: 3e-6, 0.12, 130."""
    if math.isnan(number):
        return "—"
    if number >= 0.1 or not number:
        return f"{float(f'{number:.2g}'):g}"
    digit, _, exponent = f"{number:.0e}".partition("e")
    return f"{digit}e{int(exponent)}"


def _scaled(number: float, unit: str) -> str:
    """Return a quantity with two digits and a prefix: 16 ms, 4.7 MB."""
    if math.isnan(number):
        return "—"
    exponent = int(np.clip(math.floor(math.log10(max(number, 1e-9)) / 3), -2, 3))
    return f"{float(f'{number / 1000.0**exponent:.2g}'):g} {('µ', 'm', '', 'k', 'M', 'G')[exponent + 2]}{unit}"
