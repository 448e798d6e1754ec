"""The multidimensional confusion quantification model (MCQM): which type is taken for which."""
