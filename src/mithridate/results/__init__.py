"""What an audit found: records, verdict, figures, report, run directory."""
