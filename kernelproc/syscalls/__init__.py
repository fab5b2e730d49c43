"""System calls: one function a call, grouped by noun, no state. ``table`` maps numbers to them."""
