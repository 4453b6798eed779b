"""Jacobians at the cost that their structure allows."""
