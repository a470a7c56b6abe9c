"""What the pages of this package share: who may call them, their style, and how they stay up to date."""
