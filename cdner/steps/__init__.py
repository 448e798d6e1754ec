"""The steps of an experiment, one file each: what a step needs, computes and stores."""
