"""How independent chains of work share cores, devices and machines; independent of audits."""
