"""The results of an audit: records, verdict, figures, report, run directory."""
