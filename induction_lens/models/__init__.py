"""The only package that names a TransformerLens class or a hook name."""
