"""The verbs of ``quidnunc sim``, one module each."""
