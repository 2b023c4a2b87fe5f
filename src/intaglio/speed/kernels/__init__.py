"""Speed of single kernels: a file each, a suite of cases with the columns that show them."""
