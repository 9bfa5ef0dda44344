"""Networks that know tensors only: local, context, head."""
