"""From what a site sees to the causal importance of each of its subcomponents: functions, then sigmoids."""
