"""How independent chains of work share cores, devices and machines; knows nothing of audits."""
