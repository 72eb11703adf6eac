"""Views: pages to look at what single heads do on one prompt, which work without a network."""

from induction_lens.views.attention import AttentionView, HeadView, attention

__all__ = ["AttentionView", "HeadView", "attention"]
