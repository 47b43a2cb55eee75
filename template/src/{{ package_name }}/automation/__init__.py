"""What keeps a project going: proposals, alerts, updates from the template, reproduction."""
