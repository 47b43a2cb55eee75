"""Secrets in addresses: no message, log or file shows them."""

import os
import re

# Parts of the names of parameters in an address whose values are masked.
NAMES = "sig|token|secret|password|pwd|key|credential|expires|date"
VARIABLE = re.compile(r"\$(?:(\w+)|\{([^}]*)\})")
SHORT = 4  # a shorter value is no secret, and would be found in ordinary words


def mask_secrets(text: str) -> str:
    """Replace passwords and signatures in addresses, which change while the address stays the same.

    Args:
        text: An address, or a message with addresses.

    Returns:
        The text with `***` in place of each secret.
    """
    text = re.sub(r"(://[^:/@\s]*):[^/@\s]*@", r"\1:***@", text)
    text = re.sub(r"(https?://)[^:/@\s]+@", r"\1***@", text)  # a token; elsewhere it is a user's name
    return re.sub(rf"(?i)([?&][^=&\s]*(?:{NAMES})[^=&\s]*)=[^&\s'\"]*", r"\1=***", text)


def mask_variables(text: str, template: str) -> str:
    """Replace the values of environment variables by their names.

    Args:
        text: A message about an address, with the values.
        template: The address as the user wrote it, with the variables: `https://host/$TOKEN/rows.csv`.

    Returns:
        The message without values, and without other secrets.
    """
    for match in VARIABLE.finditer(template):
        value = os.environ.get(match[1] or match[2], "")
        if len(value) >= SHORT:
            text = text.replace(value, match[0])
    return mask_secrets(text)
