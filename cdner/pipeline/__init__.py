"""Wires the pure stages to the store: plan, run ids, execution, resume. Prints nothing."""
