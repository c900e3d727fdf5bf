"""The fast core: vectorised BLAS/LAPACK kernels that know no networks."""
