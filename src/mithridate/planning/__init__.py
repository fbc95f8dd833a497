"""The plan of an audit before it is started: what it computes (`workload`), in how much memory (`costs`) and time."""

from mithridate.planning.plans import ChainPlan, Plan, duration, gib, plan

__all__ = ["ChainPlan", "Plan", "duration", "gib", "plan"]
