"""The plan of an audit before it is started: what it computes (`workload`), in how much memory (`costs`) and time."""

from mithridate.planning.plans import Plan, duration, gib, plan

__all__ = ["Plan", "duration", "gib", "plan"]
