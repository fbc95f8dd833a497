"""The plan of an audit before it starts: what it computes (`workload`), and the memory (`costs`) and time it needs."""

from mithridate.planning.plans import ChainPlan, Plan, duration, gib, plan
from mithridate.planning.refits import RefitPlan, plan_refits

__all__ = ["ChainPlan", "Plan", "RefitPlan", "duration", "gib", "plan", "plan_refits"]
