"""Commands for those who keep the template."""
