"""Views: pages to look at what single heads do on one prompt, which work without a network."""

from induction_lens.views.view import AttentionView, HeadView, attention

__all__ = ["AttentionView", "HeadView", "attention"]
