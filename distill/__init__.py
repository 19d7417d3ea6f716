"""The recipe's rooms: one for each step, and what they share.

Scripts import from here, never the other way.
"""
