"""The plan of an audit before it is started: what it computes (`workload`), in how much memory (`costs`) and time."""

from mithridate.planning.plans import ChainPlan, Plan, duration, gib, plan
from mithridate.planning.refits import RefitPlan, plan_refits

__all__ = ["ChainPlan", "Plan", "RefitPlan", "duration", "gib", "plan", "plan_refits"]
